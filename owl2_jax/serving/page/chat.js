// The chat page: turns, pictures, streaming, stop and retry.

import * as api from "./api.js";
import { lookFigure } from "./attention.js";
import { isPicture, toDataUrl } from "./pictures.js";
import * as settings from "./settings.js";

const element = (id) => document.getElementById(id);
const [log, text, tray] = ["log", "text", "tray"].map(element);

let turns = []; // { role, text, pictures: [data URL], failed }
let waiting = []; // pictures of the next message
let running = null; // AbortController of the answer that is being written

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Messages of the API for some turns; what failed is not part of the conversation.
function messages(list) {
  return list
    .filter((turn) => !turn.failed)
    .map((turn) =>
      turn.role === "assistant"
        ? { role: turn.role, content: turn.text }
        : {
            role: turn.role,
            content: [
              ...turn.pictures.map((url) => ({ type: "image_url", image_url: { url } })),
              ...(turn.text ? [{ type: "text", text: turn.text }] : []),
            ],
          },
    );
}

// Asking -----------------------------------------------------------------------

function send() {
  const question = text.value.trim();
  if (running || !(question || waiting.length)) return;
  const turn = { role: "user", text: question, pictures: waiting };
  turns.push(turn);
  waiting = [];
  text.value = "";
  fitText();
  showTray();
  showUser(turn);
  ask();
}

// Has the last question answered.
async function ask() {
  const asked = messages(turns);
  const turn = { role: "assistant", text: "", pictures: [] };
  turns.push(turn);
  const view = showAssistant();
  const controller = new AbortController();
  setRunning(controller);
  let note = "";
  try {
    const request = { messages: asked, ...settings.values() };
    const pieces = api.answer(request, settings.key(), controller.signal);
    for (let step = await pieces.next(); ; step = await pieces.next()) {
      if (step.done) {
        note = step.value === "length" ? "cut at the length limit" : "";
        break;
      }
      turn.text += step.value;
      view.body.textContent = turn.text;
      follow();
    }
  } catch (error) {
    if (error.name === "AbortError") note = "stopped";
    else view.article.append(make("p", { className: "error", textContent: error.message }));
    if (error.status === 401) settings.open();
  }
  if (running === controller) setRunning(null);
  if (turns.includes(turn)) finish(turn, view, note); // else a new chat was begun
}

function finish(turn, view, note) {
  view.body.classList.remove("waiting");
  if (note) view.article.append(make("span", { className: "note", textContent: note }));
  if (!turn.text) {
    // Without an answer the question is no part of the conversation, unless it is asked again.
    turn.failed = true;
    turns[turns.indexOf(turn) - 1].failed = true;
  }
  showActions(turn, view);
  follow();
}

function retry() {
  if (running) return;
  turns.pop();
  turns[turns.length - 1].failed = false;
  log.lastElementChild.remove();
  ask();
}

function newChat() {
  running?.abort();
  setRunning(null);
  turns = [];
  waiting = [];
  for (const article of log.querySelectorAll("article")) article.remove();
  element("welcome").hidden = false;
  showTray();
  text.focus();
}

// Showing ----------------------------------------------------------------------

function showUser(turn) {
  element("welcome").hidden = true;
  const pictures = turn.pictures.map((src, i) => make("img", { src, alt: `picture ${i + 1}` }));
  const parts = pictures.length ? [make("div", { className: "pictures" }, ...pictures)] : [];
  log.append(make("article", { className: "user" }, ...parts, make("p", { textContent: turn.text })));
  follow(true);
}

function showAssistant() {
  for (const old of log.querySelectorAll(".retry")) old.remove();
  const body = make("p", { className: "waiting" });
  const article = make("article", { className: "assistant" }, body);
  log.append(article);
  follow(true);
  return { article, body };
}

function showActions(turn, view) {
  const actions = make("div", { className: "actions" });
  actions.append(make("button", { className: "retry", type: "button", textContent: "Retry", onclick: retry }));
  const before = turns.slice(0, turns.indexOf(turn));
  const seen = before.filter((other) => !other.failed).flatMap((other) => other.pictures);
  if (turn.text && seen.length) {
    const look = make("button", { className: "look", type: "button", textContent: "Where it looked" });
    look.onclick = () => showLooks(look, view.article, messages(before), turn.text, seen);
    actions.append(look);
  }
  view.article.append(actions);
}

async function showLooks(button, article, asked, answer, pictures) {
  const shown = article.querySelector(".looks");
  if (shown) {
    shown.remove();
    return;
  }
  button.disabled = true;
  const looks = make("div", { className: "looks" });
  try {
    const found = await api.attention(asked, answer, settings.key());
    for (const [i, { share, weights }] of found.pictures.entries()) {
      const part = pictures.length > 1 ? `picture ${i + 1}: ` : "";
      const caption = `${part}${Math.round(100 * share)} % of the answer's attention`;
      looks.append(await lookFigure(pictures[i], weights, found.image_mode, caption));
    }
  } catch (error) {
    looks.append(make("p", { className: "error", textContent: error.message }));
  }
  article.append(looks);
  button.disabled = false;
  article.scrollIntoView({ block: "end" });
}

// Keeps the newest text in sight, unless the reader has scrolled up.
function follow(always = false) {
  const away = log.scrollHeight - log.scrollTop - log.clientHeight;
  if (always || away < 120) log.scrollTop = log.scrollHeight;
}

function setRunning(controller) {
  running = controller;
  element("stop").hidden = !controller;
  element("send").hidden = !!controller;
}

function fitText() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

// Pictures ---------------------------------------------------------------------

async function addFiles(files) {
  for (const file of [...files].filter(isPicture)) {
    waiting.push(await toDataUrl(file));
    showTray();
  }
  text.focus();
}

function showTray() {
  const thumbs = waiting.map((src, i) => {
    const remove = make("button", { type: "button", textContent: "×", ariaLabel: `Remove picture ${i + 1}` });
    remove.onclick = () => {
      waiting.splice(i, 1);
      showTray();
    };
    return make("div", { className: "thumb" }, make("img", { src, alt: `picture ${i + 1}` }), remove);
  });
  tray.replaceChildren(...thumbs);
}

function setUpDrop() {
  const here = element("drop-here");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    here.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) here.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    here.hidden = true;
    addFiles(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) {
      event.preventDefault();
      addFiles(event.clipboardData.files);
    }
  });
}

// Start ------------------------------------------------------------------------

async function showModel() {
  try {
    const model = await api.model(settings.key());
    element("model").textContent = model.id;
    showExamples(model.examples);
  } catch (error) {
    if (error.status === 401) settings.open();
    else element("model").textContent = error.message;
  }
}

// Chips with questions: { label, text }.
function showExamples(examples) {
  const chips = examples.map((example) => {
    const chip = make("button", { type: "button", textContent: example.label });
    chip.onclick = () => {
      text.value = example.text;
      fitText();
      if (waiting.length) send();
      else element("files").click();
    };
    return chip;
  });
  element("examples").replaceChildren(...chips);
}

function setUp() {
  settings.setUp();
  settings.onClose(showModel);
  setUpDrop();
  element("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  element("stop").addEventListener("click", () => running?.abort());
  element("new").addEventListener("click", newChat);
  element("files").addEventListener("change", (event) => {
    addFiles(event.target.files);
    event.target.value = "";
  });
  text.addEventListener("input", fitText);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  showModel();
}

setUp();
