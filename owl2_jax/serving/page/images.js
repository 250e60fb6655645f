// Images from files, the clipboard or a drop: checked at once, and made ready to be sent.

import { count } from "./dom.js";

const LONGEST_SIDE = 2048; // pixels; the models see far less
const LARGEST_FILE = 3 * 2 ** 20; // bytes; a phone's connection should not have to carry more
const MIB = 2 ** 20;
const HEAD = 512; // bytes that tell what a file is

// What the first bytes of a file say it is; the names are the server's.
const BRANDS = { avif: "AVIF", avis: "AVIF", heic: "HEIC", heix: "HEIC", hevc: "HEIC", mif1: "HEIC", msf1: "HEIC" };
const KINDS = [
  [/^\xff\xd8\xff/, "JPEG"],
  [/^\x89PNG\r\n\x1a\n/, "PNG"],
  [/^GIF8/, "GIF"],
  [/^RIFF....WEBP/s, "WEBP"],
  [/^BM/, "BMP"],
  [/^(II\*\0|MM\0\*)/, "TIFF"],
  [/^P[1-6]\s/, "PPM"],
  [/^(\0\0\0\x0cjP {2}|\xff\x4f\xff\x51)/, "JPEG2000"],
  [/^%PDF/, "PDF"],
  [/^PK\x03\x04/, "ZIP"],
  [/^\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg/is, "SVG"],
  [/^\s*<(!doctype html|html)/i, "HTML"],
  [/^version https:\/\/git-lfs/, "git-lfs pointer"],
];
const OF_IMAGES = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIC"];
const IN_BROWSERS = ["JPEG", "PNG", "GIF", "WEBP", "BMP"]; // read by all of them

// Why a file is not taken, in words for people.
export class Refused extends Error {}

// A data: URL of a file. `limits` are the server's. Raises `Refused`.
export async function toDataUrl(file, limits) {
  const kind = await kindOf(file);
  const formats = limits.image_formats;
  if (formats ? !formats.includes(kind) : !file.type.startsWith("image/")) {
    throw new Refused(`${file.name} is not an image that can be used: ${found(file, kind)}; ${wayOut(kind, formats)}.`);
  }
  // The bytes tell the type; the system goes by the name of the file, or knows nothing of it.
  const typed = file.slice(0, file.size, OF_IMAGES.includes(kind) ? `image/${kind.toLowerCase()}` : file.type);
  const bitmap = await createImageBitmap(typed, { imageOrientation: "from-image" }).catch(() => null);
  if (!bitmap && IN_BROWSERS.includes(kind)) {
    throw new Refused(`${file.name} is a damaged ${kind} image: it cannot be read.`);
  }
  const url = await readUrl((bitmap && (await smaller(typed, bitmap, limits))) ?? typed);
  bitmap?.close();
  return url;
}

async function kindOf(file) {
  if (!file.size) throw new Refused(`${file.name} is empty.`);
  let bytes;
  try {
    bytes = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  } catch {
    throw new Refused(`${file.name} cannot be read; is it a folder?`);
  }
  const text = String.fromCharCode(...bytes);
  if (text.slice(4, 8) === "ftyp") return BRANDS[text.slice(8, 12)] ?? "video";
  return KINDS.find(([pattern]) => pattern.test(text))?.[1] ?? null;
}

function found(file, kind) {
  if (kind) return `it is of the kind ${kind}`;
  return file.type ? `its bytes are those of no image (${file.type})` : "its bytes are those of no image";
}

function wayOut(kind, formats) {
  if (["HEIC", "SVG", "AVIF"].includes(kind)) return "save it as JPEG or PNG";
  const known = (formats ?? ["JPEG", "PNG", "WEBP", "GIF"]).filter((name) => name !== "MPO");
  return `expected ${known.join(", ")}`;
}

// A smaller copy; null where none is needed.
async function smaller(file, bitmap, limits) {
  const sides = LONGEST_SIDE / Math.max(bitmap.width, bitmap.height);
  const area = Math.sqrt((limits.max_pixels ?? Infinity) / (bitmap.width * bitmap.height));
  const scale = Math.min(1, sides, area);
  if (scale === 1 && file.size <= LARGEST_FILE) return null;
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(bitmap.width * scale));
  canvas.height = Math.max(1, Math.floor(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // as the server does behind transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
}

function readUrl(blob) {
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(reader.error);
    reader.readAsDataURL(blob);
  });
}

// Why these images are too many or too large for one conversation; "" when they are not.
export function tooMuch(urls, limits) {
  const { max_images: most = Infinity, max_body_bytes: room = Infinity } = limits;
  if (urls.length > most) {
    if (most === 0) return "this server takes no images";
    return `the server takes at most ${count(most, "image")} in one conversation`;
  }
  const size = urls.reduce((sum, url) => sum + url.length, 0);
  if (size > room) {
    return `the images of this conversation would have ${mib(size)}, and the server takes ${mib(room)} at a time`;
  }
  return "";
}

const mib = (bytes) => `${(bytes / MIB).toFixed(1).replace(/\.0$/, "")} MiB`;
