// Keeps the newest text in sight, unless the reader has scrolled up.

import { element } from "./dom.js";

const NEAR = 48; // CSS pixels from the end that still count as the end

const [log, newest] = ["log", "newest"].map(element);

let following = true;

export function follow() {
  following = true;
  toEnd();
}

function toEnd() {
  if (following) log.scrollTop = log.scrollHeight;
  newest.hidden = following || log.scrollHeight <= log.clientHeight + NEAR;
}

export function setUp() {
  let before = 0;
  log.addEventListener("scroll", () => {
    const top = log.scrollTop;
    // Text that arrives between a scroll and its event makes the end go away; only a reader goes up.
    if (log.scrollHeight - top - log.clientHeight < NEAR) following = true;
    else if (top < before) following = false;
    before = top;
    newest.hidden = following;
  });
  newest.addEventListener("click", () => {
    follow();
    element("text").focus();
  });
  // Whatever changes the room there is: the tray, a longer question, an image that has arrived, a phone's keyboard.
  const observer = new ResizeObserver(toEnd);
  observer.observe(log);
  observer.observe(element("turns"));
}
