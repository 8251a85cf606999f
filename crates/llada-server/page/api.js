// What is said to the server: requests, and the events that come back.

/** An answer of the server that is an error. Status 0: the server was not reached. */
export class ApiError extends Error {
  constructor(status, message, { code = null, param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }

  /** Whether it is worth to come again by oneself. */
  get passes() {
    return this.status === 429 || (this.status === 503 && this.code === "model_loading");
  }
}

/** Cuts server-sent events out of text that comes in pieces. */
export class EventParser {
  #rest = "";
  #type = "message";
  #data = [];

  /** Returns the events, `{ type, data }`, that `text` completes. */
  feed(text) {
    // A carriage return at the end may be half of a line end.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter(Boolean);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") this.#type = value;
    if (field === "data") this.#data.push(value);
    return null;
  }

  #dispatch() {
    const event = this.#data.length ? { type: this.#type, data: this.#data.join("\n") } : null;
    this.#type = "message";
    this.#data = [];
    return event;
  }
}

/** Returns the body that asks `model` to answer; what has no effect on its kind is left out. */
export function requestBody(settings, model, messages) {
  const body = { model: model.id, messages, stream: true, stream_draft: true, logprobs: true };
  const say = (name, value) => {
    if (value !== null && value !== "") body[name] = value;
  };
  say("max_tokens", settings.maxTokens ?? defaultTokens(model));
  say("temperature", settings.temperature);
  say("seed", settings.seed);
  if (model.method !== "diffusion") return body;
  say("mode", settings.mode);
  say("threshold", settings.threshold);
  say("block_length", settings.blockLength);
  say("edit", settings.edit);
  return body;
}

/** Returns how many tokens are asked for if nobody says: room is left for more turns. */
export function defaultTokens(model) {
  return Math.min(256, Math.max(16, Math.floor(model.context / 4)));
}

/** Sends a request; throws an ApiError unless it succeeds. */
async function send(path, { key = null, body = null, signal = null } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  const options = { headers, signal, method: body ? "POST" : "GET", cache: "no-store" };
  if (body) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "the server cannot be reached");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const said = await response.json().catch(() => ({}));
  const { message, code, param } = said.error ?? {};
  const wait = Number(response.headers.get("retry-after"));
  const more = { code, param, retryAfter: wait > 0 ? wait : null };
  return new ApiError(response.status, message ?? `status ${response.status}`, more);
}

/** Returns the models of the server. */
export async function models(key) {
  const list = await (await send("v1/models", { key })).json();
  return list.data.map(({ id, dllm }) => ({ id, ...dllm }));
}

/** Yields the events of an answer, their data parsed; throws an ApiError if it breaks off. */
export async function* answer(body, { key, signal }) {
  const response = await send("v1/chat/completions", { key, body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  for (;;) {
    const { done, value } = await read(reader, signal);
    if (done) throw new ApiError(0, "the connection broke off");
    for (const { type, data } of parser.feed(value)) {
      if (data === "[DONE]") return;
      const said = JSON.parse(data);
      if (said.error) throw new ApiError(200, said.error.message, said.error);
      yield { type, said };
    }
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "the connection broke off");
  }
}
