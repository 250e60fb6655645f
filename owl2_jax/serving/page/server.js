// What is known of the server: the model and its limits, and whether it answers now.

import * as api from "./api.js";
import { element, sentence } from "./dom.js";
import * as settings from "./settings.js";

const AGAIN = 2000; // milliseconds until a server that does not answer is asked again
const PATIENCE = 1500; // milliseconds without a word after which the page asks why

const WORDS = {
  starting:
    "The server is starting: it compiles its programs, which takes up to some minutes. A question sent now is answered as soon as it is ready.",
  compiling:
    "The server is compiling a program that this question is the first to need. The answer begins when it is done.",
  stopping: "The server is stopping and takes no new questions.",
  failed: "The model has stopped working; the server's log says why. It has to be started again.",
  locked: "The server wants an API key: enter it in the settings.",
  unreachable: `The server at ${location.host} cannot be reached. Is it running? This page keeps trying.`,
};

let model = null; // of the API, once it is known
let refusedKey = null; // that the server did not take
let timer = null;
let listener = () => {};

// The server's own limits; nothing where it has not told any.
export const limits = () => model ?? {};

// Calls back with the model when it is known, and when the server has come back with another.
export function onModel(callback) {
  listener = callback;
}

// Asks the server what it serves. A key that is missing or wrong opens the settings, once.
export async function connect() {
  const key = settings.key();
  try {
    model = await api.model(key);
    refusedKey = null;
    listener(model);
  } catch (error) {
    if (error.status === 401 && key !== refusedKey) settings.askForKey(sentence(error.message));
    if (error.status === 401) refusedKey = key;
  }
  await check();
}

// Asks for the state and says it, again and again while there is something to say.
export async function check() {
  clearTimeout(timer);
  const state = await api.state();
  const locked = state === "ready" && refusedKey !== null;
  show(locked ? "locked" : state);
  clearTimeout(timer); // another check may have begun meanwhile
  if (state !== "ready" || (!model && !locked)) timer = setTimeout(recheck, AGAIN);
  return state;
}

async function recheck() {
  if ((await check()) === "ready") await connect();
}

function show(state) {
  const banner = element("banner");
  const words = WORDS[state] ?? "";
  // The same words are not said twice by a screen reader.
  if (banner.textContent !== words) banner.textContent = words;
  banner.hidden = !words;
  banner.className = ["starting", "compiling"].includes(state) ? "busy" : "trouble";
}

// Says why nothing comes while an answer is waited for; returns what ends it.
export function explainSilence() {
  const waiting = setInterval(check, PATIENCE);
  return () => {
    clearInterval(waiting);
    if (element("banner").className === "busy") check();
  };
}

export function setUp() {
  // A laptop that was asleep, or a phone that was somewhere else.
  document.addEventListener("visibilitychange", () => document.hidden || check());
  window.addEventListener("online", check);
  connect();
}
