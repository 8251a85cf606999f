// Puts the parts together: what the user does, what the server says, what is shown.

import * as api from "./api.js";
import { advance } from "./replay.js";
import { find, heard, initial, isBusy, isOpen, lanes, messages, reduce, sentences } from "./state.js";
import { announce, keyDialog, render } from "./view.js";

const RETRIES = 20;
const REPLAY_PACE = 90; // milliseconds a step if the pace is the server's, which is over
const at = (id) => document.getElementById(id);
const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;

let state = initial({ pace: isCalm ? 0 : 60 });
let key = null; // kept here and nowhere else
const open = new Map(); // of each run under way: what stops it
const unsaid = new Map(); // of each run: text that is no whole sentence yet

function dispatch(event) {
  state = reduce(state, event);
}

// Frames

function frame(now) {
  requestAnimationFrame(frame);
  for (const run of state.turns.flatMap((turn) => turn.runs)) {
    const pace = state.settings.pace || (run.isReplay ? REPLAY_PACE : 0);
    const next = advance(run, now, pace, isOpen(run));
    if (next !== run) {
      const { id, shown, shownAt, isPlaying } = next;
      dispatch({ type: "show", id, shown, shownAt, isPlaying });
    }
  }
  const isDown = innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
  render(state, act);
  if (isDown && state.turns.some((turn) => turn.runs.some((run) => run.isPlaying && !run.isReplay))) scrollDown();
}

function scrollDown() {
  scrollTo({ top: document.documentElement.scrollHeight });
}

// The server

async function connect() {
  try {
    dispatch({ type: "models", models: await api.models(key) });
    if (state.models.some((model) => model.state === "loading")) setTimeout(connect, 700);
  } catch (error) {
    if (error.status === 401) {
      dispatch({ type: "needKey", problem: key ? error.message : "" });
    } else {
      dispatch({ type: "unreachable", problem: error.message });
      setTimeout(connect, 2000);
    }
  }
  keyDialog(state.phase === "key", state.problem);
}

async function answer(id) {
  const stop = new AbortController();
  open.set(id, stop);
  unsaid.set(id, "");
  try {
    await attempts(id, stop.signal);
    dispatch({ type: "done", id });
  } catch (error) {
    if (stop.signal.aborted) {
      dispatch({ type: "stopped", id });
    } else {
      dispatch({ type: "failed", id, problem: error.message });
      if (error.status === 401) dispatch({ type: "needKey", problem: error.message });
      keyDialog(state.phase === "key", state.problem);
    }
  }
  open.delete(id);
  say(id, "", true);
}

async function attempts(id, signal) {
  for (let left = RETRIES; ; left--) {
    try {
      return await once(id, signal);
    } catch (error) {
      if (!error.passes || left === 0) throw error;
      for (let seconds = error.retryAfter ?? 2; seconds > 0; seconds--) {
        dispatch({ type: "wait", id, problem: error.message, seconds });
        await sleep(1000, signal);
      }
    }
  }
}

async function once(id, signal) {
  const { model } = find(state, id);
  const body = api.requestBody(state.settings, state.models.find((m) => m.id === model), messages(state, id));
  for await (const event of api.answer(body, { key, signal })) {
    for (const change of heard(id, event, performance.now())) {
      dispatch(change);
      if (change.type === "text") say(id, change.text, false);
    }
  }
}

function sleep(time, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, time);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** Says final text to screen readers, a sentence at a time. */
function say(id, text, isEnd) {
  const [whole, rest] = sentences((unsaid.get(id) ?? "") + text);
  const said = isEnd ? whole + rest : whole;
  unsaid.set(id, isEnd ? "" : rest);
  if (!said.trim()) return;
  announce(lanes(state).length > 1 ? `${find(state, id)?.model ?? ""}: ${said}` : said);
}

// The user

const act = {
  play(id) {
    const run = find(state, id);
    const isPlaying = !run.isPlaying;
    const isOver = run.shown >= run.frames.length - 1;
    dispatch({ type: "show", id, isPlaying, isReplay: true, shown: isPlaying && isOver ? 0 : run.shown, shownAt: performance.now() });
  },
  seek(id, shown) {
    dispatch({ type: "show", id, shown, isPlaying: false, isReplay: true });
  },
  retry(id) {
    dispatch({ type: "retry", id, at: performance.now() });
    answer(id);
  },
  async copy(id, button) {
    const done = await navigator.clipboard?.writeText(find(state, id).text).then(() => true, () => false);
    button.textContent = done ? "Copied" : "Cannot copy";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  },
};

function ask(prompt) {
  if (!prompt.trim() || isBusy(state) || lanes(state).length === 0) return;
  const first = state.runs;
  dispatch({ type: "ask", prompt, at: performance.now() });
  for (let id = first; id < state.runs; id++) answer(id);
  at("prompt").value = "";
  at("prompt").focus();
  render(state, act);
  scrollDown();
}

function stopAll() {
  for (const stop of open.values()) stop.abort();
}

function number(input) {
  return input.value === "" || !input.checkValidity() ? null : input.valueAsNumber;
}

function readSettings() {
  dispatch({ type: "set", settings: {
    mode: at("mode").value,
    edit: at("edit").value,
    blockLength: number(at("block-length")),
    maxTokens: number(at("max-tokens")),
    temperature: number(at("temperature")),
    seed: number(at("seed")),
    pace: Number(at("pace").value),
  } });
}

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = `Theme: ${theme}`;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Storage may be forbidden; the theme then lasts as long as the page.
  }
}

function storedTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

function listen() {
  at("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(at("prompt").value);
  });
  at("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask(at("prompt").value);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopAll();
  });
  at("stop").addEventListener("click", () => {
    stopAll();
    at("prompt").focus();
  });
  at("new-chat").addEventListener("click", () => {
    stopAll();
    dispatch({ type: "clear" });
    render(state, act);
    at("prompt").focus();
  });
  at("examples").addEventListener("click", (event) => {
    if (event.target.matches("button")) ask(event.target.textContent);
  });
  at("settings").addEventListener("submit", (event) => event.preventDefault());
  at("settings").addEventListener("input", readSettings);
  at("threshold").addEventListener("input", (event) =>
    dispatch({ type: "set", settings: { threshold: event.target.valueAsNumber } }));
  at("threshold-reset").addEventListener("click", () => {
    dispatch({ type: "set", settings: { threshold: null } });
    at("threshold").focus();
  });
  at("model").addEventListener("change", (event) => dispatch({ type: "choose", chosen: event.target.value }));
  at("beside").addEventListener("change", (event) => dispatch({ type: "choose", beside: event.target.value }));
  at("theme").addEventListener("click", () => {
    const next = THEMES.indexOf(document.documentElement.dataset.theme) + 1;
    setTheme(THEMES[next % THEMES.length]);
  });
  at("key-form").addEventListener("submit", () => {
    key = at("key").value;
    at("key").value = "";
    dispatch({ type: "unreachable", problem: "" });
    connect();
  });
  // Nothing can be done without a key.
  at("key-dialog").addEventListener("close", () => keyDialog(state.phase === "key", state.problem));
}

const isWide = matchMedia("(min-width: 60rem)");
const openPanel = () => (at("panel").open = isWide.matches);
isWide.addEventListener("change", openPanel);
openPanel();
setTheme(THEMES.includes(storedTheme()) ? storedTheme() : "auto");
at("pace").value = String(state.settings.pace);
listen();
connect();
requestAnimationFrame(frame);
