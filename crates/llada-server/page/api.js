// What the page says to the server, and how it reads the answers.

/** A refusal or a fault, as the server words it. */
export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    const error = body?.error ?? {};
    super(error.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error.code ?? null;
    this.param = error.param ?? null;
    this.retryAfter = Number(retryAfter) || null;
  }
}

const headers = (key) => ({
  "content-type": "application/json",
  ...(key ? { authorization: `Bearer ${key}` } : {}),
});

async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(response.status, body, response.headers.get("retry-after"));
}

/** Lists the models, each with what it can do under `dllm`. */
export async function models(key) {
  const response = await checked(await fetch("v1/models", { headers: headers(key) }));
  return (await response.json()).data;
}

/** Asks for an answer and hands every event of its stream to `on`. Ends when the stream does. */
export async function complete(body, key, signal, on) {
  const request = { method: "POST", headers: headers(key), body: JSON.stringify(body), signal };
  const response = await checked(await fetch("v1/chat/completions", request));
  const parser = new EventParser();
  const decoder = new TextDecoder();
  for await (const bytes of chunks(response.body)) {
    for (const event of parser.push(decoder.decode(bytes, { stream: true }))) {
      for (const said of meaning(event)) on(said);
    }
  }
}

/** Iterates over a body; not every browser lets a stream be iterated itself. */
async function* chunks(body) {
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Cuts a text that arrives in pieces into server-sent events. */
export class EventParser {
  #rest = "";

  /** Returns the events that are complete now, `{ name, data }` each. */
  push(text) {
    this.#rest += text;
    const parts = this.#rest.split(/\r?\n\r?\n/);
    this.#rest = parts.pop();
    return parts.map(parse).filter((event) => event.data !== "");
  }
}

function parse(part) {
  let name = "message";
  const data = [];
  for (const line of part.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon < 1) continue; // a comment
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.slice(0, colon) === "event") name = value;
    if (line.slice(0, colon) === "data") data.push(value);
  }
  return { name, data: data.join("\n") };
}

/** Translates an event into what it means for an answer. */
export function meaning({ name, data }) {
  if (data === "[DONE]") return [];
  const body = JSON.parse(data);
  if (body.error) return [{ type: "problem", message: body.error.message }];
  if (name === "draft") return [{ type: "draft", draft: body }];
  const said = [];
  for (const choice of body.choices ?? []) {
    if (choice.delta?.content) said.push({ type: "text", text: choice.delta.content });
    if (choice.finish_reason) said.push({ type: "end", reason: choice.finish_reason, cost: choice.dllm ?? null });
  }
  return said;
}
