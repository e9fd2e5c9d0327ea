// The answer: the best class, bars for the next ones, the model's own pixels, and how long it took.

import { percent } from "./numbers.js";
import { sentenceOf } from "./server.js";

const SETTLED_MS = 700; // an answer that stands this long is spoken
const REMEMBERED = 50; // latencies of which the median is told

export class Results {
  #parts;
  #latencies = [];
  #speaking = 0;

  constructor() {
    const ids = ["result", "spoken", "placeholder", "problem", "answer", "best-label", "best-share", "saw", "saw-size", "bars", "latency"];
    this.#parts = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));
  }

  /** Nothing is asked; `hint` says how to. */
  empty(hint) {
    this.#state("empty");
    this.#parts.placeholder.textContent = hint;
    this.#say("", 0);
  }

  /** The answer is old: another is on its way. */
  wait() {
    if (this.#parts.result.dataset.state === "shown") this.#state("old");
  }

  /** What went wrong with this one input. */
  problem(sentence) {
    this.#state("problem");
    this.#parts.problem.textContent = sentence;
    this.#say("", 0);
  }

  show({ answer, milliseconds }) {
    const { classes, error, input } = answer.results[0];
    if (error) {
      this.problem(sentenceOf(error.message));
      return;
    }
    this.#state("shown");
    const [best] = classes;
    this.#parts["best-label"].textContent = best.label;
    this.#parts["best-label"].dataset.length = best.label.length > 3 ? "word" : "sign";
    this.#parts["best-share"].textContent = percent(best.probability) + (best.probability < 0.5 ? ", unsure" : "");
    this.#showBars(classes);
    if (input) this.#showInput(input);
    this.#showLatency(milliseconds);
    this.#say(`${best.label}, ${percent(best.probability)}`, SETTLED_MS);
  }

  #showBars(classes) {
    const { bars } = this.#parts;
    while (bars.children.length > classes.length) bars.lastChild.remove();
    while (bars.children.length < classes.length) bars.append(newBar());
    classes.forEach(({ label, probability }, rank) => {
      const [name, track, share] = bars.children[rank].children;
      name.textContent = label;
      name.title = label;
      share.textContent = percent(probability);
      track.firstChild.style.transform = `scaleX(${probability})`;
    });
  }

  #showInput({ height, width, channels, pixels }) {
    const { saw } = this.#parts;
    const bytes = Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0));
    const image = new ImageData(width, height);
    for (let pixel = 0; pixel < width * height; pixel += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        image.data[4 * pixel + channel] = bytes[pixel * channels + Math.min(channel, channels - 1)];
      }
      image.data[4 * pixel + 3] = 255;
    }
    if (saw.width !== width || saw.height !== height) Object.assign(saw, { width, height });
    saw.getContext("2d").putImageData(image, 0, 0);
    const size = `${width} × ${height}, ${channels === 1 ? "grey" : "colour"}`;
    this.#parts["saw-size"].textContent = size;
    saw.setAttribute("aria-label", `The pixels that the model saw, ${size}`);
  }

  #showLatency(milliseconds) {
    this.#latencies = [...this.#latencies, milliseconds].slice(-REMEMBERED);
    const sorted = this.#latencies.toSorted((one, other) => one - other);
    const median = sorted[Math.floor(sorted.length / 2)];
    this.#parts.latency.textContent = `Latency ${inMs(milliseconds)}${sorted.length > 1 ? `, median ${inMs(median)}` : ""}`;
  }

  #state(state) {
    const { result, placeholder, problem, answer, bars, latency } = this.#parts;
    result.dataset.state = state;
    placeholder.hidden = state !== "empty";
    problem.hidden = state !== "problem";
    answer.hidden = bars.hidden = latency.hidden = state === "empty" || state === "problem";
  }

  #say(text, after) {
    clearTimeout(this.#speaking);
    this.#speaking = setTimeout(() => {
      if (this.#parts.spoken.textContent !== text) this.#parts.spoken.textContent = text;
    }, after);
  }
}

function newBar() {
  const row = document.createElement("li");
  const [name, track, share] = ["name", "track", "share"].map((kind) => {
    const part = document.createElement("span");
    part.className = kind;
    return part;
  });
  track.setAttribute("aria-hidden", "true");
  track.append(document.createElement("span"));
  row.append(name, track, share);
  return row;
}

function inMs(milliseconds) {
  return `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}
