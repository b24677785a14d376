// How far a trial is; at its end the page is loaded anew.
"use strict";

const trial = document.getElementById("trial");
const stale = document.getElementById("stale");

async function ask() {
  try {
    const answer = await fetch(trial.dataset.address);
    if (answer.status === 401 || answer.status === 404) return location.reload();
    if (!answer.ok) throw new Error(answer.status);
    const told = await answer.json();
    if (told.ended) return location.reload();
    const said = document.getElementById("said");
    if (said.textContent !== told.said) said.textContent = told.said; // what is the same is not announced again
    document.getElementById("elapsed").textContent = told.elapsed || told.ago;
    document.title = `Trying (${told.said})`;
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
  setTimeout(ask, 1000);
}

setTimeout(ask, 500);
