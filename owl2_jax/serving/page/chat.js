// The chat page: puts its parts together.

import * as asking from "./asking.js";
import * as composer from "./composer.js";
import { imagesOf } from "./conversation.js";
import { button, element } from "./dom.js";
import * as scrolling from "./scrolling.js";
import * as server from "./server.js";
import * as settings from "./settings.js";
import * as store from "./store.js";

const SAVE_AFTER = 400; // milliseconds without a change
const SAVE_WITHIN = 1500; // milliseconds, while an answer grows

let conversation = null; // { id, turns, draft } of this tab
let saving = null; // timer
let saved = Promise.resolve();

// Keeping ----------------------------------------------------------------------

function changed({ soon = false } = {}) {
  if (!conversation || (soon && saving)) return;
  clearTimeout(saving);
  saving = setTimeout(save, soon ? SAVE_WITHIN : SAVE_AFTER);
}

function save() {
  clearTimeout(saving);
  saving = null;
  const { id } = conversation;
  const value = { id, turns: asking.current(), draft: composer.draft() };
  saved = store.save(value).then((how) => {
    element("unkept").hidden = how !== "without images";
  });
}

// At once: what is typed or added while the last one is still being saved belongs to the new one.
function newChat() {
  composer.focus();
  if (asking.current().length) save();
  show(store.fresh());
}

// Shows a stored conversation; what was typed meanwhile stays in the field.
function goOn(found) {
  const typed = composer.draft();
  return show(typed.text || typed.images.length ? { ...found, draft: typed } : found);
}

async function show(found) {
  conversation = null; // what is shown piece by piece is not kept before all is there
  composer.put(found.draft);
  composer.refuse([]);
  asking.show(found.turns);
  conversation = found;
  changed();
  await offerLast();
}

// An empty conversation offers the one before.
async function offerLast() {
  const place = element("go-on");
  place.hidden = true;
  await saved;
  const found = asking.current().length ? null : await store.latest();
  if (!found || asking.current().length) return;
  place.replaceChildren(
    button("", "Go on with the last conversation", () => {
      composer.focus(); // the button vanishes
      goOn(store.adopt(found));
    }),
  );
  place.hidden = false;
}

// The first touch asks, the second deletes.
function deleteStored(event) {
  const asked = event.target;
  if (!asked.dataset.sure) {
    asked.dataset.sure = "yes";
    asked.textContent = "Really delete them?";
    return;
  }
  forget(asked);
  clearTimeout(saving);
  conversation = null;
  saved
    .then(store.clear)
    .then((done) => (asked.textContent = done ? "Deleted" : "The browser does not let them be deleted"))
    .then(() => show(store.fresh()));
}

function forget(asked) {
  delete asked.dataset.sure;
  asked.textContent = "Delete stored conversations";
}

// Start ------------------------------------------------------------------------

// The model's name, and chips with questions: { label, text }.
function showModel(model) {
  element("model").textContent = model.id;
  document.title = `${model.id} – owl2 chat`;
  element("add").hidden = model.max_images === 0;
  const chips = (model.examples ?? []).map(({ label, text }) =>
    button("", label, () => {
      composer.put({ ...composer.draft(), text });
      if (composer.draft().images.length || model.max_images === 0) asking.send();
      else element("files").click();
    }),
  );
  element("examples").replaceChildren(...chips);
}

function onKey(event) {
  const inDialog = document.querySelector("dialog[open]");
  if (event.key === "Escape" && !inDialog && asking.stop()) event.preventDefault();
}

function setUpKeys() {
  document.addEventListener("keydown", onKey);
  element("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      asking.send();
    }
  });
}

function setUpButtons() {
  element("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    asking.send();
  });
  element("stop").addEventListener("click", asking.stop);
  element("new").addEventListener("click", newChat);
  const deleting = element("delete-stored");
  deleting.addEventListener("click", deleteStored);
  element("settings").addEventListener("close", () => forget(deleting));
  element("close-image").addEventListener("click", () => element("enlarged").close());
  // A touch beside a dialog closes it.
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
}

async function setUp() {
  settings.setUp();
  settings.onClose(server.connect);
  composer.setUp(() => imagesOf(asking.current()), changed);
  asking.onChange(changed);
  scrolling.setUp();
  setUpKeys();
  setUpButtons();
  server.onModel(showModel);
  server.setUp();
  composer.focus();
  window.addEventListener("pagehide", () => conversation && saving && save());
  await store.open();
  const found = await store.mine();
  if (asking.current().length) {
    conversation = store.fresh(); // asked before the database had answered
    changed();
  } else await goOn(found);
}

setUp();
