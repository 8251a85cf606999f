// From frames to elements. Text of a model only ever becomes the text of a node.

import { figures, textOf } from "./state.js";

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

/** Adds what the user said. */
export function question(log, text) {
  log.append(element("p", "question", text));
}

/** A row of answers to one question. */
export function row(log) {
  return log.appendChild(element("div", "answers"));
}

/** An answer on the page. */
export class AnswerView {
  #text = element("div", "text");
  #spoken = element("div", "hidden");
  #figures = element("ul", "figures");
  #replay = element("label", "replay");
  #slider = element("input");
  #place = element("output");

  constructor(parent, model) {
    const article = element("article", "answer");
    article.setAttribute("aria-label", `Answer of ${model}`);
    this.#text.setAttribute("aria-hidden", "true");
    this.#spoken.setAttribute("aria-live", "polite");
    this.#slider.type = "range";
    this.#slider.min = 0;
    this.#slider.setAttribute("aria-label", "Step to show");
    this.#replay.hidden = true;
    this.#replay.append("Replay", this.#slider, this.#place);
    article.append(element("h3", "", model), this.#text, this.#spoken, this.#figures, this.#replay);
    parent.append(article);
    this.article = article;
  }

  /** Shows a frame. */
  show(answer, seconds) {
    const pieces = answer.final.flatMap(finalPiece);
    const open = answer.blocks.flatMap((block) => block.tokens.map(openToken));
    this.#text.replaceChildren(...pieces, ...open);
    this.#figures.replaceChildren(...lines(figures(answer, seconds)));
    if (answer.problem) this.problem(answer.problem);
  }

  /** Says final text to screen readers. */
  speak(answer) {
    this.#spoken.textContent = textOf(answer);
  }

  problem(message) {
    this.article.querySelector(".problem")?.remove();
    const problem = element("p", "problem", message);
    problem.setAttribute("role", "alert");
    this.article.append(problem);
  }

  /** Lets the user go through the frames of a finished answer. */
  replay(frames, show) {
    this.article.classList.add("still");
    if (frames.length < 2) return;
    this.#slider.max = frames.length - 1;
    this.#slider.value = frames.length - 1;
    this.#replay.hidden = false;
    const move = () => {
      const at = Number(this.#slider.value);
      this.#place.textContent = `${at} / ${frames.length - 1}`;
      show(frames[at]);
    };
    this.#slider.addEventListener("input", move);
    move();
  }
}

function finalPiece(piece) {
  return piece.tokens ? piece.tokens.map((token) => shaded(token, "token")) : [document.createTextNode(piece.text)];
}

function openToken(token) {
  if (token === null) return element("span", "mask");
  return shaded(token, `token open-block${token.edited ? " edited" : ""}`);
}

function shaded(token, className) {
  const span = element("span", className, token.text);
  span.style.setProperty("--sure", String(token.confidence));
  span.title = `${Math.round(token.confidence * 100)} % sure`;
  return span;
}

function lines({ tokens, perSecond, perForward, forwards, edits }) {
  const line = (value, what) => {
    const item = element("li");
    item.append(element("b", "", value), ` ${what}`);
    return item;
  };
  const shown = [line(String(tokens), "tokens"), line(perSecond.toFixed(perSecond < 100 ? 1 : 0), "tokens/s")];
  if (perForward) shown.push(line(perForward.toFixed(2), "tokens per forward"));
  if (forwards) shown.push(line(String(forwards), "forwards"));
  if (edits) shown.push(line(String(edits), "edits"));
  return shown;
}
