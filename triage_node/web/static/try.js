// Files and whole folders dropped on the page or chosen there: sent with a progress bar, as the form would send them.
"use strict";

const form = document.getElementById("give");
const drop = document.getElementById("drop");
const said = document.getElementById("said");
const choosers = [document.getElementById("files"), document.getElementById("folder")];

function say(text) {
  said.textContent = text;
  said.hidden = !text;
  document.getElementById("sending").hidden = true;
  for (const each of form.querySelectorAll("button, input")) each.disabled = false;
}

// What the node would refuse after it came is refused before it goes.
function wrong(files) {
  const megabytes = files.reduce((sum, file) => sum + file.size, 0) / 1e6;
  if (!files.length) return "No file was chosen.";
  if (megabytes > Number(form.dataset.mostMb))
    return `This is more than ${form.dataset.mostMb} MB. Give one series at a time.`;
  if (files.length > Number(form.dataset.mostFiles))
    return `These are more than ${form.dataset.mostFiles} files. Give one series at a time.`;
  return "";
}

function send(files) {
  const fault = wrong(files);
  if (fault) return say(fault);
  const body = new FormData();
  body.append("csrf", form.elements.csrf.value);
  for (const file of files) body.append("file", file, "file"); // a name may be a patient's: it stays here
  say("");
  for (const each of form.querySelectorAll("button, input")) each.disabled = true;
  const request = new XMLHttpRequest();
  request.responseType = "json";
  request.upload.addEventListener("progress", (event) => {
    const share = Math.round((100 * event.loaded) / event.total);
    document.getElementById("sending").hidden = false;
    document.getElementById("sent").value = share;
    const told = share < 100 ? `${10 * Math.floor(share / 10)} % sent` : "being unpacked and looked through";
    const spoken = document.getElementById("share");
    if (spoken.textContent !== told) spoken.textContent = told; // it is read aloud: by tenths, and each once
  });
  request.addEventListener("load", () => {
    if (request.status === 201) location.assign(request.response.path);
    else if (request.status === 401) location.assign("/login");
    else say(request.response?.error ?? "The node did not take it.");
  });
  request.addEventListener("error", () => say("The connection to the node broke off. Is it more than the node takes?"));
  request.open("POST", "/try.json");
  request.send(body);
}

async function filesIn(entry) {
  if (entry instanceof File) return [entry];
  if (entry.isFile) return [await new Promise((found, failed) => entry.file(found, failed))];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    const some = await new Promise((found, failed) => reader.readEntries(found, failed)); // a hundred at a time
    if (!some.length) return files;
    for (const each of some) files.push(...(await filesIn(each)));
    if (files.length > Number(form.dataset.mostFiles)) return files;
  }
}

for (const name of ["dragenter", "dragover"])
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  if (form.querySelector("button").disabled) return; // it sends
  const dropped = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const entries = dropped.map((item) => item.webkitGetAsEntry() ?? item.getAsFile()); // now: they are gone after this turn
  try {
    send((await Promise.all(entries.map(filesIn))).flat());
  } catch {
    say("The browser could not read what was dropped.");
  }
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  send(choosers.flatMap((chooser) => [...chooser.files]));
});
document.querySelector(".script").hidden = false;
