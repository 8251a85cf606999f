// The official JavaScript client against a running server.
// Usage: node contract.mjs BASE_URL   (models: `story`, by diffusion, and `parent`, token by token)

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const chat = (more) =>
  client.chat.completions.create({
    model: "story",
    messages: [{ role: "user", content: "Once upon a time" }],
    max_tokens: 24,
    ...more,
  });

const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert.deepEqual(names, ["story", "parent"]);

const whole = await chat({});
const text = whole.choices[0].message.content;
assert.equal(whole.choices[0].finish_reason, "length");
assert.equal(whole.usage.completion_tokens, 24);

let streamed = "";
let usage = null;
for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.equal(usage.completion_tokens, 24);

const eager = await chat({ threshold: 0.3, return_steps: true, logprobs: true });
assert.equal(eager.choices[0].dllm.placed.length, 24);
assert.equal(eager.choices[0].logprobs.content.length, 24);

const stream = await chat({ stream: true, max_tokens: 400 });
for await (const chunk of stream) {
  if (chunk.choices[0].delta.content) stream.controller.abort(); // goes away in the middle
}

const completion = await client.completions.create({
  model: "parent",
  prompt: "Once upon a time",
  max_tokens: 8,
});
assert.ok(completion.choices[0].text.length > 0);

await assert.rejects(chat({ top_p: 7 }), (error) => error.status === 400 && error.param === "top_p");
await assert.rejects(chat({ model: "none" }), (error) => error.status === 404);
console.log("contract kept");
