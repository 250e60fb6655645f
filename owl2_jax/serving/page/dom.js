// Elements of the page, made without ever reading a text as HTML.

export const element = (id) => document.getElementById(id);

// An element with properties and children; `className`, `textContent`, `onclick` and the like.
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function button(className, text, onclick, label = "") {
  const made = make("button", { type: "button", className, textContent: text, onclick });
  if (label) {
    made.ariaLabel = label;
    made.title = label;
  }
  return made;
}

// Has a screen reader say something; `again` makes the same words news.
export function announce(words) {
  const place = element("announcer");
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = words));
}

// "1 image", "2 images"
export const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
