// What is known of an answer, as pure functions: events in, frames out.
//
// A frame is what there is to see at one moment: `final` pieces, which never change, and the `blocks` that are being
// denoised. Frames share what they have in common, so that all of them can be kept for the replay.

/** An answer of which nothing is known yet. */
export const blank = () => ({
  final: [], // { text, tokens: [{ text, confidence }] | null }
  blocks: [], // { block, tokens: [{ text, confidence, edited } | null] }, in order
  steps: 0, // denoising steps seen
  end: null, // { reason, cost }
  problem: null,
});

/** Returns the answer after an event. */
export function next(answer, event) {
  switch (event.type) {
    case "draft":
      return { ...answer, blocks: withDraft(answer.blocks, event.draft), steps: answer.steps + 1 };
    case "text":
      return withText(answer, event.text);
    case "end":
      return { ...answer, blocks: [], end: { reason: event.reason, cost: event.cost } };
    case "problem":
      return { ...answer, blocks: [], problem: event.message };
    default:
      return answer;
  }
}

function withDraft(blocks, draft) {
  const before = blocks.find((block) => block.block === draft.block);
  const token = (now, i) => {
    if (now === null) return null;
    const then = before?.tokens[i];
    return { text: now.text, confidence: now.confidence, edited: Boolean(then && then.text !== now.text) };
  };
  const block = { block: draft.block, tokens: draft.tokens.map(token) };
  const others = blocks.filter((other) => other.block !== draft.block);
  return [...others, block].sort((a, b) => a.block - b.block);
}

/** Final text is that of the first block: its tokens keep their shades if they spell it. */
function withText(answer, text) {
  const [first, ...others] = answer.blocks;
  const { tokens, rest } = spell(first?.tokens ?? [], text);
  const final = [...answer.final, { text, tokens }];
  const blocks = first && rest.length > 0 ? [{ ...first, tokens: rest }, ...others] : others;
  return { ...answer, final, blocks };
}

/** Takes from the front the tokens that spell `text`; none if they do not. */
function spell(tokens, text) {
  let taken = 0;
  let left = text;
  while (left !== "" && tokens[taken] && left.startsWith(tokens[taken].text)) {
    left = left.slice(tokens[taken].text.length);
    taken += 1;
  }
  return left === "" && taken > 0
    ? { tokens: tokens.slice(0, taken), rest: tokens.slice(taken) }
    : { tokens: null, rest: [] };
}

/** Returns the whole final text. */
export const textOf = (answer) => answer.final.map((piece) => piece.text).join("");

/** Returns tokens that stand somewhere, final or not. */
export function placed(answer) {
  const final = answer.final.reduce((sum, piece) => sum + (piece.tokens?.length ?? 1), 0);
  const open = answer.blocks.flatMap((block) => block.tokens).filter((token) => token !== null);
  return final + open.length;
}

/** Returns the figures of an answer: the server's when it is done, what was counted so far before. */
export function figures(answer, seconds) {
  const cost = answer.end?.cost;
  if (cost) {
    return {
      tokens: cost.tokens,
      perSecond: cost.tokens_per_second,
      perForward: cost.tpf,
      forwards: cost.denoise_forwards,
      edits: cost.edits,
    };
  }
  const tokens = placed(answer);
  return {
    tokens,
    perSecond: seconds > 0 ? tokens / seconds : 0,
    perForward: answer.steps > 0 ? tokens / answer.steps : null,
    forwards: answer.steps || null,
    edits: null,
  };
}

/** Returns the fields of a request; what has no effect on the model is left out, for the server would refuse it. */
export function request(settings, model, messages) {
  const body = {
    model: model.id,
    messages,
    max_tokens: settings.tokens,
    temperature: settings.temperature,
    stream: true,
  };
  if (model.dllm.method !== "diffusion") return body;
  body.stream_draft = true;
  if (settings.mode) body.mode = settings.mode;
  else body.threshold = settings.threshold;
  if (settings.block) body.block_length = settings.block;
  return body;
}
