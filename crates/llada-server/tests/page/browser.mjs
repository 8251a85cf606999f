// Drives the page in Chromium: `node browser.mjs CHROMIUM URL [DIRECTORY for screenshots]`. The server has
// a diffusion model and one that writes token by token. Speaks the DevTools protocol over a pipe, so
// that node is enough.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [chromium, url, pictures] = process.argv.slice(2);
const UNUSABLE = 77; // exit status if Chromium does not start here
const PATIENCE = 20_000; // milliseconds for anything to happen

class Browser {
  #waiting = new Map();
  #count = 0;
  #rest = Buffer.alloc(0);
  complaints = [];

  constructor() {
    this.home = mkdtempSync(join(tmpdir(), "page-"));
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
      "--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe", `--user-data-dir=${this.home}`, "about:blank"];
    this.child = spawn(chromium, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.child.once("exit", () => this.isClosing || this.#lost());
    this.child.once("error", () => this.#lost());
    this.child.stdio[4].on("data", (bytes) => this.#read(bytes));
    this.child.stdio[3].on("error", () => {});
  }

  #lost() {
    this.#tidy();
    console.error("Chromium does not start, or ended");
    process.exit(this.session ? 1 : UNUSABLE);
  }

  #read(bytes) {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    for (let end; (end = this.#rest.indexOf(0)) >= 0; this.#rest = this.#rest.subarray(end + 1)) {
      this.#hear(JSON.parse(this.#rest.subarray(0, end).toString()));
    }
  }

  #hear({ id, result, error, method, params }) {
    if (id) {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      return error ? reject(new Error(error.message)) : resolve(result);
    }
    if (method === "Fetch.requestPaused") this.#stage(params).catch(() => {});
    if (method === "Runtime.exceptionThrown") this.complaints.push(params.exceptionDetails.exception?.description ?? "exception");
    if (method === "Runtime.consoleAPICalled") this.complaints.push(`console.${params.type}`);
    if (method === "Log.entryAdded") this.complaints.push(`${params.entry.text} ${params.entry.url ?? ""}`);
    if (method === "Network.requestWillBeSent" && !/^(data:|blob:)/.test(params.request.url)) {
      if (!params.request.url.startsWith(url)) this.complaints.push(`asked for ${params.request.url}`);
    }
  }

  say(method, params = {}) {
    const id = ++this.#count;
    this.child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId: this.session })}\0`);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  async open() {
    const { targetId } = await this.say("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.say("Target.attachToTarget", { targetId, flatten: true });
    this.session = sessionId;
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await this.say(`${domain}.enable`);
  }

  /** Has the next requests of the interface answered by `answers`: status, body and headers. */
  async pretend(...answers) {
    this.answers = answers;
    await this.say("Fetch.enable", { patterns: [{ urlPattern: "*/v1/*" }] });
  }

  async #stage({ requestId }) {
    const [status, body, headers = {}] = this.answers.shift() ?? [];
    if (!status) return this.say("Fetch.continueRequest", { requestId });
    const responseHeaders = Object.entries(headers).map(([name, value]) => ({ name, value }));
    const text = Buffer.from(typeof body === "string" ? body : JSON.stringify(body)).toString("base64");
    return this.say("Fetch.fulfillRequest", { requestId, responseCode: status, responseHeaders, body: text });
  }

  /** Evaluates an expression in the page. */
  async look(expression) {
    const asked = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.say("Runtime.evaluate", asked);
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  }

  /** Waits until an expression is true. */
  async until(expression) {
    for (const end = Date.now() + PATIENCE; Date.now() < end; ) {
      if (await this.look(expression).catch(() => false)) return;
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    throw new Error(`never came true: ${expression}\n${await this.look("document.body.innerText").catch(() => "")}`);
  }

  async size(width, height, mobile = false) {
    await this.say("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile });
  }

  async media(name, value) {
    await this.say("Emulation.setEmulatedMedia", { features: [{ name, value }] });
  }

  async type(text) {
    await this.look(`document.getElementById("prompt").focus()`);
    await this.say("Input.insertText", { text });
    for (const type of ["keyDown", "keyUp"]) await this.press(type, "Enter", 13, "\r");
  }

  press(type, key, code, text = undefined) {
    return this.say("Input.dispatchKeyEvent", { type, key, code: key, windowsVirtualKeyCode: code, text });
  }

  async picture(name) {
    if (!pictures) return;
    const { data } = await this.say("Page.captureScreenshot", { format: "png" });
    writeFileSync(join(pictures, `${name}.png`), Buffer.from(data, "base64"));
  }

  async close() {
    this.isClosing = true;
    const gone = new Promise((resolve) => this.child.once("exit", resolve));
    this.session = undefined;
    this.say("Browser.close").catch(() => {});
    const late = setTimeout(() => this.child.kill("SIGKILL"), 5000);
    await gone;
    clearTimeout(late);
    this.#tidy();
  }

  /** Removes the profile, to which a process of the browser may still write. */
  #tidy() {
    try {
      rmSync(this.home, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    } catch (error) {
      console.error(`left behind: ${error.message}`);
    }
  }
}

async function chat(page) {
  await page.say("Page.navigate", { url });
  await page.until(`!document.querySelector("#send").disabled && document.querySelector("#beside").value === "parent"`);
  await page.picture("welcome");
  await page.type("Once upon a time");
  // Masks are seen while the answer comes, then none are left.
  await page.until(`document.querySelectorAll(".cells .cell.mask").length > 2 && document.querySelectorAll(".cells .cell:not(.mask)").length > 12`);
  await page.picture("drafts");
  await page.until(`document.querySelectorAll(".status").length === 2 && [...document.querySelectorAll(".play")].every((b) => b.textContent === "Replay" && b.offsetParent)`);
  assert.equal(await page.look(`document.querySelectorAll(".cells .mask").length`), 0);
  const said = await page.look(`[...document.querySelectorAll(".run")].map((r) => [r.querySelector(".cells").textContent, r.querySelector(".sr-only").textContent])`);
  for (const [shown, final] of said) assert.equal(shown.trim(), final.trim());
  assert.ok(said[0][1].length > 40, said[0][1]);
  assert.match(await page.look(`document.querySelector(".lead dd").textContent`), /^\d+\.\d\d$/);
  assert.match(await page.look(`document.querySelector(".versus").textContent`), /tokens per step/);
  assert.ok((await page.look(`document.querySelector("#live").textContent`)).length > 40);
  await page.picture("finished");
}

async function replay(page) {
  const final = await page.look(`document.querySelector(".cells").textContent`);
  const seek = (step) => page.look(`(() => { const s = document.querySelector(".replay input"); s.value = ${step}; s.dispatchEvent(new Event("input", { bubbles: true })); })()`);
  // The first steps of a block leave masks. A slow reader may have missed some.
  for (let step = 0; ; step++) {
    await seek(step);
    const start = `step ${step + 1} of `;
    await page.until(`document.querySelector(".replay input").ariaValueText.startsWith("${start}")`);
    if ((await page.look(`document.querySelectorAll(".run:first-child .mask").length`)) > 0) break;
  }
  assert.match(await page.look(`document.querySelector(".replay input").ariaValueText`), /^step \d+ of \d+, block \d+, \d+ masks? left$/);
  await page.picture("replay");
  await seek(100000);
  await page.until(`document.querySelector(".cells").textContent === ${JSON.stringify(final)}`);
}

async function looks(page) {
  const paper = () => page.look(`getComputedStyle(document.body).backgroundColor`);
  const light = await paper();
  await page.media("prefers-color-scheme", "dark");
  const dark = await paper();
  assert.notEqual(dark, light);
  await page.picture("dark");
  await page.look(`document.querySelector("#theme").click()`); // auto to light
  assert.equal(await paper(), light);
  await page.look(`document.querySelector("#theme").click()`);
  assert.equal(await paper(), dark);
  await page.size(360, 740, true);
  await page.until(`innerWidth === 360 && !document.querySelector("#panel").open`);
  assert.ok((await page.look(`document.documentElement.scrollWidth`)) <= 360);
  await page.picture("phone");
  await page.look(`document.querySelector("#theme").click(); document.querySelector("#panel").open = true; scrollTo(0, 0)`);
  assert.ok((await page.look(`document.documentElement.scrollWidth`)) <= 360);
  await page.picture("phone-settings");
  const unnamed = `[...document.querySelectorAll("button, input, select, textarea")].filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length`;
  assert.equal(await page.look(unnamed), 0);
}

async function stop(page) {
  await page.size(1200, 800);
  const markup = "<img src=x onerror=alert(1)> a";
  await page.look(`(() => { const m = document.querySelector("#max-tokens"); m.value = 400; document.querySelector("#threshold").value = 1; for (const e of [m, document.querySelector("#threshold")]) e.dispatchEvent(new Event("input", { bubbles: true })); })()`);
  await page.type(markup);
  await page.until(`document.querySelectorAll(".turn").length === 2`);
  for (const type of ["keyDown", "keyUp"]) await page.press(type, "Escape", 27);
  await page.until(`document.querySelector("#stop").hidden && !document.querySelector("#send").hidden`);
  assert.ok((await page.look(`document.querySelectorAll(".said")[1].textContent`)).endsWith(markup));
  assert.equal(await page.look(`document.querySelectorAll("#turns img").length`), 0);
  assert.equal(await page.look(`document.activeElement.id`), "prompt");
}

async function refusals(page) {
  const error = (message, code) => ({ error: { message, code } });
  const loading = { data: [{ id: "child", dllm: { state: "loading", stage: "reading weights" } }] };
  await page.pretend([200, loading], [503, error("shutting down")], [401, error("no API key")], [401, error("the API key is not known")]);
  await page.say("Page.reload");
  await page.until(`document.querySelector("#notice").textContent === "child is loading: reading weights"`);
  await page.picture("loading");
  await page.until(`document.querySelector("#notice").textContent.includes("shutting down; trying again")`);
  for (const problem of ["", "the API key is not known"]) {
    await page.until(`document.querySelector("#key-dialog").open && document.querySelector("#key-problem").textContent === "${problem}"`);
    await page.picture("key");
    await page.look(`document.querySelector("#key").value = "some"; document.querySelector("#key-form button").click()`);
  }
  await page.until(`!document.querySelector("#send").disabled && !document.querySelector("#key-dialog").open`);
  assert.equal(await page.look(`document.querySelector("#key").value + localStorage.length + sessionStorage.length`), "10"); // the theme
  const full = [429, error("too many requests wait", "queue_full"), { "retry-after": "2" }];
  await page.look(`document.querySelector("#beside").value = ""; document.querySelector("#beside").dispatchEvent(new Event("change"))`);
  await page.pretend(full, [400, error("`max_tokens` is too large")]);
  await page.type("Once");
  await page.until(`/^trying again in [12] s$/.test(document.querySelector(".status").textContent) && document.querySelector(".problem").textContent === "too many requests wait"`);
  await page.until(`document.querySelector(".problem").textContent.includes("is too large")`);
  await page.picture("refused");
  await page.look(`document.querySelector(".problem button").click()`);
  await page.until(`/^(finished|most tokens reached)$/.test(document.querySelector(".status").textContent) && document.querySelector(".problem").hidden`);
  // A browser notes each refusal by itself.
  page.complaints = page.complaints.filter((text) => !/status of (401|429|400|503)/.test(text));
}

async function edits(page) {
  const word = (text) => ({ text, confidence: 0.5, step: 0 });
  const drafts = [[null, null], [word("<b>A cat"), null], [word("<b>A dog"), word(" sat.")]];
  const told = drafts.map((tokens, step) => `event: draft\ndata: ${JSON.stringify({ block: 0, step, start: 0, tokens, open: 0 })}\n\n`);
  const text = { choices: [{ delta: { content: "<b>A dog sat." } }] };
  const stream = `${told.join("")}data: ${JSON.stringify(text)}\n\ndata: [DONE]\n\n`;
  await page.look(`document.querySelector("#new-chat").click()`);
  await page.pretend([200, stream, { "content-type": "text/event-stream" }]);
  await page.type("Once");
  await page.until(`document.querySelector(".cell.edited.was-edited")?.textContent === "<b>A dog"`);
  await page.picture("edited");
  await page.until(`document.querySelector(".status").textContent === "finished"`);
  assert.equal(await page.look(`document.querySelector(".cells").textContent`), "<b>A dog sat.");
  // Screen readers heard what is final and nothing that was taken back.
  const heard = await page.look(`document.querySelector("#live").textContent`);
  assert.ok(heard.endsWith("<b>A dog sat.") && !heard.includes("A cat"), heard);
}

const page = new Browser();
const late = setTimeout(() => {
  console.error("too slow");
  page.child.kill("SIGKILL");
  process.exit(1);
}, 90_000);
try {
  await page.open();
  await page.size(1200, 800);
  await page.media("prefers-color-scheme", "light");
  for (const part of [chat, replay, looks, stop, refusals, edits]) await part(page);
  assert.deepEqual(page.complaints, []);
} finally {
  clearTimeout(late);
  await page.close();
}
