// The server's API: a streamed answer, the model's name, and where the model looked.

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Adds what every call carries, and turns an error body into an exception.
async function call(path, key, options = {}) {
  const headers = { ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  if (options.body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new ServerError(body?.error?.message ?? `status ${response.status}`, response.status);
  }
  return response;
}

// The model that is served: { id, examples, max_pictures, ... }.
export async function model(key) {
  return (await (await call("v1/models", key)).json()).data[0];
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
    reason = choice.finish_reason ?? reason;
    if (choice.delta.content) yield choice.delta.content;
  }
  throw new ServerError("the connection was lost before the answer was finished", 0);
}

// The data of server-sent events.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield block.slice(6);
    }
  }
}

// { image_mode, pictures: [{ share, weights: [[...]] }] } for a conversation and its answer.
export async function attention(messages, text, key) {
  const body = JSON.stringify({ messages, answer: text });
  return (await call("v1/attention", key, { method: "POST", body })).json();
}
