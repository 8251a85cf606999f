// The pure parts of the page: `node --test`.

import assert from "node:assert/strict";
import test from "node:test";

import { EventParser, defaultTokens, requestBody } from "../../page/api.js";
import { advance, cellsAt, meters, place, spelled, versus } from "../../page/replay.js";
import { find, heard, initial, isBusy, lanes, messages, reduce, sentences } from "../../page/state.js";

const DIFFUSION = { id: "child", state: "ready", method: "diffusion", context: 512, block_length: 8 };
const PARENT = { id: "parent", state: "ready", method: "autoregression", context: 512 };

function word(text, step = 0, confidence = 0.9) {
  return text === null ? null : { text, step, confidence };
}

function step(block, start, words, at = 0) {
  return { block, step: 0, start, at, tokens: words.map((text) => word(text)), open: words.filter((w) => w === null).length };
}

function after(...events) {
  return events.reduce(reduce, initial());
}

test("events are the same however the bytes are cut", () => {
  const text = ": hello\n\nevent: draft\r\ndata: {\"a\":1}\r\n\r\ndata: one\ndata:two\n\ndata: [DONE]\n\n";
  const whole = new EventParser().feed(text);
  assert.deepEqual(whole, [
    { type: "draft", data: '{"a":1}' },
    { type: "message", data: "one\ntwo" },
    { type: "message", data: "[DONE]" },
  ]);
  for (let size = 1; size < text.length; size++) {
    const parser = new EventParser();
    const events = [];
    for (let i = 0; i < text.length; i += size) events.push(...parser.feed(text.slice(i, i + size)));
    assert.deepEqual(events, whole, `pieces of ${size}`);
  }
});

test("a model that writes token by token is not asked for what has no effect", () => {
  const settings = { ...initial().settings, threshold: 0.5, mode: "s", blockLength: 4, edit: "off", seed: 0 };
  const other = requestBody(settings, PARENT, []);
  assert.deepEqual(Object.keys(other).sort(), ["logprobs", "max_tokens", "messages", "model", "seed", "stream", "stream_draft"]);
  const body = requestBody(settings, DIFFUSION, []);
  assert.deepEqual([body.threshold, body.mode, body.block_length, body.edit, body.seed], [0.5, "s", 4, "off", 0]);
  assert.equal(defaultTokens({ context: 1 << 17 }), 256);
  assert.equal(body.max_tokens, 128);
});

test("both kinds of model are compared until somebody chooses", () => {
  const loading = { id: "parent", state: "loading", stage: "weights" };
  let state = after({ type: "models", models: [DIFFUSION, loading] });
  assert.deepEqual(lanes(state), [DIFFUSION]);
  const later = after({ type: "models", models: [DIFFUSION, PARENT] });
  assert.deepEqual(lanes(later), [DIFFUSION, PARENT]);
  state = reduce(later, { type: "choose", beside: "" });
  assert.deepEqual(lanes(reduce(state, { type: "models", models: [DIFFUSION, PARENT] })), [DIFFUSION]);
  assert.equal(after({ type: "models", models: [loading] }).phase, "loading");
});

test("an answer is put together, and the next question says what came before in its lane", () => {
  let state = after({ type: "models", models: [DIFFUSION, PARENT] }, { type: "ask", prompt: "Hi", at: 0 });
  assert.ok(isBusy(state));
  const logprobs = { content: [{ token: "one", logprob: 0 }] };
  const chunk = { choices: [{ delta: { content: "one" }, logprobs }] };
  const last = { choices: [{ delta: {}, finish_reason: "stop", dllm: { tokens: 1 } }] };
  const draft = { block: 0, step: 0, start: 0, tokens: [null], open: 1 };
  for (const [type, said] of [["draft", draft], ["message", chunk], ["message", last]]) {
    state = heard(0, { type, said }, 5).reduce(reduce, state);
  }
  state = reduce(state, { type: "text", id: 1, text: "two", tokens: [] });
  state = [{ type: "done", id: 0 }, { type: "stopped", id: 1 }].reduce(reduce, state);
  assert.ok(!isBusy(state));
  assert.deepEqual(find(state, 0).frames, [{ ...draft, at: 5 }]);
  assert.deepEqual(find(state, 0).tokens, [{ text: "one", confidence: 1 }]);
  assert.deepEqual([find(state, 0).finish, find(state, 0).cost], ["stop", { tokens: 1 }]);
  state = reduce(state, { type: "ask", prompt: "More", at: 9 });
  assert.deepEqual(messages(state, 3).map((m) => m.content), ["Hi", "two", "More"]);
  assert.deepEqual(messages(state, 2).map((m) => m.content), ["Hi", "one", "More"]);
  state = reduce(state, { type: "failed", id: 2, problem: "no" });
  assert.equal(find(reduce(state, { type: "retry", id: 2, at: 1 }), 2).status, "asking");
});

test("cells show masks, what is new and what was edited at every step", () => {
  const frames = [step(0, 0, ["a", null]), step(0, 0, ["b", "c"]), step(1, 2, [null])];
  const seen = (at) => cellsAt(frames, at).map((c) => c.text);
  assert.deepEqual([seen(-1), seen(0), seen(1), seen(2)], [[], ["a", null], ["b", "c"], ["b", "c", null]]);
  const [edited, fresh] = cellsAt(frames, 1);
  assert.ok(edited.isEdited && !edited.isFresh && fresh.isFresh && !fresh.isEdited && fresh.isActive);
  const [old] = cellsAt(frames, 2);
  assert.ok(old.wasEdited && !old.isEdited && !old.isActive);
});

test("final tokens fill what missed drafts left open", () => {
  const frames = [step(1, 2, ["x", null])];
  const tokens = ["a", "b", "x", "y"].map((text) => ({ text, confidence: 0.5 }));
  const seen = (...known) => cellsAt(frames, 0, ...known).map((c) => c.text);
  assert.deepEqual(seen(), [null, null, "x", null]);
  assert.deepEqual(seen(tokens), ["a", "b", "x", null]);
  assert.deepEqual(seen(tokens, true), ["a", "b", "x", "y"]);
});

test("an answer ends where its text ends", () => {
  const cells = cellsAt([step(0, 0, [" a", "b", "<end>", "<end>"])], 0);
  assert.equal(spelled(cells, "ab"), 2);
  assert.equal(spelled(cells, " ab"), 2);
  assert.equal(spelled(cells, "other"), null);
  assert.equal(spelled([], ""), 0);
});

test("meters follow the steps, and the server's numbers close them", () => {
  const frames = [step(0, 0, ["a", null], 500), step(0, 0, ["a", "b"], 1000)];
  const run = { frames, tokens: [], begun: 0, cost: null };
  assert.deepEqual(meters(run, 1), { tokens: 2, steps: 2, tpf: 1, speed: 2, edits: 0 });
  const cost = { tokens: 2, denoise_forwards: 1, tpf: 2, tokens_per_second: 40, edits: 3 };
  assert.equal(meters({ ...run, cost }, 0).speed, 2);
  assert.deepEqual(meters({ ...run, cost }, 1), { tokens: 2, steps: 1, tpf: 2, speed: 40, edits: 3 });
  assert.deepEqual(meters(run, -1).tpf, null);
  assert.equal(place(run, 0), "step 1 of 2, block 1, 1 mask left");
});

test("steps are shown at the pace that was asked for", () => {
  let run = { frames: [1, 2, 3], shown: -1, shownAt: 0, isPlaying: true };
  assert.equal(advance(run, 1000, 0, true).shown, 2);
  run = advance(run, 1000, 60, true);
  assert.equal(run.shown, 0);
  assert.equal(advance(run, 1030, 60, true).shown, 0);
  run = advance(run, 1060, 60, true);
  assert.equal(run.shown, 1);
  run = advance(run, 9000, 60, true);
  assert.equal(run.shown, 2);
  assert.ok(advance(run, 9900, 60, true).isPlaying);
  assert.ok(!advance(run, 9900, 60, false).isPlaying);
});

test("two kinds are compared by tokens per step", () => {
  const of = (method, tpf) => ({ method, cost: tpf && { tpf } });
  assert.match(versus([of("diffusion", 3), of("autoregression", 1)]), /3\.00 times as many/);
  assert.equal(versus([of("diffusion", 3)]), null);
  assert.equal(versus([of("diffusion", 3), of("autoregression", null)]), null);
});

test("screen readers hear whole sentences", () => {
  assert.deepEqual(sentences("One. Two! An"), ["One. Two!", " An"]);
  assert.deepEqual(sentences("no end"), ["", "no end"]);
  assert.deepEqual(sentences("3.5 is"), ["", "3.5 is"]);
});
