// How turns look: questions, answers as they grow, and what can be done with them.

import * as api from "./api.js";
import { lookFigure } from "./attention.js";
import { copyButton } from "./copying.js";
import { button, element, make, sentence } from "./dom.js";
import { render } from "./markdown.js";
import * as scrolling from "./scrolling.js";
import * as settings from "./settings.js";

// How an answer may end that nothing is wrong with.
export const STOPPED = "stopped";
export const CUT = "cut at the length limit";
const CALM = [STOPPED, CUT];

const place = element("turns");

// Shows a question.
export function showQuestion(turn) {
  element("welcome").hidden = true;
  const article = make("article", { className: "user", ariaLabel: "You" });
  if (turn.images.length) {
    article.append(make("div", { className: "images" }, ...turn.images.map(image)));
  }
  if (turn.text) article.append(make("p", { textContent: turn.text }));
  place.append(article);
  scrolling.follow();
  return article;
}

function image(src, i) {
  const lost = (words) => make("span", { className: "unshown", textContent: words });
  if (!src) return lost("This image could not be kept, and is no longer sent.");
  const image = make("img", { src, alt: `image ${i + 1}` });
  image.onerror = () => opener.replaceWith(lost("no preview"));
  const opener = button("image", "", () => enlarge(src, image.alt), `Enlarge image ${i + 1}`);
  opener.append(image);
  return opener;
}

function enlarge(src, alt) {
  element("large-image").src = src;
  element("large-image").alt = alt;
  element("enlarged").showModal();
}

// An answer on the page; grows by `write`, ends with `finish`.
export class AnswerView {
  constructor() {
    this.body = make("div", { className: "body waiting" });
    this.article = make("article", { className: "assistant", ariaLabel: "Answer" }, this.body);
    this.article.ariaBusy = "true";
    this._due = 0;
    place.append(this.article);
    scrolling.follow();
  }

  // Shows the text so far, at most once a frame, and less often where that takes long.
  write(text) {
    this._text = text;
    this._due ||= requestAnimationFrame(() => this._draw());
  }

  _draw() {
    if (!this.article.ariaBusy) return; // it is finished, or gone
    const began = performance.now();
    render(this.body, this._text, true);
    const rest = 4 * (performance.now() - began);
    this._due = rest < 16 ? 0 : setTimeout(() => {
      this._due = 0;
      this.write(this._text);
    }, rest);
  }

  // Shows the whole answer of a turn and its buttons.
  finish(turn) {
    this._text = turn.text;
    this.article.ariaBusy = null;
    this.body.classList.remove("waiting");
    render(this.body, turn.text);
    const className = CALM.includes(turn.note) ? "note" : "error";
    if (turn.note) this.article.append(make("p", { className, textContent: sentence(turn.note) }));
  }

  // The buttons below; `retry` and `look` are called, and left out where there is nothing to call.
  offer(turn, retry, asked) {
    const actions = make("div", { className: "actions" });
    actions.append(copyButton(() => turn.text, () => this.body, "Copy the answer"));
    if (retry) actions.append(button("retry", "Retry", retry));
    const images = asked.flatMap((message) => imagesIn(message));
    if (images.length) {
      const look = button("look", "Where it looked", () => showLooks(look, this.article, asked, turn.text, images));
      look.ariaExpanded = "false";
      actions.append(look);
    }
    this.article.append(actions);
  }

  remove() {
    this.article.ariaBusy = null;
    this.article.remove();
  }
}

const imagesIn = ({ content }) =>
  Array.isArray(content) ? content.filter((part) => part.image_url).map((part) => part.image_url.url) : [];

// Only the last answer can be asked for again.
export function dropRetry() {
  for (const old of place.querySelectorAll(".retry")) old.remove();
}

async function showLooks(look, article, asked, answer, images) {
  const shown = article.querySelector(".looks");
  shown?.remove();
  look.ariaExpanded = String(!shown);
  if (shown) return;
  const looks = make("div", { className: "looks" }, make("p", { className: "note", textContent: "Looking …" }));
  article.append(looks);
  look.disabled = true;
  looks.replaceChildren(...(await figures(asked, answer, images)));
  look.disabled = false;
  look.focus();
  looks.scrollIntoView({ block: "nearest" });
}

async function figures(asked, answer, images) {
  try {
    const found = await api.attention(asked, answer, settings.key());
    return await Promise.all(
      found.images.map(({ share, weights }, i) => {
        const part = images.length > 1 ? `image ${i + 1}: ` : "";
        const caption = `${part}${Math.round(100 * share)} % of the answer's attention`;
        return lookFigure(images[i], weights, found.image_mode, caption);
      }),
    );
  } catch (error) {
    return [make("p", { className: "error", textContent: sentence(error.message) })];
  }
}

// Says that a question got no answer, and why; nothing takes the words away again.
export function notice(words) {
  element("notice").textContent = words;
  element("notice").hidden = !words;
  if (words) scrolling.follow();
}

export function clear() {
  place.replaceChildren();
  notice("");
  element("welcome").hidden = false;
}
