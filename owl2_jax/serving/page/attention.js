// Shows where the model looked: the image, bright where it looked most.

const WIDEST = 280; // CSS pixels
const DARKEST = 0.8; // opacity of the shade where it looked least

// A figure of an image (a URL) under the weights of its patches, float[G][G].
export async function lookFigure(url, weights, mode, caption) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  const scale = Math.min(WIDEST / image.naturalWidth, WIDEST / image.naturalHeight);
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Where the model looked");
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(shade(weights), ...seenSquare(mode, canvas.width, canvas.height));
  const figure = document.createElement("figure");
  const text = document.createElement("figcaption");
  text.className = "note";
  text.textContent = caption;
  figure.append(canvas, text);
  return figure;
}

// The part of an image that the model's square stands for: x, y, width, height.
export function seenSquare(mode, width, height) {
  if (mode === "resize") return [0, 0, width, height];
  const side = mode === "pad" ? Math.max(width, height) : Math.min(width, height);
  return [(width - side) / 2, (height - side) / 2, side, side];
}

// An image of one pixel per patch: clear at the largest weight, dark at the smallest.
function shade(weights) {
  const size = weights.length;
  const flat = weights.flat();
  const low = Math.min(...flat);
  const range = Math.max(...flat) - low || 1;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(size, size);
  flat.forEach((weight, i) => {
    pixels.data.set([8, 10, 30, 255 * DARKEST * (1 - (weight - low) / range)], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}
