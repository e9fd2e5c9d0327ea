// Pictures that come in: chosen, photographed, dropped or pasted. They are sent as they are.
//
// A browser scales photos by other rules than the server does, so that a smaller copy would have other pixels.

const MIB = 2 ** 20;

export class Pictures extends EventTarget {
  #parts;
  #maxBytes;
  #file = null;
  #depth = 0; // of elements that a dragged file is over

  constructor(maxBytes) {
    super();
    this.#maxBytes = maxBytes;
    const ids = ["file", "camera", "remove", "preview", "picture-empty", "unshown", "picture-name", "drop"];
    this.#parts = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));
    document.getElementById("limit").textContent = sizeOf(maxBytes);
    for (const input of [this.#parts.file, this.#parts.camera]) {
      input.addEventListener("change", () => {
        this.#take([...input.files], "");
        input.value = ""; // the same file can be chosen again
      });
    }
    this.#parts.remove.addEventListener("click", () => this.remove());
    this.#parts.preview.addEventListener("error", () => this.#showPreview(false));
    this.#parts.preview.addEventListener("load", () => this.#showPreview(true));
    this.#listenToDrops();
    document.addEventListener("paste", (event) => this.#paste(event));
  }

  /** The picture, null where there is none. */
  get file() {
    return this.#file;
  }

  remove() {
    this.#show(null);
    this.dispatchEvent(new Event("change"));
  }

  #listenToDrops() {
    const { drop } = this.#parts;
    const shown = (depth) => {
      this.#depth = depth;
      drop.hidden = depth === 0;
    };
    addEventListener("dragenter", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      shown(this.#depth + 1);
    });
    addEventListener("dragleave", () => shown(Math.max(0, this.#depth - 1)));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      shown(0);
      this.#take([...event.dataTransfer.files], "Only files can be dropped here: save the picture first.");
    });
  }

  #paste(event) {
    if (event.target.matches?.("input[type=password]")) return;
    const files = [...event.clipboardData.files];
    this.#take(files, "The clipboard has no picture.");
  }

  #take(files, noneMessage) {
    if (files.length === 0) {
      if (noneMessage) this.#refuse(noneMessage);
      return;
    }
    const [file] = files;
    if (file.size > this.#maxBytes) {
      this.#refuse(`${file.name} has ${sizeOf(file.size)}, and this server takes up to ${sizeOf(this.#maxBytes)}: save it smaller, or start the server with a larger --max-message-mib.`);
      return;
    }
    this.#show(file, files.length > 1 ? ` Only the first of ${files.length} files is used.` : "");
    this.dispatchEvent(new Event("change"));
  }

  #refuse(sentence) {
    this.dispatchEvent(new CustomEvent("refuse", { detail: sentence }));
  }

  #show(file, remark = "") {
    const { preview, remove } = this.#parts;
    if (preview.src) URL.revokeObjectURL(preview.src);
    this.#file = file;
    remove.hidden = !file;
    this.#parts["picture-empty"].hidden = Boolean(file);
    this.#parts.unshown.hidden = true;
    this.#parts["picture-name"].textContent = file ? `${file.name}, ${sizeOf(file.size)}, sent as it is.${remark}` : "";
    preview.hidden = true;
    preview.alt = file ? `Your picture, ${file.name}` : "";
    if (file) preview.src = URL.createObjectURL(file);
    else preview.removeAttribute("src");
  }

  #showPreview(shown) {
    this.#parts.preview.hidden = !shown;
    this.#parts.unshown.hidden = shown || !this.#file;
  }
}

/** Bytes as people say them. */
export function sizeOf(bytes) {
  if (bytes >= MIB) return `${Number((bytes / MIB).toFixed(1))} MiB`;
  return bytes >= 1024 ? `${Math.round(bytes / 1024)} KiB` : `${bytes} bytes`;
}
