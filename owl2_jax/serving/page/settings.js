// The settings dialog; values stay in the browser, the key only as long as the tab is open.

import { element } from "./dom.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const FIELDS = [...NUMBERS, "system"];
const STORE = "owl2-settings";
const KEY = "owl2-key";

export function setUp() {
  restore(readStored());
  keep(); // what was broken is gone from now on
  for (const id of FIELDS) element(id).addEventListener("input", keep);
  element("key").value = read(() => sessionStorage.getItem(KEY)) ?? "";
  element("key").addEventListener("input", () => read(() => sessionStorage.setItem(KEY, key())));
  element("open-settings").addEventListener("click", open);
  element("defaults").addEventListener("click", () => {
    for (const id of FIELDS) element(id).value = element(id).defaultValue;
    keep();
  });
  element("settings").addEventListener("close", () => (element("key-wanted").hidden = true));
}

export function open() {
  if (!element("settings").open) element("settings").showModal();
}

// Opens the dialog at the key, with the server's words.
export function askForKey(words) {
  open();
  element("key-wanted").textContent = words;
  element("key-wanted").hidden = false;
  element("key").focus();
}

export const key = () => element("key").value.trim();

// The system message; empty for none.
export const system = () => element("system").value.trim();

// Calls back when the dialog is closed.
export function onClose(listener) {
  element("settings").addEventListener("close", listener);
}

// Fields of a chat completion; a number that is not allowed is none.
export function values() {
  const found = NUMBERS.map((id) => [id, element(id)]).filter(([, input]) => input.validity.valid);
  return Object.fromEntries(
    found.map(([id, input]) => [id, input.valueAsNumber]).filter(([, value]) => !Number.isNaN(value)),
  );
}

function keep() {
  const text = element("system").value;
  const value = { ...values(), ...(text ? { system: text } : {}) };
  read(() => localStorage.setItem(STORE, JSON.stringify(value)));
  for (const output of document.querySelectorAll("#settings output")) {
    output.textContent = element(output.htmlFor.value).valueAsNumber.toFixed(2);
  }
}

// Storage may be forbidden, full, or hold what something else has written there.
function read(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

function readStored() {
  const value = read(() => JSON.parse(localStorage.getItem(STORE)));
  return value && typeof value === "object" && !Array.isArray(value) ? value : {};
}

function restore(stored) {
  for (const id of NUMBERS) {
    const [input, value] = [element(id), stored[id]];
    const low = Number(input.min);
    const high = Number(input.max);
    if (typeof value !== "number" || !(low <= value && value <= high)) continue;
    input.value = value;
    if (!input.validity.valid) input.value = input.defaultValue;
  }
  if (typeof stored.system === "string") element("system").value = stored.system;
}
