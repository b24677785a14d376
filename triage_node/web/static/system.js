// Keeps the system page as the node has it. What says the same stays the very element it was, with focus and place.
"use strict";

const EVERY_MS = 5000;
const parts = document.getElementById("parts");
const stale = document.getElementById("stale");

function become(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  const alike = before.length > 0 && before.length === after.length && old.cloneNode().isEqualNode(fresh.cloneNode());
  if (alike) before.forEach((child, index) => become(child, after[index]));
  else old.replaceWith(fresh);
}

async function refresh() {
  const answer = await fetch("/system/parts");
  if (answer.status === 401 || answer.status === 403) return location.reload();
  if (!answer.ok) throw new Error(answer.status);
  const fresh = parts.cloneNode();
  fresh.innerHTML = `\n${await answer.text()}`;
  const focused = document.activeElement?.id;
  become(parts, fresh);
  if (focused && document.activeElement.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

async function keep() {
  try {
    if (!document.hidden) await refresh();
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
  setTimeout(keep, EVERY_MS);
}

setTimeout(keep, EVERY_MS);
