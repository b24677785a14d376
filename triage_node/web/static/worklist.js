// Keeps the worklist as the node has it, without losing place or focus; turns the clocks.
"use strict";

const rows = document.getElementById("rows");
const stale = document.getElementById("stale");
const nodeIsAhead = Date.parse(rows.querySelector("[data-now]").dataset.now) - Date.now();

function ago(since) {
  const seconds = Math.max(0, Math.floor((Date.now() + nodeIsAhead - Date.parse(since)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function turnClocks() {
  for (const clock of rows.querySelectorAll("time.since")) {
    const text = ago(clock.dateTime);
    if (clock.textContent !== text) clock.textContent = text;
  }
}

// A row that says what it said stays the very element it was, with its focus.
function replaceRows(html) {
  const fresh = document.createElement("div");
  fresh.innerHTML = html;
  const focused = document.activeElement?.closest?.("[id]")?.id;
  const place = document.activeElement?.closest?.("tr")?.getBoundingClientRect().top;
  for (const row of fresh.querySelectorAll("tr[id]")) {
    const old = document.getElementById(row.id);
    if (old && withoutClock(old) === withoutClock(row)) row.replaceWith(old);
  }
  rows.replaceChildren(...fresh.childNodes);
  turnClocks();
  const again = focused && document.getElementById(focused);
  if (again && rows.contains(again) && document.activeElement !== again) again.focus({ preventScroll: true });
  const moved = again?.closest("tr")?.getBoundingClientRect().top;
  if (place !== undefined && moved !== undefined) window.scrollBy(0, moved - place);
}

function withoutClock(row) {
  const copy = row.cloneNode(true);
  for (const clock of copy.querySelectorAll("time.since")) clock.textContent = "";
  return copy.outerHTML;
}

async function refresh() {
  const answer = await fetch(`/worklist/rows${location.search}`);
  if (answer.status === 401) return location.reload();
  if (!answer.ok) throw new Error(answer.status);
  replaceRows(await answer.text());
  const stat = rows.querySelector("#counts .STAT")?.textContent.match(/\d+/)?.[0];
  const escalated = rows.querySelector(".escalated") ? "! " : "";
  document.title = `${escalated}${stat ? `(${stat}) ` : ""}Worklist`;
}

let seen = null;
function listen() {
  const stream = new EventSource(`/events${location.search}`);
  stream.addEventListener("state", async (event) => {
    try {
      if (event.data !== seen) await refresh();
      seen = event.data;
      stale.hidden = true;
    } catch {
      stale.hidden = false;
    }
  });
  stream.onerror = () => {
    stale.hidden = false;
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    document.querySelector("input[type=search]").focus();
  }
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  if (!step || typing) return;
  const links = [...rows.querySelectorAll("a.open")];
  if (!links.length) return;
  const now = links.indexOf(document.activeElement);
  event.preventDefault();
  links[Math.min(links.length - 1, Math.max(0, now + step))].focus();
});

setInterval(turnClocks, 1000);
listen();
