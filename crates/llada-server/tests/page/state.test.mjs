// The pure parts of the page; run by the Rust test with `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EventParser, meaning } from "../../page/api.js";
import { blank, figures, next, placed, request, textOf } from "../../page/state.js";

const token = (text, confidence = 0.9) => ({ text, confidence, step: 0 });
const draft = (block, tokens) => ({ type: "draft", draft: { block, step: 0, start: 0, tokens, open: 0 } });
const after = (events) => events.reduce(next, blank());

test("events are cut wherever a chunk of bytes ends", () => {
  const stream = 'event: draft\ndata: {"a":1}\n\n: comment\n\ndata: [DONE]\r\n\r\n';
  for (let size = 1; size < stream.length; size += 1) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < stream.length; at += size) events.push(...parser.push(stream.slice(at, at + size)));
    assert.deepEqual(events, [{ name: "draft", data: '{"a":1}' }, { name: "message", data: "[DONE]" }]);
  }
});

test("chunks mean text, the end and problems", () => {
  const chunk = (body) => meaning({ name: "message", data: JSON.stringify(body) });
  assert.deepEqual(chunk({ choices: [{ delta: { content: "hi" }, finish_reason: null }] }), [{ type: "text", text: "hi" }]);
  assert.deepEqual(chunk({ choices: [{ delta: {}, finish_reason: "stop", dllm: { tpf: 2 } }] }), [
    { type: "end", reason: "stop", cost: { tpf: 2 } },
  ]);
  assert.deepEqual(chunk({ error: { message: "bad" } }), [{ type: "problem", message: "bad" }]);
  assert.deepEqual(meaning({ name: "message", data: "[DONE]" }), []);
});

test("a final block keeps the shades of its tokens", () => {
  const answer = after([draft(0, [token(" a", 0.4), null]), draft(0, [token(" a", 0.4), token(" b")]), { type: "text", text: " a b" }]);
  assert.equal(textOf(answer), " a b");
  assert.deepEqual(answer.final[0].tokens.map((t) => t.confidence), [0.4, 0.9]);
  assert.deepEqual(answer.blocks, []);
});

test("text in pieces takes the tokens that spell it and leaves the others", () => {
  const answer = after([draft(0, [token("a"), token("b"), null]), { type: "text", text: "a" }]);
  assert.deepEqual(answer.blocks[0].tokens.map((t) => t?.text ?? null), ["b", null]);
});

test("text that no draft spelled is shown as it is", () => {
  const answer = after([draft(0, [token("x"), null]), { type: "text", text: "other" }]);
  assert.equal(answer.final[0].tokens, null);
  assert.equal(textOf(answer), "other");
});

test("a token that changed is an edit, one that is placed is none", () => {
  const answer = after([draft(0, [token("a"), null]), draft(0, [token("b"), token("c")])]);
  assert.deepEqual(answer.blocks[0].tokens.map((t) => t.edited), [true, false]);
});

test("blocks stay in order, and frames do not change afterwards", () => {
  const first = after([draft(1, [null])]);
  const second = next(first, draft(0, [token("a")]));
  assert.deepEqual(second.blocks.map((block) => block.block), [0, 1]);
  assert.deepEqual(first.blocks.map((block) => block.block), [1]);
});

test("figures are counted until the server tells them", () => {
  const open = after([draft(0, [token("a"), token("b"), null])]);
  assert.equal(placed(open), 2);
  assert.deepEqual(figures(open, 2), { tokens: 2, perSecond: 1, perForward: 2, forwards: 1, edits: null });
  const cost = { tokens: 7, tokens_per_second: 70, tpf: 3.5, denoise_forwards: 2, edits: 1 };
  const done = next(open, { type: "end", reason: "stop", cost });
  assert.deepEqual(figures(done, 2), { tokens: 7, perSecond: 70, perForward: 3.5, forwards: 2, edits: 1 });
});

test("a request has only what its model honours", () => {
  const settings = { threshold: 0.7, mode: "", block: 16, tokens: 9, temperature: 0 };
  const messages = [{ role: "user", content: "hi" }];
  const ar = request(settings, { id: "p", dllm: { method: "autoregression" } }, messages);
  assert.deepEqual(ar, { model: "p", messages, max_tokens: 9, temperature: 0, stream: true });
  const child = { id: "c", dllm: { method: "diffusion" } };
  assert.equal(request(settings, child, messages).threshold, 0.7);
  assert.equal(request({ ...settings, mode: "q" }, child, messages).threshold, undefined);
});
