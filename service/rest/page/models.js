// The choice among the models that are served.

import { dataset, percent, short } from "./numbers.js";
import { keep, recall } from "./storage.js";

const KEPT = "convserve.model";

export class Models extends EventTarget {
  #select = document.getElementById("model");
  #facts = document.getElementById("facts");
  #link = document.getElementById("about-link");
  #models = [];
  #listed = "";

  constructor() {
    super();
    this.#select.addEventListener("change", () => this.#choose());
  }

  /** The chosen model; undefined where none is served. */
  get chosen() {
    return this.#models.find((model) => keyOf(model) === this.#select.value);
  }

  /** The chosen model as calls name it: without a version where it has but one. */
  get address() {
    const { name, version } = this.chosen;
    return this.#models.filter((model) => model.name === name).length > 1 ? { name, version } : { name };
  }

  /** A served model by name and version. */
  find(name, version) {
    return this.#models.find((model) => model.name === name && model.version === version);
  }

  /** Takes the server's list; keeps the choice where that model is still served. */
  update(models) {
    const listed = JSON.stringify(models);
    if (listed === this.#listed) return;
    this.#listed = listed;
    const before = this.chosen ? keyOf(this.chosen) : recall(KEPT);
    this.#models = models;
    this.#select.replaceChildren(...groups(models));
    this.#select.disabled = models.length === 0;
    const another = models.find(({ name }) => before.startsWith(`${name}/`)); // version, where that one is gone
    const wanted = models.find((model) => keyOf(model) === before) ?? another ?? preferred(models);
    if (wanted) this.#select.value = keyOf(wanted);
    this.#choose();
  }

  #choose() {
    const model = this.chosen;
    this.#link.hidden = !model;
    if (model) {
      this.#link.href = `#/models/${encodeURIComponent(model.name)}/${encodeURIComponent(model.version)}`;
      this.#facts.textContent = factsOf(model).map(unbroken).join("\u00a0· ");
      keep(KEPT, keyOf(model));
    } else {
      this.#facts.textContent = "This server has no model that classifies images.";
    }
    this.dispatchEvent(new Event("change"));
  }
}

/** The size and kind of images that a model takes. */
export function imageOf({ image: { height, width, channels } }) {
  return `${width} × ${height} ${channels === 1 ? "grey" : "colour"}`;
}

function factsOf(model) {
  const facts = [];
  if (model.test_accuracy !== null) facts.push(`${percent(model.test_accuracy)} on ${dataset(model.dataset)}`);
  facts.push(imageOf(model));
  if (model.parameters) facts.push(`${short(model.parameters)} parameters`);
  if (model.precision) facts.push(model.precision);
  return facts;
}

function unbroken(text) {
  return text.replaceAll(" ", "\u00a0");
}

function keyOf({ name, version }) {
  return `${name}/${version}`;
}

function groups(models) {
  const names = [...new Set(models.map((model) => model.dataset))];
  return names.map((name) => {
    const group = document.createElement("optgroup");
    group.label = dataset(name);
    for (const model of models.filter((each) => each.dataset === name)) {
      const accuracy = model.test_accuracy === null ? "" : ` — ${percent(model.test_accuracy)}`;
      const hasOthers = models.filter((each) => each.name === model.name).length > 1;
      group.append(new Option(model.name + (hasOthers ? `, version ${model.version}` : "") + accuracy, keyOf(model)));
    }
    return group;
  });
}

/** Where nothing was chosen: the model of one channel, on which one can draw, that is most often right. */
function preferred(models) {
  const drawable = models.filter(({ image }) => image.channels === 1);
  return (drawable.length ? drawable : models).toSorted((one, other) => (other.test_accuracy ?? 0) - (one.test_accuracy ?? 0))[0];
}
