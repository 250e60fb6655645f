// Markdown of an answer, shown without a word of it being read as HTML.
//
// markdown-it turns the text into tokens; elements are made from these one by one, of known names
// and with known attributes alone. Nothing is loaded: an image of an answer becomes a link.

import { copyButton } from "./copying.js";
import { make } from "./dom.js";
import MarkdownIt from "./vendor/markdown-it.esm.min.mjs";

const ELEMENTS = [
  "p", "em", "strong", "s", "blockquote", "ul", "ol", "li", "thead", "tbody", "tr", "th", "td", "hr", "br",
];
const PROTOCOLS = ["http:", "https:", "mailto:"];
const ALIGNMENT = /text-align:\s*(left|center|right)/;

const parser = new MarkdownIt({ html: false, linkify: true, breaks: true, maxNesting: 40 });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
// A link that is not allowed stays the text that it was.
parser.validateLink = (address) => safeAddress(address) !== null;

// A whole address of a harmless kind; null for any other, relative ones included.
export function safeAddress(address) {
  try {
    const url = new URL(address);
    return PROTOCOLS.includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const shown = new WeakMap(); // container -> keys of its blocks

// Shows a text in a container. What has not changed since the last call is left alone, so that
// nothing flickers and a marked passage stays marked. `growing`: more of the text is to come.
export function render(container, text, growing = false) {
  const blocks = topLevel(parser.parse(growing ? closed(text) : text, {}));
  const keys = blocks.map((tokens) => JSON.stringify(tokens));
  const before = shown.get(container) ?? [];
  blocks.forEach((tokens, i) => {
    if (keys[i] === before[i]) return;
    const old = container.children[i];
    if (old && lengthenCode(old, tokens)) return;
    const made = build(tokens);
    if (old) old.replaceWith(made);
    else container.append(made);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
  shown.set(container, keys);
}

// Tokens in groups, one per block of the text.
function topLevel(tokens) {
  const blocks = [];
  let depth = 0;
  for (const token of tokens) {
    if (depth === 0) blocks.push([]);
    blocks.at(-1).push(token);
    depth += token.nesting;
  }
  return blocks;
}

// The element of one block.
function build(tokens) {
  const root = make("div");
  append(root, tokens);
  return root.childElementCount === 1 ? root.firstElementChild : root;
}

function append(root, tokens) {
  const open = [root];
  for (const token of tokens) {
    if (token.hidden) continue; // the paragraphs of a tight list
    const parent = open.at(-1);
    if (token.nesting < 0) {
      open.pop();
    } else if (token.nesting > 0) {
      const made = opened(token);
      parent.append(made);
      open.push(made.classList.contains("wide") ? made.firstElementChild : made);
    } else if (token.type === "inline") {
      append(parent, token.children);
    } else {
      parent.append(leaf(token));
    }
  }
}

function opened(token) {
  if (token.type === "link_open") return link(token.attrGet("href"));
  // The page has a heading of its own above those of an answer.
  if (token.type === "heading_open") return make(`h${Math.min(Number(token.tag[1]) + 2, 6)}`);
  if (token.type === "table_open") return scrollable("wide", make("table"));
  const made = make(ELEMENTS.includes(token.tag) ? token.tag : "span");
  const start = Number(token.attrGet("start"));
  if (token.tag === "ol" && Number.isInteger(start) && token.attrGet("start") !== null) made.start = start;
  const side = ALIGNMENT.exec(token.attrGet("style") ?? "");
  if (side) made.style.textAlign = side[1];
  return made;
}

function leaf(token) {
  if (token.type === "fence" || token.type === "code_block") return codeBlock(token);
  if (token.type === "code_inline") return make("code", { textContent: token.content });
  if (token.type === "softbreak" || token.type === "hardbreak") return make("br");
  if (token.type === "hr") return make("hr");
  if (token.type === "image") return imageLink(token);
  return document.createTextNode(token.content);
}

function link(address) {
  const href = safeAddress(address ?? "");
  if (href === null) return make("span");
  return make("a", { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" });
}

// An image would be loaded from elsewhere, which may tell others what was said here.
function imageLink(token) {
  const made = link(token.attrGet("src"));
  made.append(token.content || "image");
  return made;
}

function scrollable(className, child) {
  const made = make("div", { className, tabIndex: 0 }, child);
  made.setAttribute("role", "group");
  made.ariaLabel = className === "wide" ? "Table" : "Code";
  return made;
}

function codeBlock(token) {
  const language = token.type === "fence" ? token.info.trim().split(/\s+/)[0] : "";
  const code = make("code", { textContent: token.content });
  const head = make(
    "div",
    { className: "code-head" },
    make("span", { textContent: language }),
    copyButton(() => code.textContent, () => code, "Copy the code"),
  );
  return make("div", { className: "code" }, head, scrollable("code-body", make("pre", {}, code)));
}

// Writes more code into a block that is shown already; false when it is another kind of block.
function lengthenCode(old, [token, ...others]) {
  if (others.length || token.type !== "fence" || !old.classList.contains("code")) return false;
  const language = old.querySelector(".code-head span").textContent;
  if (language !== token.info.trim().split(/\s+/)[0]) return false;
  old.querySelector("code").textContent = token.content;
  return true;
}

// A text that is still being written, with the marks at its end that have no other end yet
// closed or left out: otherwise they would be seen for a moment and then vanish.
export function closed(text) {
  if (inCode(text)) return text.replace(/\n[`~]{1,2}$/, "\n");
  // A line of dashes may become a list, a rule or a table; until then it would make a heading.
  const whole = text.replace(/\n[ \t]*(?:[-=*+_|:`~ \t]{1,3}|#{1,6}[ \t]*|\d{1,3}[.)]?[ \t]*)$/, "");
  if (inCode(whole)) return text; // what was left out is the end of the code
  const start = whole.lastIndexOf("\n\n") + 1;
  let last = whole.slice(start);
  last = last.replace(/!?\[([^\][]*)(\]\([^)\s]*)?$/, "$1");
  if (endsOpen(last, "`")) return whole.slice(0, start) + (last.endsWith("`") ? last.slice(0, -1) : `${last}\``);
  last = last.replace(/[ \t]*(\*{1,3}|~~)$/, (mark) => (endsOpen(last, mark.trim()) ? "" : mark));
  if (endsOpen(last, "**")) last = `${last.trimEnd()}**`;
  return whole.slice(0, start) + last;
}

// Whether a text ends in a block of code.
const inCode = (text) => (text.match(/^ {0,3}(```|~~~)/gm) ?? []).length % 2 === 1;

// Whether a mark stands in a text without its counterpart.
function endsOpen(text, mark) {
  const plain = text.replace(/`[^`]*`/g, "");
  return (plain.split(mark).length - 1) % 2 === 1;
}
