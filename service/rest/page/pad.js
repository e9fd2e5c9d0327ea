// The drawing pad: strokes by mouse, finger, pen or keys, kept as lines so that any size can be drawn from them.

import { keep, recall } from "./storage.js";

const WIDTH = 0.07; // of the pad's side; MNIST's strokes are about this wide
const STEP = 0.05; // of the pad's side, for one press of an arrow key
const SENT = 280; // pixels of the side of what is sent
const KEPT = "convserve.drawing";
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad extends EventTarget {
  #canvas;
  #states = [[]]; // lists of strokes, the last is what is seen; a stroke is a list of [x, y, width], 0 to 1
  #pointer = null;
  #pen = [0.5, 0.5]; // where keys have moved the pen to
  #penDown = false;
  #byKeys = false;
  #frame = 0;

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    this.#recall();
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(name, (event) => this.#end(event));
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    canvas.addEventListener("focus", () => this.#showPen(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => this.#showPen(false));
    new ResizeObserver(() => this.#paint()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  get isEmpty() {
    return this.#strokes.length === 0;
  }

  get canUndo() {
    return this.#states.length > 1;
  }

  undo() {
    if (!this.canUndo) return;
    this.#states.pop();
    this.#lift();
    this.#changed();
  }

  /** Takes all strokes away; undo brings them back. */
  clear() {
    if (this.isEmpty) return;
    this.#states.push([]);
    this.#lift();
    this.#changed();
  }

  /** The drawing as a PNG file: light on dark as MNIST has it, or dark on light. */
  async file(lightOnDark) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SENT;
    draw(canvas.getContext("2d"), SENT, this.#strokes, ...(lightOnDark ? ["#fff", "#000"] : ["#000", "#fff"]));
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  get #strokes() {
    return this.#states.at(-1);
  }

  /** Ends a stroke under way. */
  #lift() {
    this.#penDown = false;
    this.#pointer = null;
  }

  #begin(event) {
    if (this.#pointer !== null || event.button !== 0) return;
    event.preventDefault(); // no selection, no scrolling; the focus is set by hand
    this.#canvas.focus({ preventScroll: true, focusVisible: false });
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.#penDown = false;
    this.#showPen(false);
    this.#startStroke(this.#point(event));
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const parts = event.getCoalescedEvents?.() ?? [];
    for (const part of parts.length ? parts : [event]) this.#strokes.at(-1).push(this.#point(part));
    this.#changed();
  }

  #end(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.#changed();
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    const pressed = event.pointerType === "pen" && event.pressure > 0 ? 0.5 + event.pressure : 1;
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, WIDTH * pressed];
  }

  #startStroke(point) {
    this.#states.push([...this.#strokes, [point]]);
    this.#changed();
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) this.#walk(arrow, event.shiftKey ? STEP / 5 : STEP);
    else if (event.key === " ") this.#togglePen();
    else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else return;
    event.preventDefault();
  }

  #walk(arrow, step) {
    this.#pen = this.#pen.map((place, axis) => Math.min(1, Math.max(0, place + arrow[axis] * step)));
    this.#showPen(true);
    if (!this.#penDown) return;
    this.#strokes.at(-1).push([...this.#pen, WIDTH]);
    this.#changed();
  }

  #togglePen() {
    this.#penDown = !this.#penDown;
    this.#showPen(true);
    if (this.#penDown) this.#startStroke([...this.#pen, WIDTH]);
    this.dispatchEvent(new CustomEvent("pen", { detail: this.#penDown }));
  }

  #showPen(shown) {
    this.#byKeys = shown;
    this.#repaint();
  }

  #changed() {
    this.#repaint();
    if (this.#pointer === null) this.#keep(); // once for each stroke
    this.dispatchEvent(new Event("change"));
  }

  #repaint() {
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    this.#frame = 0;
    const side = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (!side) return; // hidden
    if (this.#canvas.width !== side) this.#canvas.width = this.#canvas.height = side;
    const style = getComputedStyle(this.#canvas);
    const context = this.#canvas.getContext("2d");
    draw(context, side, this.#strokes, style.getPropertyValue("--ink"), style.getPropertyValue("--paper"));
    if (this.#byKeys) drawPen(context, side, this.#pen, style.getPropertyValue("--accent"), this.#penDown);
  }

  #keep() {
    const strokes = this.#strokes.map((stroke) => stroke.map((point) => point.map((value) => Number(value.toFixed(4)))));
    keep(KEPT, JSON.stringify(strokes));
  }

  #recall() {
    const strokes = JSON.parse(recall(KEPT) || "[]");
    if (strokes.length) this.#states.push(strokes);
  }
}

/** Strokes as smooth lines: through the middles between points, bent towards the points. */
function draw(context, side, strokes, ink, paper) {
  context.fillStyle = paper;
  context.fillRect(0, 0, side, side);
  context.strokeStyle = context.fillStyle = ink;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) drawStroke(context, side, stroke);
}

function drawStroke(context, side, stroke) {
  const [x, y, width] = stroke[0].map((value) => value * side);
  context.beginPath();
  context.arc(x, y, width / 2, 0, 2 * Math.PI);
  context.fill();
  let from = [x, y];
  for (let index = 1; index < stroke.length; index += 1) {
    const [bendX, bendY] = stroke[index - 1].map((value) => value * side);
    const [nextX, nextY, nextWidth] = stroke[index].map((value) => value * side);
    const isLast = index === stroke.length - 1;
    const to = isLast ? [nextX, nextY] : [(bendX + nextX) / 2, (bendY + nextY) / 2];
    context.beginPath();
    context.lineWidth = nextWidth;
    context.moveTo(...from);
    context.quadraticCurveTo(bendX, bendY, ...to);
    context.stroke();
    from = to;
  }
}

function drawPen(context, side, [x, y], colour, isDown) {
  context.beginPath();
  context.arc(x * side, y * side, (WIDTH / 2) * side, 0, 2 * Math.PI);
  context.lineWidth = Math.max(2, side / 150);
  context.strokeStyle = context.fillStyle = colour;
  if (isDown) context.fill();
  else context.stroke();
}
