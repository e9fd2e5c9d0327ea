// The page put together: what is drawn or dropped goes to the chosen model, and its answer to the bars.

import { About } from "./about.js";
import { Asking } from "./asking.js";
import { Connection } from "./connection.js";
import { Models } from "./models.js";
import { Pad } from "./pad.js";
import { Pictures } from "./pictures.js";
import { Results } from "./results.js";
import { Server } from "./server.js";
import { TokenDialog } from "./token.js";

const element = (id) => document.getElementById(id);
const HINTS = { draw: "The answer appears here while you draw.", picture: "The answer appears here when there is a picture." };

const server = new Server();
const tokenDialog = new TokenDialog(server);
const connection = new Connection(server, tokenDialog);
const asking = new Asking(server, connection);
const models = new Models();
const pad = new Pad(element("pad"));
const pictures = new Pictures(Number(document.querySelector("meta[name=max-bytes]").content));
const results = new Results();
const about = new About(server, connection, (...place) => models.find(...place), element("about"));

let channels = 0; // of the model that was chosen before

function mode() {
  return element("mode-draw").checked ? "draw" : "picture";
}

function setMode(wanted) {
  element(`mode-${wanted}`).checked = true;
  element("draw-panel").hidden = wanted !== "draw";
  element("picture-panel").hidden = wanted !== "picture";
}

function showTools() {
  element("undo").disabled = !pad.canUndo;
  element("clear").disabled = pad.isEmpty;
  element("pad-hint").hidden = !pad.isEmpty;
}

/** Asks about what is there now; `newSubject` where answers under way are of no use any more. */
function refresh({ newSubject }) {
  const model = models.chosen;
  const drawn = mode() === "draw";
  if (!model || (drawn ? pad.isEmpty : !pictures.file)) {
    asking.drop();
    results.empty(HINTS[mode()]);
    return;
  }
  if (newSubject) results.wait();
  const { file: picture } = pictures;
  const lightOnDark = model.image.channels === 1;
  const file = drawn ? () => pad.file(lightOnDark) : () => picture;
  asking.ask({ model: models.address, topK: element("top-k").value, file }, { newSubject });
}

pad.addEventListener("change", () => {
  showTools();
  refresh({ newSubject: pad.isEmpty });
});
pad.addEventListener("pen", (event) => {
  element("spoken").textContent = event.detail ? "Pen down" : "Pen up";
});
pictures.addEventListener("change", () => {
  if (!element("about").hidden) location.hash = "#/";
  setMode("picture");
  refresh({ newSubject: true });
});
pictures.addEventListener("refuse", (event) => {
  asking.drop();
  results.problem(event.detail);
});
models.addEventListener("change", () => {
  const { chosen } = models;
  if (chosen && chosen.image.channels !== channels) {
    channels = chosen.image.channels;
    setMode(channels === 1 ? "draw" : "picture");
  }
  refresh({ newSubject: true });
});
for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => {
    setMode(radio.value);
    refresh({ newSubject: true });
  });
}
element("undo").addEventListener("click", () => pad.undo());
element("clear").addEventListener("click", () => pad.clear());
element("top-k").addEventListener("change", () => refresh({ newSubject: false }));
addEventListener("keydown", (event) => {
  const undoes = (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z";
  if (!undoes || event.target.matches("input:not([type=radio])") || mode() !== "draw" || element("classify").hidden) return;
  event.preventDefault();
  pad.undo();
});

asking.addEventListener("wait", () => results.wait());
asking.addEventListener("answer", (event) => results.show(event.detail));
asking.addEventListener("problem", (event) => {
  results.problem(event.detail.message);
  if ([404, 503].includes(event.detail.status)) connection.look(); // the model may be served no longer
});
connection.addEventListener("models", (event) => {
  models.update(event.detail);
  about.refresh();
});

/** Shows what the address asks for: the models' own pages are at #/models/NAME/VERSION. */
function route() {
  const [, name, version] = location.hash.match(/^#\/models\/([^/]+)\/([^/]+)$/) ?? [];
  if (location.hash && !location.hash.startsWith("#/")) return; // a place on this page
  const wasAbout = element("classify").hidden;
  element("classify").hidden = element("skip").hidden = Boolean(name);
  if (name) about.show(decodeURIComponent(name), decodeURIComponent(version));
  else about.hide();
  if (wasAbout && !name) element("about-link").focus();
  document.title = name ? `${decodeURIComponent(name)} · convserve` : "convserve";
}

addEventListener("hashchange", route);
setMode("draw");
showTools();
route();
connection.look();
