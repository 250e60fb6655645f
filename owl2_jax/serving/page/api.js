// The server's API: a streamed answer, the model's name, the server's state, and where the model looked.

const HEALTH_SECONDS = 20; // a server that compiles is slow, one that takes longer cannot be reached

// An answer other than the one hoped for. `status` is that of HTTP, or 0 where there was none.
export class ServerError extends Error {
  constructor(message, status = 0, { code = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export const isAbort = (error) => error.name === "AbortError";

const UNREACHABLE = "the server cannot be reached";
const LOST = "the connection to the server was lost before the answer was finished";

// Adds what every call carries, and turns whatever goes wrong into a `ServerError` with words.
async function call(path, key, options = {}) {
  const headers = new Headers();
  if (options.body) headers.set("Content-Type", "application/json");
  try {
    // A key of letters that no header can carry is none that the server knows.
    if (key) headers.set("Authorization", `Bearer ${key}`);
  } catch {
    throw new ServerError("the API key holds characters that cannot be sent", 401);
  }
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    throw isAbort(error) ? error : new ServerError(UNREACHABLE);
  });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const said = body?.error?.message;
  const message = typeof said === "string" ? said : wordsFor(response.status);
  return new ServerError(message, response.status, {
    code: body?.error?.code ?? null,
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

// What stands between the page and the server has answered, and not in the server's words.
function wordsFor(status) {
  if ([502, 503, 504].includes(status)) return `the server does not answer (status ${status}); is it running?`;
  if (status === 413) return "the request is too large for what stands before the server (status 413)";
  return `the server answered with status ${status}`;
}

// The model that is served: { id, examples, max_images, max_body_bytes, max_pixels, image_formats, ... }.
export async function model(key) {
  return (await (await call("v1/models", key)).json()).data[0];
}

// starting, compiling, ready, stopping, failed; or unreachable.
export async function state() {
  try {
    const response = await fetch("healthz/live", { signal: AbortSignal.timeout(HEALTH_SECONDS * 1000) });
    const { state } = await response.json();
    return typeof state === "string" ? state : "unreachable";
  } catch {
    return "unreachable";
  }
}

// Yields the text of an answer piece by piece; returns why it ended.
export async function* answer(request, key, signal) {
  const body = JSON.stringify({ ...request, stream: true });
  const response = await call("v1/chat/completions", key, { method: "POST", body, signal });
  let reason = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return reason;
    const value = JSON.parse(data);
    if (value.error) throw new ServerError(value.error.message, 500);
    const choice = value.choices[0];
    reason = choice?.finish_reason ?? reason;
    if (choice?.delta?.content) yield choice.delta.content;
  }
  throw new ServerError(LOST);
}

// The data of server-sent events.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw isAbort(error) ? error : new ServerError(LOST);
    });
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield block.slice(6);
    }
  }
}

// { image_mode, images: [{ share, weights: [[...]] }] } for a conversation and its answer.
export async function attention(messages, text, key) {
  const body = JSON.stringify({ messages, answer: text });
  return (await call("v1/attention", key, { method: "POST", body })).json();
}
