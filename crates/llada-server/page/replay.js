// An answer at any of its steps. Pure.

/**
 * Returns the cells of an answer after step `at` of `frames`: `{ text, confidence, step, block,
 * isActive, isFresh, isEdited, wasEdited }`, where `text` is null for a mask. A slow reader misses drafts
 * but no final token, so `tokens` fill what lies before the step's block; all of it if `isEnd`.
 */
export function cellsAt(frames, at, tokens = [], isEnd = false) {
  const cells = [];
  for (let i = 0; i <= at && i < frames.length; i++) {
    const { block, start, tokens } = frames[i];
    const isNow = i === at;
    tokens.forEach((token, j) => {
      const before = cells[start + j];
      const text = token?.text ?? null;
      const isFresh = text !== null && (before?.text ?? null) === null;
      const isEdited = text !== null && !isFresh && before.text !== text;
      cells[start + j] = {
        text, block, confidence: token?.confidence ?? 0, step: token?.step ?? 0,
        isActive: isNow, isFresh: isNow && isFresh, isEdited: isNow && isEdited,
        wasEdited: isEdited || (before?.wasEdited ?? false),
      };
    });
  }
  const final = tokens.slice(0, isEnd ? tokens.length : (frames[at]?.start ?? 0));
  final.forEach((token, i) => {
    if (cells[i]?.text !== token.text) cells[i] = { ...missed, ...token };
  });
  const isLast = (cell) => frames[at] && cell.block === frames[at].block;
  return Array.from(cells, (cell) => (cell && { ...cell, isActive: isLast(cell) }) ?? missed);
}

/** A place of which no draft came. */
const missed = {
  text: null, block: null, confidence: 0, step: null,
  isActive: false, isFresh: false, isEdited: false, wasEdited: false,
};

/** Returns how many of `cells` spell `text`; null if none do. What stands behind is not the answer's. */
export function spelled(cells, text) {
  let joined = "";
  const wanted = text.trimStart();
  for (let i = 0; i <= cells.length; i++) {
    if (joined.trimStart() === wanted) return i;
    joined += cells[i]?.text ?? "";
  }
  return null;
}

/** Returns what to measure a run by after step `at`; the server's own numbers once it is over. */
export function meters(run, at) {
  const { frames, cost } = run;
  if (cost && at >= frames.length - 1) {
    const { tokens, denoise_forwards: steps, tpf, tokens_per_second: speed, edits } = cost;
    return { tokens, steps, tpf, speed, edits };
  }
  const cells = cellsAt(frames, at, run.tokens);
  const tokens = cells.filter((cell) => cell.text !== null).length;
  const steps = Math.min(at + 1, frames.length);
  const seconds = steps ? (frames[steps - 1].at - run.begun) / 1000 : 0;
  const edits = cells.filter((cell) => cell.wasEdited).length;
  return {
    tokens, steps, edits,
    tpf: steps ? tokens / steps : null,
    speed: seconds > 0 ? tokens / seconds : null,
  };
}

/** Returns what step is shown at time `now` if each stays for `pace` milliseconds: `{ shown, shownAt, isPlaying }`. */
export function advance(run, now, pace, isOpen) {
  const last = run.frames.length - 1;
  if (!run.isPlaying || (run.shown >= last && isOpen)) return run;
  if (run.shown >= last) return { ...run, isPlaying: false };
  if (pace === 0) return { ...run, shown: last, shownAt: now };
  if (now - run.shownAt < pace) return run;
  // Late by many steps, as in a tab that slept: go on from here.
  const due = Math.min(4, Math.floor((now - run.shownAt) / pace));
  const shown = run.shown < 0 ? 0 : Math.min(last, run.shown + due);
  return { ...run, shown, shownAt: now };
}

/** Says where step `at` is. */
export function place(run, at) {
  const frame = run.frames[at];
  if (!frame) return "before the first step";
  const left = frame.open === 1 ? "1 mask left" : `${frame.open} masks left`;
  return `step ${at + 1} of ${run.frames.length}, block ${frame.block + 1}, ${left}`;
}

/** Compares the runs of a turn once both are over; null if they are not of two kinds. */
export function versus(runs) {
  const of = (method) => runs.find((run) => run.method === method)?.cost;
  const [diffusion, other] = [of("diffusion"), of("autoregression")];
  if (!diffusion?.tpf || !other?.tpf) return null;
  const ratio = diffusion.tpf / other.tpf;
  const [shown, word] = ratio >= 1 ? [ratio, "more"] : [1 / ratio, "fewer"];
  if (shown < 1.005) return "Diffusion: as many tokens per step as autoregression";
  return `Diffusion: ${shown.toFixed(2)} times ${word === "more" ? "as many" : "fewer"} tokens per step`;
}
