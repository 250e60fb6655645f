"""Contrast of a page's text in a browser, as WCAG 2.1 counts it (1.4.3): 4.5 to 1, large text 3 to 1."""

from __future__ import annotations

from playwright.sync_api import Page

# Every text that is shown, with its own colour and everything that lies below it, from the page upwards:
# grounds of the elements around it, or in a drawing the boxes that it stands in.
# What fades in is taken as it ends.
_FAINT = """() => {
  document.getAnimations()
    .filter((one) => Number.isFinite(one.effect.getComputedTiming().endTime))
    .forEach((one) => one.finish());
  const parsed = (colour, opacity = 1) => {
    const part = colour.match(/[\\d.]+/g).map(Number);
    return [part[0], part[1], part[2], (part.length > 3 ? part[3] : 1) * opacity];
  };
  const over = (top, ground) => top.slice(0, 3).map((one, i) => one * top[3] + ground[i] * (1 - top[3]));
  const light = (colour) => colour
    .map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, i) => sum + one * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const around = (element) => element ? [...around(element.parentElement), element] : [];
  const boxes = (text) => {
    const inside = text.getBoundingClientRect();
    const x = inside.x + inside.width / 2, y = inside.y + inside.height / 2;
    return [...text.ownerSVGElement.querySelectorAll("rect")].filter((rect) => {
      const box = rect.getBoundingClientRect();
      return box.left < x && x < box.right && box.top < y && y < box.bottom;
    });
  };
  const shown = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const seen = new Map();
  const look = (element, words, colour, style) => {
    let ground = [255, 255, 255], opacity = 1;
    for (const one of around(element)) {
      const its = getComputedStyle(one);
      ground = over(parsed(its.backgroundColor), ground);
      opacity *= Number(its.opacity);
    }
    if (element.ownerSVGElement) for (const box of boxes(element)) {
      const its = getComputedStyle(box);
      if (its.fill != "none") ground = over(parsed(its.fill, Number(its.fillOpacity)), ground);
    }
    const found = ratio(over(parsed(colour, opacity), ground), ground);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const kind = `${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""}`;
    const before = seen.get(kind);
    if (!before || found - needed < before.found - before.needed)
      seen.set(kind, { kind, words: words.slice(0, 30), found, needed });
  };
  for (const input of document.querySelectorAll("input[placeholder]")) {
    const style = getComputedStyle(input, "::placeholder");
    if (shown(input) && !input.value) look(input, input.placeholder, style.color, style);
  }
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, words = texts.currentNode.textContent.trim();
    if (!words || element.closest("script, style, title, desc, noscript") || !shown(element)) continue;
    const style = getComputedStyle(element);
    look(element, words, element.ownerSVGElement ? style.fill : style.color, style);
  }
  return [...seen.values()];
}"""


def contrasts(page: Page) -> dict[str, tuple[str, float, float]]:
    """{tag and classes: (some words, least contrast, what it should be)} of the text that a page shows."""
    return {one["kind"]: (one["words"], one["found"], one["needed"]) for one in page.evaluate(_FAINT)}
