// The turns of a conversation: { role, text, pictures, note }, the user and the assistant in turn.
//
// A picture is a data: URL, or null where the browser had no room to keep it.

const ROLES = ["user", "assistant"];

// Messages of the API. Pictures that are lost are left out; an empty system prompt is none.
export function messages(turns, system = "") {
  const first = system ? [{ role: "system", content: system }] : [];
  return [...first, ...turns.map(message)];
}

function message(turn) {
  if (turn.role === "assistant") return { role: turn.role, content: turn.text };
  const pictures = turn.pictures.filter(Boolean).map((url) => ({ type: "image_url", image_url: { url } }));
  // A question whose pictures are all lost is an empty one.
  const text = turn.text || !pictures.length ? [{ type: "text", text: turn.text }] : [];
  return { role: turn.role, content: [...pictures, ...text] };
}

export const picturesOf = (turns) => turns.flatMap((turn) => turn.pictures).filter(Boolean);

// A stored value as { id, turns, draft: { text, pictures } }; null when it is no such thing.
export function understood(value) {
  if (!isObject(value) || !Array.isArray(value.turns) || typeof value.id !== "string") return null;
  const turns = value.turns.map(understoodTurn);
  const inTurn = turns.every((turn, i) => turn && turn.role === ROLES[i % 2]);
  if (!inTurn) return null;
  return { id: value.id, turns, draft: understoodQuestion(value.draft) ?? { text: "", pictures: [] } };
}

function understoodTurn(value) {
  const question = understoodQuestion(value);
  if (!question || !ROLES.includes(value.role)) return null;
  return { role: value.role, ...question, note: typeof value.note === "string" ? value.note : "" };
}

function understoodQuestion(value) {
  if (!isObject(value) || typeof value.text !== "string" || !Array.isArray(value.pictures)) return null;
  if (!value.pictures.every(isPicture)) return null;
  return { text: value.text, pictures: value.pictures };
}

const isPicture = (url) => url === null || (typeof url === "string" && /^data:image\/[\w.+-]+;base64,/.test(url));

const isObject = (value) => value !== null && typeof value === "object";

// The same value without its pictures, for a browser that has no room for them.
export function withoutPictures({ id, turns, draft }) {
  const bare = (question) => ({ ...question, pictures: question.pictures.map(() => null) });
  return { id, turns: turns.map(bare), draft: { ...draft, pictures: [] } };
}
