// One question at a time, the newest next; answers to what is no longer asked are dropped.

const PAUSE_MS = 60; // strokes that come within it are one question

export class Asking extends EventTarget {
  #server;
  #connection;
  #wanted = null;
  #subject = 0; // another with each new subject: model, kind of input, or nothing
  #timer = 0;
  #busy = false;

  constructor(server, connection) {
    super();
    this.#server = server;
    this.#connection = connection;
  }

  /** Asks about what `file` gives, soon. A question of the same subject may still be answered before this one. */
  ask({ model, topK, file }, { newSubject = false } = {}) {
    if (newSubject) this.#subject += 1;
    this.#wanted = { model, topK, file, subject: this.#subject };
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.#run();
    }, newSubject ? 0 : PAUSE_MS);
  }

  /** Wants no answer any more. */
  drop() {
    this.#subject += 1;
    this.#wanted = null;
  }

  async #run() {
    if (this.#busy) return;
    this.#busy = true;
    try {
      while (this.#wanted) {
        const question = this.#wanted;
        this.#wanted = null;
        await this.#put(question);
      }
    } finally {
      this.#busy = false;
    }
  }

  async #put(question) {
    try {
      const blob = await question.file();
      const start = performance.now();
      const answer = await this.#server.classify(question.model, blob, question.topK);
      this.#connection.confirm();
      this.#tell("answer", question, { answer, milliseconds: performance.now() - start });
    } catch (problem) {
      if (problem.away || problem.status === 401) {
        this.#tell("wait", question);
        await this.#connection.restore(problem);
        if (question.subject === this.#subject) this.#wanted ??= question;
      } else {
        this.#tell("problem", question, problem);
      }
    }
  }

  #tell(name, question, detail) {
    if (question.subject === this.#subject) this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
