// The state as elements. Text of models and users is only ever set as text.

import { cellsAt, meters, place, spelled, versus } from "./replay.js";
import { isBusy, isOpen, lanes } from "./state.js";
import { defaultTokens } from "./api.js";

const at = (id) => document.getElementById(id);
const drawn = new Map(); // of each run: its elements, and what they show

/** Returns an element of a class, with children. */
function make(name, className = "", ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Sets a property if it differs: a browser would take an equal one for news. */
function put(element, name, value) {
  if (element[name] !== value) element[name] = value;
}

/** Shows `state`. `act` has what can be done to a run: play, seek, retry, copy. */
export function render(state, act) {
  renderNotice(state);
  renderControls(state);
  put(at("welcome"), "hidden", state.turns.length > 0);
  renderTurns(state, act);
}

function renderNotice(state) {
  const unready = state.models.filter((model) => model.state !== "ready");
  const lines = unready.map((model) =>
    model.state === "failed" ? `${model.id} cannot be served: ${model.reason}` : `${model.id} is loading: ${model.stage}`);
  if (state.phase === "connecting") lines.push(state.problem ? `${state.problem}; trying again …` : "Connecting …");
  const notice = at("notice");
  put(notice, "hidden", lines.length === 0 || state.phase === "key");
  put(notice, "textContent", lines.join("\n"));
  notice.classList.toggle("bad", Boolean(state.problem) || state.models.some((model) => model.state === "failed"));
}

function renderControls(state) {
  const ready = state.models.filter((model) => model.state === "ready");
  const names = ready.map((model) => [model.id, label(model)]);
  fill(at("model"), names.length ? names : [["", "none yet"]], state.chosen);
  put(at("model"), "disabled", names.length === 0);
  const others = ready.filter((model) => model.id !== state.chosen);
  fill(at("beside"), [["", "none"], ...others.map((model) => [model.id, label(model)])], state.beside);
  put(at("beside-field"), "hidden", others.length === 0);

  const models = lanes(state);
  const diffusion = models.find((model) => model.method === "diffusion");
  put(at("diffusion"), "disabled", !diffusion);
  put(at("block-length"), "placeholder", diffusion ? `${diffusion.block_length} (the model's)` : "");
  put(at("max-tokens"), "placeholder", models.length ? String(Math.min(...models.map(defaultTokens))) : "");
  const { threshold, mode } = state.settings;
  put(at("threshold-value"), "textContent", threshold === null ? (mode ? "the mode's" : "0.95 (default)") : threshold.toFixed(2));
  if (threshold === null) put(at("threshold"), "value", "0.95");
  put(at("threshold-reset"), "hidden", threshold === null);

  const isReady = models.length > 0;
  const busy = isBusy(state);
  put(at("send"), "hidden", busy);
  put(at("send"), "disabled", !isReady);
  put(at("stop"), "hidden", !busy);
  const continues = isReady && models.every((model) => !model.chat_template);
  put(at("prompt"), "placeholder", continues ? "Begin a text" : "Message");
  put(at("hint"), "textContent", !isReady ? "" : continues
    ? "This model goes on with your text. Try a beginning:"
    : "Ask anything, and watch the answer come out of masks.");
  const examples = at("examples");
  if (examples.dataset.kind !== `${isReady} ${continues}`) {
    examples.dataset.kind = `${isReady} ${continues}`;
    const texts = continues ? STORIES : QUESTIONS;
    examples.replaceChildren(...(isReady ? texts : []).map((text) => {
      const button = make("button", "example", text);
      button.type = "button";
      return button;
    }));
  }
}
const STORIES = ["Once upon a time", "One day, Tim saw a big", "The little dog was sad because"];
const QUESTIONS = ["Tell me a short story.", "Why is the sky blue?", "Write a list of five fruits."];

function label(model) {
  return `${model.id} (${kind(model.method)})`;
}

function kind(method) {
  return method === "diffusion" ? "diffusion" : "token by token";
}

function fill(select, options, value) {
  const key = JSON.stringify(options);
  if (select.dataset.options !== key) {
    select.dataset.options = key;
    select.replaceChildren(...options.map(([id, text]) => new Option(text, id)));
  }
  put(select, "value", value);
}

function renderTurns(state, act) {
  const turns = at("turns");
  const isOther = [...turns.children].some((section, i) => section.dataset.run !== String(state.turns[i]?.runs[0].id));
  if (isOther) {
    turns.replaceChildren();
    drawn.clear();
  }
  state.turns.forEach((turn, i) => {
    const section = turns.children[i] ?? turns.appendChild(makeTurn(turn, act));
    for (const run of turn.runs) renderRun(run);
    const sentence = turn.runs.some((run) => isOpen(run) || run.isPlaying) ? null : versus(turn.runs);
    const line = section.querySelector(".versus");
    put(line, "hidden", sentence === null);
    put(line, "textContent", sentence ?? "");
  });
}

function makeTurn(turn, act) {
  const runs = make("div", "runs", ...turn.runs.map((run) => makeRun(run, turn.prompt, act)));
  const line = make("p", "versus");
  line.hidden = true;
  const said = make("p", "said", make("span", "sr-only", "You: "), turn.prompt);
  const section = make("section", "turn", said, runs, line);
  section.dataset.run = turn.runs[0].id;
  return section;
}

const METERS = [
  ["speed", "tokens/s", 0], ["tpf", "TPF", 2], ["steps", "steps", 0], ["tokens", "tokens", 0],
];

function makeRun({ id, model, method, goesOn }, prompt, act) {
  const status = make("span", "status");
  const head = make("header", "", make("h2", "", model), make("span", "badge", kind(method)), status);
  const numbers = {};
  const list = make("dl", "meters", ...METERS.map(([name, title]) => {
    numbers[name] = make("dd", "", "–");
    const term = make("dt", "", title);
    if (name === "tpf") term.title = "Tokens per forward of the model";
    return make("div", name === "tpf" ? "lead" : "", term, numbers[name]);
  }));
  const cells = make("span", "cells");
  // Without a chat template the answer reads on from what was said.
  const paper = make("div", "paper", make("span", "said-before", goesOn ? prompt : ""), cells);
  paper.ariaHidden = "true";
  const text = make("p", "sr-only");
  const problem = make("p", "problem");
  problem.role = "alert";
  const play = make("button", "play", "Replay");
  const slider = make("input");
  Object.assign(slider, { type: "range", min: "0", value: "0", step: "1", ariaLabel: `Step of the answer of ${model}` });
  const where = make("output");
  const copy = make("button", "copy", "Copy");
  play.type = copy.type = "button";
  const replay = make("div", "replay", play, slider, where, copy);
  play.addEventListener("click", () => act.play(id));
  slider.addEventListener("input", () => act.seek(id, slider.valueAsNumber));
  copy.addEventListener("click", () => act.copy(id, copy));
  const retry = make("button", "", "Try again");
  retry.type = "button";
  retry.addEventListener("click", () => act.retry(id));
  const article = make("article", "run", head, list, paper, text, problem, replay);
  article.ariaLabel = `Answer of ${model}, ${kind(method)}`;
  drawn.set(id, { run: null, key: "", height: 0, list, paper, status, numbers, cells, text, problem, retry, replay, play, slider, where });
  return article;
}

function renderRun(run) {
  const view = drawn.get(run.id);
  if (view.run === run) return;
  view.run = run;
  put(view.status, "textContent", STATUS[run.status](run));
  const values = meters(run, run.shown);
  for (const [name, , digits] of METERS) {
    const value = values[name];
    put(view.numbers[name], "textContent", value === null || run.shown < 0 ? "–" : format(value, digits));
  }
  renderCells(view, run);
  put(view.text, "textContent", run.text);
  renderProblem(view, run);
  put(view.replay, "hidden", isOpen(run) || run.frames.length === 0);
  put(view.play, "textContent", run.isPlaying ? "Pause" : "Replay");
  put(view.slider, "max", String(run.frames.length - 1));
  put(view.slider, "value", String(Math.max(0, run.shown)));
  view.slider.ariaValueText = place(run, run.shown);
  put(view.where, "textContent", `${run.shown + 1} / ${run.frames.length}`);
}

const STATUS = {
  asking: () => "waiting …",
  waiting: (run) => `trying again in ${run.seconds} s`,
  running: () => "writing …",
  done: (run) => (run.isPlaying ? "step by step …" : run.finish === "length" ? "most tokens reached" : "finished"),
  stopped: () => "stopped",
  failed: () => "failed",
};

function format(value, digits) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function renderProblem(view, run) {
  const isEmpty = run.problem !== "" && run.frames.length === 0;
  put(view.list, "hidden", isEmpty);
  put(view.paper, "hidden", isEmpty);
  put(view.problem, "hidden", run.problem === "");
  const key = `${run.status} ${run.problem}`;
  if (view.key === key) return;
  view.key = key;
  view.problem.replaceChildren(run.problem);
  if (run.status === "failed") view.problem.append(view.retry);
}

function renderCells(view, run) {
  const last = run.frames.length - 1;
  const isEnd = !isOpen(run) && run.shown === last;
  fillCells(view.cells, run, last, isEnd);
  // A replay leaves the page as long as it is.
  put(view.paper.style, "minHeight", isEnd || view.height === 0 ? "" : `${view.height}px`);
  if (isEnd) view.height = view.paper.offsetHeight;
}

function fillCells(box, run, last, isEnd) {
  const cells = cellsAt(run.frames, run.shown, run.tokens, isEnd);
  const length = isOpen(run) ? null : spelled(cellsAt(run.frames, last, run.tokens, true), run.text);
  if (isEnd && length === null) {
    // Tokens may share a character: the final text is what counts.
    box.replaceChildren(run.text);
    return;
  }
  const shown = isEnd ? cells.slice(0, length) : cells;
  if (box.firstChild?.nodeType === Node.TEXT_NODE) box.replaceChildren();
  while (box.childElementCount > shown.length) box.lastChild.remove();
  shown.forEach((cell, i) => {
    const element = box.children[i] ?? box.appendChild(make("span"));
    renderCell(element, cell, isEnd, length !== null && i >= length);
  });
}

function renderCell(element, cell, isEnd, isBeyond) {
  const isMask = cell.text === null;
  const classes = ["cell"];
  if (isMask) classes.push("mask");
  if (cell.isActive && !isEnd) classes.push("active");
  if (cell.isFresh && !isEnd) classes.push("fresh");
  if (cell.isEdited) classes.push("edited");
  if (cell.wasEdited) classes.push("was-edited");
  if (isBeyond) classes.push("beyond");
  put(element, "className", classes.join(" "));
  put(element, "textContent", cell.text ?? "");
  const origin = cell.step === null ? "" : `, step ${cell.step + 1} of block ${cell.block + 1}`;
  put(element, "title", isMask ? "" : `${Math.round(cell.confidence * 100)} % sure${origin}`);
  const sure = isMask ? "1" : cell.confidence.toFixed(2);
  if (element.style.getPropertyValue("--sure") !== sure) element.style.setProperty("--sure", sure);
}

/** Says text to screen readers. */
export function announce(text) {
  const live = at("live");
  live.append(make("p", "", text));
  while (live.childElementCount > 40) live.firstChild.remove();
}

/** Asks for an API key if `isOpen`. */
export function keyDialog(isOpen, problem) {
  const dialog = at("key-dialog");
  put(at("key-problem"), "textContent", problem);
  if (isOpen && !dialog.open) dialog.showModal();
  if (!isOpen && dialog.open) dialog.close();
}
