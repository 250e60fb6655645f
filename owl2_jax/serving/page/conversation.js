// The turns of a conversation: { role, text, images, note }, the user and the assistant in turn.
//
// An image is a data: URL, or null where the browser had no room to keep it, or kept what is none.

const ROLES = ["user", "assistant"];

// Messages of the API. Images that are lost are left out; an empty system prompt is none.
export function messages(turns, system = "") {
  const first = system ? [{ role: "system", content: system }] : [];
  return [...first, ...turns.map(message)];
}

function message(turn) {
  if (turn.role === "assistant") return { role: turn.role, content: turn.text };
  const images = turn.images.filter(Boolean).map((url) => ({ type: "image_url", image_url: { url } }));
  // A question whose images are all lost is an empty one.
  const text = turn.text || !images.length ? [{ type: "text", text: turn.text }] : [];
  return { role: turn.role, content: [...images, ...text] };
}

export const imagesOf = (turns) => turns.flatMap((turn) => turn.images).filter(Boolean);

// A stored value as { id, turns, draft: { text, images } }; null when it is no such thing.
export function understood(value) {
  if (!isObject(value) || !Array.isArray(value.turns) || typeof value.id !== "string") return null;
  const turns = value.turns.map(understoodTurn);
  const inTurn = turns.every((turn, i) => turn && turn.role === ROLES[i % 2]);
  if (!inTurn) return null;
  const draft = understoodQuestion(value.draft) ?? { text: "", images: [] };
  return { id: value.id, turns, draft: { ...draft, images: draft.images.filter(Boolean) } };
}

function understoodTurn(value) {
  const question = understoodQuestion(value);
  if (!question || !ROLES.includes(value.role)) return null;
  return { role: value.role, ...question, note: typeof value.note === "string" ? value.note : "" };
}

function understoodQuestion(value) {
  if (!isObject(value) || typeof value.text !== "string" || !Array.isArray(value.images)) return null;
  return { text: value.text, images: value.images.map((url) => (isImage(url) ? url : null)) };
}

const isImage = (url) => typeof url === "string" && /^data:image\/[\w.+-]+;base64,/.test(url);

const isObject = (value) => value !== null && typeof value === "object";

// The same value without its images, for a browser that has no room for them.
export function withoutImages({ id, turns, draft }) {
  const bare = (question) => ({ ...question, images: question.images.map(() => null) });
  return { id, turns: turns.map(bare), draft: { ...draft, images: [] } };
}
