// Questions and answers: sending, stopping, asking again, and what happens when no answer comes.

import * as api from "./api.js";
import * as composer from "./composer.js";
import { messages } from "./conversation.js";
import { announce, element, sentence } from "./dom.js";
import * as server from "./server.js";
import * as settings from "./settings.js";
import { AnswerView, CUT, STOPPED, clear, dropRetry, notice, showQuestion } from "./turns.js";

let turns = [];
let running = null; // AbortController of the answer that is being written
let sending = false; // a question is on its way out of the field
let last = null; // the view of the last answer
let lastQuestion = null; // the article of the last question
let changed = () => {};

export const current = () => turns;

// Calls back whenever the turns are others than before; `soon` while an answer grows.
export function onChange(callback) {
  changed = callback;
}

export async function send() {
  if (running || sending) return;
  sending = true;
  const question = await composer.take().finally(() => (sending = false));
  if (!question) return;
  const turn = { role: "user", ...question, note: "" };
  turns.push(turn);
  lastQuestion = showQuestion(turn);
  composer.focus();
  await ask();
}

// Has the last question answered; `before` is the answer that a new one is to replace.
async function ask(before = null) {
  const asked = messages(turns, settings.system());
  const turn = { role: "assistant", text: "", images: [], note: "" };
  const own = turns;
  own.push(turn);
  notice("");
  dropRetry();
  const view = new AnswerView();
  const controller = new AbortController();
  setRunning(controller);
  changed();
  const error = await write(turn, view, asked, controller.signal);
  if (turns !== own) return; // a new chat was begun
  setRunning(null);
  if (turn.text) {
    showFinished(turn, view, asked);
    if (error && !api.isAbort(error)) server.check();
    announce(`Answer: ${turn.text}${turn.note ? ` (${turn.note})` : ""}`);
  } else {
    takeBack(view, before);
    tell(error, before !== null);
  }
  changed();
}

// Writes an answer as it comes; returns what went wrong, or null.
async function write(turn, view, asked, signal) {
  const heard = server.explainSilence();
  try {
    const request = { messages: asked, ...settings.values() };
    const pieces = api.answer(request, settings.key(), signal);
    for (let step = await pieces.next(); ; step = await pieces.next()) {
      if (step.done) {
        turn.note = step.value === "length" ? CUT : "";
        return turn.text ? null : new Error("the model gave an empty answer");
      }
      if (!turn.text) heard();
      turn.text += step.value;
      view.write(turn.text);
      changed({ soon: true });
    }
  } catch (error) {
    turn.note = api.isAbort(error) ? STOPPED : error.message;
    return error;
  } finally {
    heard();
  }
}

function showFinished(turn, view, asked) {
  view.finish(turn);
  view.offer(turn, retry, asked);
  last = view;
}

// Without an answer there was no question, either: it goes back into the field.
function takeBack(view, before) {
  view.remove();
  turns.pop();
  if (before) {
    turns.push(before);
    showAnswer(before);
    return;
  }
  composer.putBack(turns.pop());
  lastQuestion.remove();
  if (!turns.length) element("welcome").hidden = false;
  else offerRetry();
  composer.focus();
}

// Says why there is no answer. After a retry (`kept`) the former one is still there.
function tell(error, kept) {
  const where = kept ? "" : " Your question is back in the field.";
  if (api.isAbort(error)) {
    announce(`Stopped.${where}`);
    return;
  }
  const wait = error.retryAfter ? ` It may work in ${error.retryAfter} s.` : "";
  const end = /[.?!]$/.test(error.message) ? "" : ".";
  notice(`${sentence(error.message)}${end}${wait}${where}`);
  if (error.status === 401) settings.askForKey(sentence(error.message));
  else if (!error.status || error.status >= 500) server.check();
}

function offerRetry() {
  const answer = turns.pop();
  last?.remove();
  turns.push(answer);
  showAnswer(answer);
}

function retry() {
  if (running || sending) return;
  const before = turns.pop();
  last.remove();
  composer.focus();
  ask(before);
}

// Shows the last turn, a finished answer.
function showAnswer(turn) {
  dropRetry();
  showFinished(turn, new AnswerView(), messages(turns.slice(0, -1), settings.system()));
}

export function stop() {
  if (!running) return false;
  running.abort();
  composer.focus();
  return true;
}

// Begins again with some turns, those of a stored conversation or none.
export function show(stored) {
  running?.abort();
  setRunning(null);
  turns = [];
  last = lastQuestion = null;
  clear();
  for (const turn of stored) {
    turns.push(turn);
    if (turn.role === "user") lastQuestion = showQuestion(turn);
    else if (turn.text) showAnswer(turn);
  }
  recover();
  changed();
}

// A question that a reload left without an answer goes back into the field.
function recover() {
  if (turns.at(-1)?.role === "assistant" && !turns.at(-1).text) turns.pop();
  if (turns.at(-1)?.role !== "user") return;
  composer.putBack(turns.pop());
  lastQuestion.remove();
  element("welcome").hidden = turns.length > 0;
  notice("The page was left before an answer came. Your question is back in the field.");
}

function setRunning(controller) {
  running = controller;
  element("stop").hidden = !controller;
  element("send").hidden = !!controller;
}
