// The server as this page sees it: models, answers, reports, and what can go wrong on the way.

import { keep, recall } from "./storage.js";

const ROOT = new URL("..", import.meta.url);
const TIMEOUT_MS = 60000; // a large photo may be long on its way
const KEPT = "convserve.token";

/** What went wrong, as a sentence. `away` is true where trying again may help. */
export class Problem extends Error {
  constructor(message, { status = 0, away = false, waitMs = 0 } = {}) {
    super(message);
    Object.assign(this, { status, away, waitMs });
  }
}

export class Server {
  #token = recall(KEPT);

  /** True if calls carry a token. */
  get hasToken() {
    return this.#token !== "";
  }

  /** Uses this token from now on; `isKept` lets it live in sessionStorage until the tab is closed. */
  useToken(token, isKept) {
    this.#token = token;
    keep(KEPT, isKept && token ? token : null);
  }

  /** The models that classify images. */
  async models() {
    return (await this.#json("v1/models")).models;
  }

  /** What a model makes of an image file: classes, and the pixels that it was given. No version is the server's choice. */
  async classify({ name, version }, blob, topK) {
    const query = new URLSearchParams({ model: name, top_k: topK, include_input: 1, ...(version && { version }) });
    const body = { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } };
    return this.#json(`v1/classify?${query}`, body);
  }

  /** What was measured of a model when it was made; null where its folder does not tell. */
  async report(name, version) {
    try {
      return await this.#json(`${place(name, version)}/report.json`);
    } catch (problem) {
      if (problem.status === 404) return null;
      throw problem;
    }
  }

  /** A figure of the report as a blob; null where there is none. Images cannot carry a token, so it is fetched here. */
  async figure(name, version, file) {
    try {
      return await (await this.#fetch(`${place(name, version)}/${file}`)).blob();
    } catch (problem) {
      if (problem.status === 404) return null;
      throw problem;
    }
  }

  async #json(path, options) {
    const response = await this.#fetch(path, options);
    try {
      return await response.json();
    } catch {
      throw new Problem("The server's answer broke off.", { away: true });
    }
  }

  async #fetch(path, { headers = {}, ...options } = {}) {
    const all = this.#token ? { ...headers, Authorization: `Bearer ${this.#token}` } : headers;
    let response;
    try {
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      response = await fetch(new URL(path, ROOT), { cache: "no-cache", credentials: "same-origin", ...options, headers: all, signal });
    } catch (error) {
      const sentence = error.name === "TimeoutError" ? `The server has not answered within ${TIMEOUT_MS / 1000} s.` : "The server cannot be reached.";
      throw new Problem(sentence, { away: true });
    }
    if (response.ok) return response;
    throw await refusal(response);
  }
}

async function refusal(response) {
  let message = "";
  try {
    message = (await response.json()).error ?? "";
  } catch {
    // a proxy's own page
  }
  const { status } = response;
  const seconds = Number(response.headers.get("Retry-After"));
  // Its own 503 without a time to wait is final: the model is not loaded.
  const away = [429, 502, 504].includes(status) || (status === 503 && (seconds > 0 || !message));
  const sentence = message ? sentenceOf(message) : `The server refused with HTTP status ${status}.`;
  return new Problem(sentence, { status, away, waitMs: seconds > 0 ? seconds * 1000 : 0 });
}

/** A message of the server as a sentence. */
export function sentenceOf(message) {
  const text = message[0].toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function place(name, version) {
  return `page/models/${encodeURIComponent(name)}/${encodeURIComponent(version)}`;
}
