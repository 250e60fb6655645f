// Where a question is written: the field, its images, and what was wrong with those left out.

import { button, element, make, sentence } from "./dom.js";
import { Refused, tooMuch, toDataUrl } from "./images.js";
import { limits } from "./server.js";

const [text, tray, trouble] = ["text", "tray", "refused"].map(element);

let images = []; // data: URLs of the next question
let before = () => []; // images that the conversation has already
let changed = () => {};
let adding = Promise.resolve();

export const draft = () => ({ text: text.value, images: [...images] });

export const focus = () => text.focus();

// What is written, taken out of the field; null when there is nothing. Images still being read are waited for.
export async function take() {
  await adding;
  const question = { text: text.value.trim(), images };
  if (!question.text && !images.length) return null;
  const why = tooMuch([...before(), ...images], limits());
  if (why && images.length) {
    refuse([`${sentence(why)}. Remove some, or begin a new chat.`]);
    return null;
  }
  put({ text: "", images: [] });
  refuse([]);
  return question;
}

// Writes a question into the field in place of what stands there.
export function put(question) {
  text.value = question.text;
  images = [...question.images];
  fit();
  showTray();
}

// Puts a question back, in front of what was written since.
export function putBack(question) {
  const both = [question.text, text.value].filter((part) => part.trim());
  put({ text: both.join("\n\n"), images: [...question.images.filter(Boolean), ...images] });
  text.setSelectionRange(text.value.length, text.value.length);
}

// Says why something was left out.
export function refuse(messages) {
  trouble.replaceChildren(...messages.map((words) => make("p", { textContent: words })));
}

export function addFiles(files) {
  const list = [...files];
  text.focus();
  adding = adding.then(() => addAll(list));
  return adding;
}

async function addAll(files) {
  const refused = [];
  for (const file of files) {
    try {
      const url = await toDataUrl(file, limits());
      const why = tooMuch([...before(), ...images, url], limits());
      if (why) throw new Refused(`${sentence(why)}: ${file.name} was left out.`);
      images.push(url);
    } catch (error) {
      refused.push(error instanceof Refused ? error.message : `${file.name} cannot be read: ${error.message}`);
    }
  }
  refuse(refused);
  showTray();
}

function showTray() {
  tray.replaceChildren(...images.map(thumb));
  changed();
}

function thumb(src, i) {
  const image = make("img", { src, alt: `image ${i + 1}` });
  // The server reads some kinds that the browser does not.
  image.onerror = () => image.replaceWith(make("span", { className: "unshown", textContent: "no preview" }));
  const remove = button("remove", "×", () => removeImage(i), `Remove image ${i + 1}`);
  return make("div", { className: "thumb" }, image, remove);
}

function removeImage(i) {
  images = images.filter((_, j) => j !== i);
  refuse([]);
  showTray();
  const next = tray.querySelectorAll(".remove")[Math.min(i, images.length - 1)];
  (next ?? text).focus();
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  element("send").disabled = !text.value.trim() && !images.length;
}

function setUpDrop() {
  const here = element("drop-here");
  const hasFiles = (event) => [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return; // a text is dropped into the field as always
    event.preventDefault();
    here.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) here.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    here.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    addFiles(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    addFiles(event.clipboardData.files);
  });
}

// `imagesBefore()`: those of the conversation; `onChange()`: the draft is another.
export function setUp(imagesBefore, onChange) {
  before = imagesBefore;
  changed = () => {
    fit();
    onChange();
  };
  setUpDrop();
  element("add").addEventListener("click", () => element("files").click());
  element("files").addEventListener("change", (event) => {
    addFiles(event.target.files);
    event.target.value = "";
  });
  text.addEventListener("input", changed);
  fit();
}
