// The field for a bearer token.

export class TokenDialog {
  #dialog = document.getElementById("token-dialog");
  #field = document.getElementById("token");
  #keep = document.getElementById("token-keep");
  #given = false;

  constructor(server) {
    document.getElementById("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#given = true;
      server.useToken(this.#field.value.trim(), this.#keep.checked);
      this.#dialog.close();
    });
    document.getElementById("token-cancel").addEventListener("click", () => this.#dialog.close());
  }

  /** Shows the field with a sentence; resolves to whether a token was given. */
  ask(reason) {
    document.getElementById("token-reason").textContent = reason;
    this.#field.value = "";
    this.#given = false;
    if (!this.#dialog.open) this.#dialog.showModal();
    return new Promise((resolve) => this.#dialog.addEventListener("close", () => resolve(this.#given), { once: true }));
  }
}
