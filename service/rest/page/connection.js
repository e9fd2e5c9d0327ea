// Whether the server answers; tries again until it does, and asks for a token where one is wanted.

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 10000;
const LOOK_EVERY_MS = 15000;

export class Connection extends EventTarget {
  #server;
  #tokenDialog;
  #restoring = null;
  #wake = () => {}; // ends a pause
  #press = () => {}; // asks for a token again
  #failures = 0; // in a row, of questions that had to wait

  constructor(server, tokenDialog) {
    super();
    this.#server = server;
    this.#tokenDialog = tokenDialog;
    this.parts = Object.fromEntries(
      ["state", "state-text", "notice", "notice-text", "notice-count", "notice-retry", "token-open"].map((id) => [id, document.getElementById(id)]),
    );
    this.parts["notice-retry"].addEventListener("click", () => {
      this.#wake();
      this.#press();
    });
    this.parts["token-open"].addEventListener("click", () => this.#changeToken());
    addEventListener("online", () => this.#wake());
    document.addEventListener("visibilitychange", () => document.hidden || this.#wake());
    setInterval(() => document.hidden || this.#restoring || this.look(), LOOK_EVERY_MS);
  }

  /** Asks for the models; where that fails, again until it does not. */
  async look() {
    try {
      this.#found(await this.#server.models());
      this.#failures = 0;
    } catch (problem) {
      await this.restore(problem);
    }
  }

  /** The server has answered. */
  confirm() {
    this.#failures = 0;
    if (!this.#restoring) this.#show("ready", "Connected");
  }

  /** Resolves when the server answers again. */
  restore(problem) {
    this.#restoring ??= this.#tryAgain(problem).finally(() => {
      this.#restoring = null;
    });
    return this.#restoring;
  }

  async #tryAgain(first) {
    let problem = first;
    for (;;) {
      if (problem.status === 401) await this.#askForToken(problem);
      else await this.#pause(problem, Math.max(problem.waitMs, Math.min(FIRST_WAIT_MS * 2 ** this.#failures, LONGEST_WAIT_MS)));
      this.#failures += 1;
      try {
        this.#found(await this.#server.models());
        return;
      } catch (next) {
        problem = next;
      }
    }
  }

  #found(models) {
    this.parts.notice.hidden = true;
    this.parts["notice-text"].textContent = "";
    this.parts["token-open"].hidden = !this.#server.hasToken;
    this.#show("ready", "Connected");
    this.dispatchEvent(new CustomEvent("models", { detail: models }));
  }

  async #askForToken(problem) {
    this.#show("away", "Token needed");
    this.parts.notice.hidden = true;
    const reason = this.#server.hasToken ? problem.message : "It answers only calls that carry one. Who runs the server has it.";
    while (!(await this.#tokenDialog.ask(reason))) {
      this.#say("Without a token this server does not answer.", "Enter a token");
      this.parts["notice-count"].textContent = "";
      await new Promise((resolve) => {
        this.#press = resolve;
      });
    }
  }

  async #changeToken() {
    if (!(await this.#tokenDialog.ask("The calls of this page carry a token. Another takes its place; an empty field is none."))) return;
    this.#wake();
    if (!this.#restoring) await this.look();
  }

  async #pause(problem, milliseconds) {
    this.#show("away", problem.status ? "Not available" : "Not connected");
    const rest = problem.status ? problem.message : `${problem.message} What you drew stays here, and is sent when it is back.`;
    this.#say(rest, "Try now");
    const end = performance.now() + milliseconds;
    const tick = () => {
      const seconds = Math.max(1, Math.ceil((end - performance.now()) / 1000));
      this.parts["notice-count"].textContent = `Trying again in ${seconds} s`;
    };
    tick();
    const ticking = setInterval(tick, 1000);
    await new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, milliseconds);
    });
    clearInterval(ticking);
    this.parts["notice-count"].textContent = "Trying …";
  }

  #say(sentence, action) {
    this.parts.notice.hidden = false;
    this.parts["notice-retry"].textContent = action;
    const text = this.parts["notice-text"];
    if (text.textContent !== sentence) text.textContent = sentence; // said once, not at each attempt
  }

  #show(state, text) {
    this.parts.state.dataset.state = state;
    this.parts["state-text"].textContent = text;
  }
}
