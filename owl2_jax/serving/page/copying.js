// Puts a text on the clipboard, also where the page may not ask for it (plain http, no permission).

import { announce, button } from "./dom.js";

const SHOWN = 1500; // milliseconds

// A button that copies what `text()` gives; `node()` is marked where nothing may be copied.
export function copyButton(text, node, label) {
  const made = button("copy", "Copy", async () => {
    const done = await copy(text());
    if (!done) getSelection().selectAllChildren(node());
    made.textContent = done ? "Copied" : "Marked: press Ctrl+C";
    announce(made.textContent);
    setTimeout(() => (made.textContent = "Copy"), done ? SHOWN : 4 * SHOWN);
  });
  made.ariaLabel = label;
  return made;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyAsOfOld(text);
  }
}

function copyAsOfOld(text) {
  const before = document.activeElement;
  const field = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
  field.className = "unseen";
  document.body.append(field);
  field.select();
  let done = false;
  try {
    done = document.execCommand("copy");
  } catch {
    // Not allowed, either.
  }
  field.remove();
  before?.focus({ preventScroll: true });
  return done;
}
