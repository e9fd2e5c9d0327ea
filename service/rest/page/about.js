// A model's own page: what was measured when it was made, from report.json in its folder.

import { calibrationChart, epochChart } from "./charts.js";
import { make } from "./dom.js";
import { imageOf } from "./models.js";
import { dataset, duration, interval, percent, plural, short, whole } from "./numbers.js";

export class About {
  #server;
  #connection;
  #find;
  #place;
  #shown = ""; // name and version
  #figures = [];

  constructor(server, connection, find, place) {
    this.#server = server;
    this.#connection = connection;
    this.#find = find;
    this.#place = place;
  }

  hide() {
    this.#shown = "";
    this.#place.hidden = true;
  }

  /** Shows a model version's page, and puts the focus there. */
  async show(name, version) {
    const shown = `${name}/${version}`;
    if (this.#shown === shown) return;
    this.#shown = shown;
    this.#place.hidden = false;
    this.#place.replaceChildren(...heading(name, version), make("p", "help", "Loading …"));
    this.#place.focus({ preventScroll: true });
    scrollTo(0, 0);
    const answer = await this.#load(name, version, shown);
    if (this.#shown !== shown) return;
    this.#render(name, version, answer);
  }

  /** The list of models has come, or changed. */
  refresh() {
    const [name, version] = [this.#place.dataset.name, this.#place.dataset.version];
    if (this.#shown && this.#shown === `${name}/${version}` && !this.#place.dataset.summary) {
      this.#shown = "";
      this.show(name, version);
    }
  }

  /** The report, and the figure of mistakes; tried again as long as the server is away. */
  async #load(name, version, shown) {
    while (this.#shown === shown) {
      try {
        const report = await this.#server.report(name, version);
        const mistakes = report && (await this.#server.figure(name, version, "mistakes.png"));
        return { report, mistakes };
      } catch (problem) {
        if (!problem.away && problem.status !== 401) return { problem };
        await this.#connection.restore(problem);
      }
    }
    return {};
  }

  #render(name, version, { report, mistakes, problem }) {
    const summary = this.#find(name, version);
    Object.assign(this.#place.dataset, { name, version, summary: summary ? "known" : "" });
    for (const url of this.#figures.splice(0)) URL.revokeObjectURL(url);
    const parts = heading(name, version, report?.facts.architecture);
    if (problem) parts.push(make("p", "problem", problem.message));
    else if (report) parts.push(tiles(report, summary), ...this.#sections(report, mistakes));
    else if (summary) parts.push(bareTiles(summary), make("p", "help", "Its folder has no report.json, which would tell how it was trained and measured."));
    else parts.push(make("p", "problem", "This server does not serve this version of the model."));
    this.#place.replaceChildren(...parts);
  }

  #sections(report, mistakes) {
    const made = [learning(report), calibration(report), confusion(report)].filter(Boolean);
    if (mistakes) {
      const image = make("img", "figure");
      image.src = URL.createObjectURL(mistakes);
      image.alt = "Test images that the model got wrong, each with its prediction and the right class";
      this.#figures.push(image.src);
      made.push(section("What it got wrong, and was most sure of", make("div", "paper", image)));
    }
    return [...made, origin(report)];
  }
}

function heading(name, version, architecture = "") {
  const back = make("a", "back", "← Classify");
  back.href = "#/";
  const title = make("h1", "", name, " ", make("small", "", `version ${version}`));
  title.id = "about-name";
  return [back, title, ...(architecture ? [make("p", "lead", architecture)] : [])];
}

function tiles({ facts, test, cost, calibration: measured, image_shape: [height, width, channels] }, summary) {
  const [low, high] = interval(test.correct, test.images);
  const list = [
    ["Test accuracy", percent(test.accuracy), `${percent(low)} to ${percent(high)} at 95 %: ${whole(test.correct)} of ${whole(test.images)} images of ${dataset(facts.dataset)}`],
    ["Images", `${width} × ${height}`, channels === 1 ? "grey" : "colour"],
    ["Parameters", short(facts.parameters), summary ? `${facts.precision}, run by ${summary.provider}` : facts.precision],
  ];
  if (measured) list.push(["Calibration error", percent(measured.after.error), "how far probabilities lie from what is true, on average"]);
  if (cost) {
    list.push(["Multiply-accumulates", short(cost.multiply_accumulates), "for an image"]);
    list.push(["Speed", `${whole(cost.images_per_s["64"] ?? Object.values(cost.images_per_s).at(-1))}/s`, `images in large runs; ${whole(cost.images_per_s["1"])}/s one by one (${cost.processor}, ${plural(cost.threads, "thread")})`]);
    list.push(["File", `${(cost.bytes / 1e6).toPrecision(3)} MB`, "model.onnx"]);
  }
  return tileList(list);
}

function bareTiles(summary) {
  const list = [["Images", imageOf(summary), ""], ["Classes", whole(summary.labels.length), summary.labels.slice(0, 10).join(", ")]];
  if (summary.test_accuracy !== null) list.unshift(["Test accuracy", percent(summary.test_accuracy), `of ${dataset(summary.dataset)}`]);
  if (summary.parameters) list.push(["Parameters", short(summary.parameters), [summary.precision, `run by ${summary.provider}`].filter(Boolean).join(", ")]);
  return tileList(list);
}

function tileList(list) {
  const tile = ([name, value, remark]) => make("div", "tile", make("dt", "", name), make("dd", "value", value), ...(remark ? [make("dd", "remark", remark)] : []));
  return make("dl", "tiles", ...list.map(tile));
}

function learning({ facts: { history } }) {
  if (!history?.length) return null;
  const kinds = [["training", "train", ""], ["validation", "validation", "validation_"], ["test", "test", "test_"]];
  const lines = (metric) =>
    kinds
      .map(([name, kind, prefix]) => ({ name, kind, values: history.map((epoch) => epoch[prefix + metric] ?? null) }))
      .filter(({ values }) => values.some((value) => value !== null));
  const loss = lines("loss");
  const wrong = lines("accuracy").map((line) => ({ ...line, values: line.values.map((value) => value === null ? null : 1 - value) }));
  const pair = make(
    "div",
    "pair",
    panel("Wrong predictions", epochChart("Share of wrong predictions against epochs", wrong, (value) => `${rounded(100 * value)} %`), wrong),
    panel("Loss, in nats", epochChart("Loss against epochs", loss, rounded), loss),
  );
  const rows = history.map((epoch, index) => [index + 1, ...kinds.flatMap(([, , prefix]) => [shareOf(epoch[`${prefix}accuracy`]), lossOf(epoch[`${prefix}loss`])])]);
  const heads = ["epoch", ...kinds.flatMap(([name]) => [`${name} accuracy`, `${name} loss`])];
  return section("How it learned", pair, make("details", "", make("summary", "", "As a table"), scroll("Accuracy and loss by epoch", table(heads, rows))));
}

function calibration({ calibration: measured }) {
  if (!measured) return null;
  const series = [{ name: "softmax of the logits", kind: "before", bins: measured.before.bins }, { name: `with temperature ${measured.temperature}`, kind: "after", bins: measured.after.bins }];
  const shown = measured.temperature === 1 ? series.slice(1) : series;
  const title = "Accuracy against the probability of the prediction";
  const told = `The calibration error is how far, on average, a prediction's probability lies from the share of such predictions that are right: ${percent(measured.before.error)} for the softmax of the logits, ${percent(measured.after.error)} for the file's probabilities. A bar is the 95 % interval.`;
  const rows = measured.after.bins.filter(({ images }) => images).map(({ images, confidence, accuracy }) => [percent(confidence, 1), percent(accuracy, 1), interval(accuracy * images, images).map((end) => percent(end, 1)).join(" to "), whole(images)]);
  const bins = scroll("The file's probabilities, by probability", table(["probability", "right", "95 % interval", "images"], rows));
  bins.classList.add("dense");
  return section("What its probabilities mean", make("p", "", told), make("div", "pair", panel(title, calibrationChart(title, shown), shown), bins));
}

function confusion({ test: { confusion: counts, classes } }) {
  if (!counts || counts.length > 30) return null;
  const most = Math.max(1, ...counts.flatMap((row, right) => row.filter((_, taken) => taken !== right)));
  const head = make("tr", "", make("td"), ...classes.map(({ label }) => headCell(label, "col")));
  const rows = counts.map((row, right) => {
    const cells = row.map((count, taken) => {
      const cell = make("td", right === taken ? "right" : "wrong", count ? whole(count) : "");
      if (right !== taken && count) cell.style.setProperty("--heat", `${Math.round(12 + 60 * Math.sqrt(count / most))}%`);
      return cell;
    });
    return make("tr", "", headCell(classes[right].label, "row"), ...cells, make("td", "share", percent(classes[right].accuracy)));
  });
  head.append(headCell("right", "col"));
  const told = make("p", "", "A row is a class, a column what its test images were taken for.");
  return section("What it takes for what", told, scroll("What it takes for what", make("table", "confusion", make("thead", "", head), make("tbody", "", ...rows))));
}

function origin({ facts, training, variant }) {
  const rows = [];
  if (variant) rows.push(["Made from", `${variant.of}, of whose predictions it keeps ${percent(variant.agreement)}`]);
  if (training) rows.push(["Command", make("code", "", training.command)], ["Training", `${plural(training.epochs, "epoch")} in ${duration(training.seconds)}`]);
  if (facts.commit) rows.push(["Code", make("code", "", facts.commit.slice(0, 12))]);
  if (facts.versions) rows.push(["With", Object.entries(facts.versions).map(([name, version]) => `${name} ${version}`).join(", ")]);
  const list = rows.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]);
  return section("How it was made", make("dl", "list", ...list));
}

function panel(title, chart, series) {
  const keys = series.map(({ name, kind }) => make("li", kind, name));
  return make("figure", "panel", make("figcaption", "", title), chart, make("ul", "legend", ...keys));
}

function section(title, ...parts) {
  return make("section", "card", make("h2", "", title), ...parts);
}

/** What may be wider than a phone, and is scrolled by fingers or keys. */
function scroll(name, content) {
  const area = make("div", "scroll", content);
  area.tabIndex = 0;
  area.setAttribute("role", "region");
  area.setAttribute("aria-label", name);
  return area;
}

function headCell(text, scope) {
  const cell = make("th", "", text);
  cell.scope = scope;
  return cell;
}

function table(heads, rows) {
  const body = rows.map((row) => make("tr", "", ...row.map((value) => make("td", "", String(value)))));
  return make("table", "", make("thead", "", make("tr", "", ...heads.map((text) => headCell(text, "col")))), make("tbody", "", ...body));
}

function rounded(value) {
  return String(Number(value.toPrecision(1)));
}

function shareOf(value) {
  return value === null || value === undefined ? "" : percent(value);
}

function lossOf(value) {
  return value === null || value === undefined ? "" : value.toFixed(4);
}
