// Charts as SVG: lines over epochs, and accuracy against confidence.

import { shape } from "./dom.js";
import { interval, percent } from "./numbers.js";

const [WIDTH, HEIGHT] = [460, 270];
const EDGE = { left: 52, right: 24, top: 12, bottom: 36 };

/** Lines over epochs on a logarithmic axis: `lines` are {name, kind, values}, where a missing value is null. */
export function epochChart(title, lines, format) {
  const values = lines.flatMap((line) => line.values).filter((value) => value > 0);
  const epochs = lines[0].values.length;
  const ticks = powers(Math.min(...values), Math.max(...values));
  const [bottom, top] = [Math.min(...values, ticks[0]), Math.max(...values, ticks.at(-1))];
  const x = (epoch) => across(epochs === 1 ? 0.5 : epoch / (epochs - 1));
  const y = (value) => up(Math.log(value / bottom) / Math.log(top / bottom));
  const picture = frame(title);
  grid(picture, { y: ticks.map((value) => [y(value), format(value)]), x: epochTicks(epochs).map((epoch) => [x(epoch - 1), epoch]), name: "epoch" });
  for (const { kind, values: series } of lines) {
    const points = series.map((value, epoch) => (value > 0 ? [x(epoch), y(value)] : null));
    picture.append(shape("path", { d: path(points), class: `line ${kind}` }));
  }
  return picture;
}

/** Accuracy against confidence, each bin with its 95 % interval; what lies on the diagonal says what is true. */
export function calibrationChart(title, series) {
  const x = across;
  const y = up;
  const picture = frame(title);
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1];
  grid(picture, { y: ticks.map((share) => [y(share), percent(share, 0)]), x: ticks.map((share) => [x(share), percent(share, 0)]), name: "probability of the prediction" });
  picture.append(shape("path", { d: path([[x(0), y(0)], [x(1), y(1)]]), class: "line ideal" }));
  for (const { kind, bins } of series) {
    for (const { images, confidence, accuracy } of bins.filter((bin) => bin.images > 0)) {
      const [low, high] = interval(accuracy * images, images);
      picture.append(shape("path", { d: path([[x(confidence), y(low)], [x(confidence), y(high)]]), class: `whisker ${kind}` }));
      picture.append(shape("circle", { cx: x(confidence), cy: y(accuracy), r: 4, class: `point ${kind}` }));
    }
  }
  return picture;
}

function frame(title) {
  return shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title, class: "chart" });
}

function across(share) {
  return EDGE.left + share * (WIDTH - EDGE.left - EDGE.right);
}

function up(share) {
  return HEIGHT - EDGE.bottom - share * (HEIGHT - EDGE.top - EDGE.bottom);
}

function grid(picture, { x, y, name }) {
  for (const [place, text] of y) {
    picture.append(shape("path", { d: path([[EDGE.left, place], [WIDTH - EDGE.right, place]]), class: "grid" }));
    picture.append(shape("text", { x: EDGE.left - 8, y: place + 4, class: "end" }, String(text)));
  }
  for (const [place, text] of x) picture.append(shape("text", { x: place, y: HEIGHT - EDGE.bottom + 16, class: "middle" }, String(text)));
  picture.append(shape("text", { x: across(0.5), y: HEIGHT - 4, class: "middle name" }, name));
}

/** A path through points; a missing one leaves a gap. */
function path(points) {
  let pen = "M";
  let text = "";
  for (const point of points) {
    if (point) text += `${pen}${point.map((place) => place.toFixed(1)).join(" ")}`;
    pen = point ? "L" : "M";
  }
  return text;
}

function powers(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const digit of [1, 3]) {
      const value = digit * 10 ** power;
      if (value >= low * 0.6 && value <= high * 1.7) ticks.push(value);
    }
  }
  return ticks;
}

function epochTicks(epochs) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((each) => epochs / each <= 8) ?? 1000;
  return [1, ...Array.from({ length: Math.floor(epochs / step) }, (_, index) => (index + 1) * step)].filter((epoch, index, all) => all.indexOf(epoch) === index && (epoch === 1 || step === 1 || epoch > step / 2));
}
