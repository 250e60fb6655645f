// Pictures from files, the clipboard or a drop, ready to be sent.

const LONGEST_SIDE = 2048; // pixels; the models see far less
const LARGEST_FILE = 3 * 2 ** 20; // bytes; a phone's connection should not have to carry more

export function isPicture(file) {
  return file.type.startsWith("image/");
}

// A data: URL of a file; large ones are made smaller first.
export async function toDataUrl(file) {
  return readUrl((await smaller(file)) ?? file);
}

// A smaller copy; null where none is needed, or where the browser cannot read the file
// (the server then says what is wrong with it).
async function smaller(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (!bitmap) return null;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size <= LARGEST_FILE) return null;
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
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
