// What outlives a reload of this tab; where storage is full or forbidden, nothing does.

/** Keeps a text under a name; null forgets it. */
export function keep(name, text) {
  try {
    if (text === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, text);
  } catch {
    // it stays in memory
  }
}

/** The text that was kept under a name; empty where there is none. */
export function recall(name) {
  try {
    return sessionStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}
