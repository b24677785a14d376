// Slices with the segmentation on them (NiiVue), and the strip that shows where the probability is high.
"use strict";

const told = JSON.parse(document.getElementById("viewer").textContent);
const canvas = document.getElementById("canvas");
const slider = document.getElementById("slice");
const where = document.getElementById("where");
const levels = document.getElementById("levels");
const slices = Math.ceil(told.slices / told.per);
const hidden = new Set();
let viewer = null;
let filled = null;
let outlined = null;

function labels() {
  const shown = told.colors.map((_, index) => !hidden.has(index + 1) && style.value !== "none");
  return {
    R: [0, ...told.colors.map((color) => color[0])],
    G: [0, ...told.colors.map((color) => color[1])],
    B: [0, ...told.colors.map((color) => color[2])],
    A: [0, ...shown.map((each) => (each ? 255 : 0))],
    I: [0, ...told.colors.map((_, index) => index + 1)],
    labels: ["", ...told.colors.map(() => "")],
  };
}

const style = document.getElementById("style");

function paint() {
  const mask = viewer?.volumes[1];
  if (!mask) return;
  filled ??= mask.img;
  outlined ??= outlines(filled, mask.hdr.dims[1], mask.hdr.dims[2]);
  mask.img = style.value === "outline" ? outlined : filled;
  mask.setColormapLabel(labels());
  viewer.setOpacity(1, style.value === "outline" ? 1 : 0.45);
  viewer.updateGLVolume();
}

// Of each label on each slice, the pixels that touch another one.
function outlines(mask, width, height) {
  const edges = new mask.constructor(mask.length);
  for (let at = 0; at < mask.length; at += 1) {
    const label = mask[at];
    if (!label) continue;
    const x = at % width;
    const y = Math.floor(at / width) % height;
    const inside =
      x > 0 && x < width - 1 && y > 0 && y < height - 1 &&
      mask[at - 1] === label && mask[at + 1] === label && mask[at - width] === label && mask[at + width] === label;
    if (!inside) edges[at] = label;
  }
  return edges;
}

function show(slice) {
  const index = Math.min(slices - 1, Math.max(0, slice));
  slider.value = index;
  const first = index * told.per + 1;
  const last = Math.min(told.slices, first + told.per - 1);
  where.textContent = `${first === last ? first : `${first} to ${last}`} of ${told.slices}`;
  const at = document.querySelector("#strip .here");
  if (at) at.setAttribute("x", index * told.per);
  if (!viewer?.volumes[0]) return;
  viewer.scene.crosshairPos[2] = (index + 0.5) / slices;
  viewer.drawScene();
}

function tellLevels() {
  const { cal_min: low, cal_max: high } = viewer.volumes[0];
  levels.textContent = `${Math.round(low)} to ${Math.round(high)} HU`;
}

function drawStrip() {
  const strip = document.getElementById("strip");
  const bar = (x, width, height, name) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ x, y: 10 - height, width, height, class: name }))
      rect.setAttribute(key, value);
    strip.append(rect);
  };
  bar(0, told.per, 10, "here");
  told.probabilities.forEach((each, index) => {
    const any = each[0] ?? 0;
    bar(index + 0.1, 0.8, Math.max(0.3, 10 * any), any >= 0.5 ? "high" : "low");
  });
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    show(Math.floor((((event.clientX - box.left) / box.width) * told.slices) / told.per));
  });
}

async function open() {
  const { Niivue, DRAG_MODE, SLICE_TYPE } = window.niivue;
  canvas.hidden = false;
  const made = new Niivue({
    isRadiologicalConvention: true,
    show3Dcrosshair: false,
    crosshairWidth: 0,
    isColorbar: false,
    isOrientCube: false,
    isRuler: false,
    backColor: [0, 0, 0, 1],
    sliceType: SLICE_TYPE.AXIAL,
    dragAndDropEnabled: false,
    loadingText: "",
    logLevel: "error",
  });
  made.setMouseEventConfig({
    leftButton: { primary: DRAG_MODE.windowing },
    rightButton: DRAG_MODE.pan,
    centerButton: DRAG_MODE.pan,
  });
  await made.attachToCanvas(canvas);
  const volumes = [{ url: `${told.files}/ct.nii.gz`, colormap: "gray", cal_min: 0, cal_max: 80 }];
  if (told.mask) volumes.push({ url: `${told.files}/mask.nii.gz`, opacity: 1 });
  await made.loadVolumes(volumes);
  viewer = made;
  viewer.setInterpolation(false);
  viewer.onIntensityChange = tellLevels;
  viewer.onLocationChange = (data) => {
    const index = Math.round(data.vox[2]);
    if (index !== Number(slider.value)) show(index);
  };
  paint();
  tellLevels();
  show(Number(slider.value));
  document.getElementById("picture").hidden = true;
  document.body.dataset.viewer = "ready";
}

slider.addEventListener("input", () => show(Number(slider.value)));
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.ctrlKey) {
      const [x, y, z, zoom] = viewer.scene.pan2Dxyzmm;
      viewer.setPan2Dxyzmm([x, y, z, Math.min(8, Math.max(1, zoom * (event.deltaY < 0 ? 1.1 : 0.9)))]);
    } else {
      show(Number(slider.value) + Math.sign(event.deltaY));
    }
  },
  { capture: true, passive: false },
);
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener(
  "keydown",
  (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 5, PageUp: -5 }[event.key];
    event.stopImmediatePropagation();
    if (!step) return;
    event.preventDefault();
    show(Number(slider.value) + step);
  },
  { capture: true },
);
document.getElementById("window").addEventListener("change", (event) => {
  const [low, high] = event.target.value.split(",").map(Number);
  viewer.volumes[0].cal_min = low;
  viewer.volumes[0].cal_max = high;
  viewer.updateGLVolume();
  tellLevels();
});
style.addEventListener("change", paint);
document.getElementById("whole").addEventListener("click", () => viewer.setPan2Dxyzmm([0, 0, 0, 1]));
for (const box of document.querySelectorAll(".toggle"))
  box.addEventListener("change", () => {
    const label = Number(box.dataset.label);
    if (box.checked) hidden.delete(label);
    else hidden.add(label);
    paint();
  });

drawStrip();
show(Number(slider.value));
open().catch((error) => {
  console.error(error);
  canvas.hidden = true;
  document.getElementById("nothing").hidden = false;
  document.body.dataset.viewer = "none";
});
