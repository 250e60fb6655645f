// The settings dialog; values stay in the browser, the key only as long as the tab is open.

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const STORE = "owl2-settings";
const KEY = "owl2-key";

const element = (id) => document.getElementById(id);

export function setUp() {
  const saved = JSON.parse(localStorage.getItem(STORE) ?? "{}");
  for (const id of NUMBERS) {
    if (saved[id] !== undefined) element(id).value = saved[id];
    element(id).addEventListener("input", changed);
  }
  element("key").value = sessionStorage.getItem(KEY) ?? "";
  element("key").addEventListener("input", () => sessionStorage.setItem(KEY, key()));
  element("open-settings").addEventListener("click", open);
  element("defaults").addEventListener("click", () => {
    for (const id of NUMBERS) element(id).value = element(id).defaultValue;
    changed();
  });
  show();
}

export function open() {
  element("settings").showModal();
}

export const key = () => element("key").value.trim();

// Calls back when the dialog is closed.
export function onClose(listener) {
  element("settings").addEventListener("close", listener);
}

// Fields of a chat completion.
export function values() {
  const found = NUMBERS.map((id) => [id, element(id).valueAsNumber]);
  return Object.fromEntries(found.filter(([, value]) => !Number.isNaN(value)));
}

function changed() {
  localStorage.setItem(STORE, JSON.stringify(values()));
  show();
}

function show() {
  for (const output of document.querySelectorAll("#settings output")) {
    output.textContent = element(output.htmlFor.value).valueAsNumber.toFixed(2);
  }
}
