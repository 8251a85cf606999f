// The page: settings, sending, and one answer or two at a time.

import { ApiError, complete, models as listModels } from "./api.js";
import { blank, next, request, textOf } from "./state.js";
import { AnswerView, question, row } from "./view.js";

const $ = (id) => document.getElementById(id);
const log = $("log");
const scroller = document.querySelector("main");
let models = [];
let conversation = [];
let running = null; // AbortController of the answers in progress

const key = () => $("key").value; // kept in memory only

function status(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

// Models -----------------------------------------------------------------------------------------

async function loadModels() {
  try {
    models = await listModels(key());
  } catch (error) {
    return waitForServer(error);
  }
  const loading = models.filter((model) => model.dllm.state === "loading");
  fillModels(models.filter((model) => model.dllm.state === "ready"));
  if (loading.length > 0) {
    status(loading.map((model) => `${model.id}: ${model.dllm.stage}`).join(", "));
    setTimeout(loadModels, 1000);
    return;
  }
  const failed = models.filter((model) => model.dllm.state === "failed");
  if (failed.length > 0) status(failed.map((model) => `${model.id}: ${model.dllm.reason}`).join(", "), true);
  else describeModel();
}

function waitForServer(error) {
  if (error instanceof ApiError && error.status === 401) {
    $("key-field").hidden = false;
    $("settings").open = true;
    $("key").focus();
    return status("This server asks for an API key.", true);
  }
  status("The server cannot be reached; trying again …", true);
  setTimeout(loadModels, 2000);
}

function fillModels(ready) {
  const option = (model) => new Option(model.id, model.id);
  for (const select of [$("model"), $("other")]) {
    const chosen = select.value;
    select.replaceChildren(...ready.map(option));
    if (ready.some((model) => model.id === chosen)) select.value = chosen;
  }
  const diffusion = ready.find((model) => model.dllm.method === "diffusion");
  if (diffusion && !$("model").dataset.touched) $("model").value = diffusion.id;
  const other = ready.find((model) => model.id !== $("model").value);
  if (other && $("other").value === $("model").value) $("other").value = other.id;
  $("compare-field").hidden = ready.length < 2;
  $("send").disabled = ready.length === 0;
}

const modelOf = (id) => models.find((model) => model.id === id);

function describeModel() {
  const model = modelOf($("model").value);
  if (!model) return;
  const { method, block_length: block, context } = model.dllm;
  const how = method === "diffusion" ? `blocks of ${block} tokens` : "one token after the other";
  status(`${model.id}: ${how}, context ${context}`);
  const sizes = [1, 2, 4, 8, 16, 32, 64].filter((size) => size <= context);
  const options = sizes.map((size) => new Option(String(size), String(size)));
  $("block").replaceChildren(new Option("the model's", ""), ...options);
}

// Answers ----------------------------------------------------------------------------------------

const settings = () => ({
  threshold: Number($("threshold").value),
  mode: $("mode").value,
  block: Number($("block").value) || null,
  tokens: Number($("tokens").value),
  temperature: Number($("temperature").value),
});

async function send() {
  const text = $("prompt").value || $("prompt").placeholder;
  const main = modelOf($("model").value);
  if (!main || running) return;
  const beside = $("compare").checked ? modelOf($("other").value) : null;
  $("welcome")?.remove();
  $("prompt").value = "";
  question(log, text);
  // A model that knows no turns goes on with a text; it gets this one alone.
  const messages = main.dllm.chat_template ? [...conversation, { role: "user", content: text }] : [{ role: "user", content: text }];
  setRunning(new AbortController());
  const parent = row(log);
  const asked = [main, beside].filter((model) => model !== null);
  const answers = await Promise.all(asked.map((model) => answer(parent, model, messages)));
  conversation = [...messages, { role: "assistant", content: textOf(answers[0]) }];
  setRunning(null);
}

/** Shows one answer while it comes. */
async function answer(parent, model, messages) {
  const view = new AnswerView(parent, model.id);
  const frames = [blank()];
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  let isDue = false;
  const show = () => {
    isDue = false;
    if (frames.at(-1).end === null) view.show(frames.at(-1), seconds());
    scroller.scrollTop = scroller.scrollHeight;
  };
  const on = (event) => {
    frames.push(next(frames.at(-1), event));
    if (!isDue) requestAnimationFrame(show);
    isDue = true;
  };
  await attempt(() => complete(request(settings(), model, messages), key(), running.signal, on), view);
  const last = frames.at(-1);
  const took = seconds();
  view.show(last, took);
  view.speak(last);
  view.replay(frames, (frame) => view.show(frame, took));
  scroller.scrollTop = scroller.scrollHeight;
  return last;
}

/** Tries again where the server says when; tells of everything else. */
async function attempt(ask, view) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      if (error instanceof ApiError && (error.status === 429 || error.code === "model_loading")) {
        const wait = error.retryAfter ?? 1;
        status(`The server is busy; trying again in ${wait} s …`, true);
        await new Promise((resolve) => setTimeout(resolve, wait * 1000));
        if (!running.signal.aborted) continue;
        return undefined;
      }
      if (error instanceof ApiError && error.status === 401) waitForServer(error);
      return view.problem(error.message);
    }
  }
}

function setRunning(controller) {
  running = controller;
  $("stop").hidden = controller === null;
  $("send").hidden = controller !== null;
  if (controller === null) {
    describeModel();
    $("prompt").focus();
  }
}

// Controls ---------------------------------------------------------------------------------------

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("model").addEventListener("change", () => {
  $("model").dataset.touched = "yes";
  conversation = [];
  describeModel();
});
$("key").addEventListener("change", loadModels);
$("threshold").addEventListener("input", () => {
  $("threshold-value").textContent = Number($("threshold").value).toFixed(2);
});
$("mode").addEventListener("change", () => {
  $("threshold").disabled = $("mode").value !== "";
});
$("theme").addEventListener("click", () => {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (isDark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});

loadModels();
