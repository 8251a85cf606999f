// What the page knows, and how each event changes it. Pure: nothing here touches the document.

/** What the page knows at first. */
export function initial(settings = {}) {
  return {
    phase: "connecting", // connecting, loading, ready, failed, key
    problem: "",
    models: [],
    chosen: "",
    beside: "",
    settings: {
      mode: "", threshold: null, blockLength: null, edit: "",
      maxTokens: null, temperature: null, seed: null, pace: 60, ...settings,
    },
    turns: [],
    runs: 0,
  };
}

const changes = {
  models: (state, { models }) => withModels(state, models),
  unreachable: (state, { problem }) => ({ ...state, phase: "connecting", problem }),
  needKey: (state, { problem }) => ({ ...state, phase: "key", problem }),
  choose: (state, { chosen = state.chosen, beside = state.beside }) => ({
    ...state, chosen, beside: beside === chosen ? "" : beside,
  }),
  set: (state, { settings }) => ({ ...state, settings: { ...state.settings, ...settings } }),
  clear: (state) => ({ ...state, turns: [] }),
  ask,
  retry: (state, { id, at }) => change(state, id, (run) => begin(run.id, run, at)),
  wait: (state, { id, problem, seconds }) =>
    change(state, id, (run) => ({ ...run, status: "waiting", problem, seconds })),
  draft: (state, { id, frame }) =>
    change(state, id, (run) => ({ ...run, ...running, frames: [...run.frames, frame] })),
  text: (state, { id, text, tokens }) =>
    change(state, id, (run) => ({
      ...run, ...running, text: run.text + text, tokens: [...run.tokens, ...tokens],
    })),
  cost: (state, { id, cost, finish }) => change(state, id, (run) => ({ ...run, cost, finish })),
  done: (state, { id }) => change(state, id, (run) => ({ ...run, status: "done" })),
  stopped: (state, { id }) => change(state, id, (run) => ({ ...run, status: "stopped", problem: "" })),
  failed: (state, { id, problem }) => change(state, id, (run) => ({ ...run, status: "failed", problem })),
  show: (state, { id, ...shown }) => change(state, id, (run) => ({ ...run, ...shown })),
};
const running = { status: "running", problem: "" };

/** Returns the state after `event`, whose `type` is one of the above. */
export function reduce(state, event) {
  return changes[event.type](state, event);
}

/** Returns whether an answer is under way. */
export function isBusy(state) {
  return state.turns.some((turn) => turn.runs.some(isOpen));
}

/** Returns whether more may come of a run. */
export function isOpen(run) {
  return run.status === "asking" || run.status === "waiting" || run.status === "running";
}

/** Returns the run of an id. */
export function find(state, id) {
  return state.turns.flatMap((turn) => turn.runs).find((run) => run.id === id);
}

/** Returns the models that answer, side by side. */
export function lanes(state) {
  const named = [state.chosen, state.beside].map((id) => state.models.find((m) => m.id === id));
  return named.filter((model) => model?.state === "ready");
}

/** Returns what was said before run `id` in its lane, the question included. */
export function messages(state, id) {
  const said = [];
  for (const turn of state.turns) {
    const lane = turn.runs.findIndex((run) => run.id === id);
    said.push({ turn, lane });
    if (lane >= 0) break;
  }
  const lane = said.at(-1).lane;
  return said.flatMap(({ turn, lane: asked }) => {
    const question = { role: "user", content: turn.prompt };
    const run = turn.runs[lane] ?? turn.runs[0];
    if (asked >= 0 || !run.text) return [question];
    return [question, { role: "assistant", content: run.text }];
  });
}

/** Returns the events of the state that an event of the server stands for. */
export function heard(id, { type, said }, at) {
  if (type === "draft") {
    const { block, step, start, tokens, open } = said;
    return [{ type: "draft", id, frame: { block, step, start, tokens, open, at } }];
  }
  const choice = said.choices?.[0];
  const events = [];
  const tokens = (choice?.logprobs?.content ?? []).map(({ token, logprob }) => ({
    text: token, confidence: Math.exp(logprob),
  }));
  const text = choice?.delta?.content ?? "";
  if (text || tokens.length) events.push({ type: "text", id, text, tokens });
  if (choice?.dllm) events.push({ type: "cost", id, cost: choice.dllm, finish: choice.finish_reason });
  return events;
}

/** Cuts whole sentences off a text that grows: `[sentences, rest]`. */
export function sentences(text) {
  const end = /[.!?…。！？\n]["'”’)]*(?=\s)(?!.*[.!?…。！？\n]["'”’)]*\s)/s.exec(text);
  const cut = end ? end.index + end[0].length : 0;
  return [text.slice(0, cut), text.slice(cut)];
}

function withModels(state, models) {
  const ready = models.filter((model) => model.state === "ready");
  const isLoading = models.some((model) => model.state === "loading");
  const phase = ready.length ? "ready" : isLoading ? "loading" : "failed";
  const next = { ...state, phase, problem: "", models };
  const has = (id) => ready.some((model) => model.id === id);
  const diffusion = ready.find((model) => model.method === "diffusion");
  if (!has(next.chosen)) next.chosen = (diffusion ?? ready[0])?.id ?? "";
  // Both kinds are compared unless somebody decides otherwise.
  const other = ready.find((model) => model.method === "autoregression");
  const isFirst = !isLoading && (state.phase === "connecting" || state.phase === "loading");
  if (isFirst && diffusion && other && !state.turns.length) next.beside = other.id;
  if (!has(next.beside)) next.beside = "";
  return next;
}

function ask(state, { prompt, at }) {
  const runs = lanes(state).map((model, lane) =>
    begin(state.runs + lane, { model: model.id, method: model.method, goesOn: !model.chat_template }, at));
  const turn = { prompt, runs };
  return { ...state, turns: [...state.turns, turn], runs: state.runs + runs.length };
}

function begin(id, { model, method, goesOn }, at) {
  return {
    id, model, method, goesOn, begun: at, status: "asking", // asking, waiting, running, done, stopped, failed
    problem: "", seconds: 0, text: "", cost: null, finish: null,
    tokens: [], // final ones: { text, confidence }
    frames: [], // one per step: { block, step, start, tokens, open, at }
    shown: -1, shownAt: 0, isPlaying: true, isReplay: false,
  };
}

function change(state, id, alter) {
  const turns = state.turns.map((turn) =>
    turn.runs.some((run) => run.id === id)
      ? { ...turn, runs: turn.runs.map((run) => (run.id === id ? alter(run) : run)) }
      : turn);
  return { ...state, turns };
}
