//! What an answer cost, in OpenAI's words and in those of diffusion.

use serde_json::{Value, json};

use crate::answer::End;

/// Returns the `usage` of answers to each of whose prompts there are `choices`.
pub(crate) fn usage<'a>(ends: impl IntoIterator<Item = &'a End>, choices: usize) -> Value {
    let (mut prompt, mut cached, mut completion) = (0, 0, 0);
    for (index, end) in ends.into_iter().enumerate() {
        if index % choices == 0 {
            prompt += end.prompt_tokens;
            cached += end.answer.cached_tokens;
        }
        completion += end.answer.output_ids.len();
    }
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}

/// Returns what diffusion has to say of an answer.
pub(crate) fn dllm(end: &End) -> Value {
    let (answer, forwards) = (&end.answer, end.answer.forwards);
    let tokens = answer.output_ids.len();
    let seconds = end.elapsed.as_secs_f64();
    let mut object = json!({
        "tokens": tokens,
        "prefill_forwards": forwards.prefill,
        "denoise_forwards": forwards.denoise,
        "commit_forwards": forwards.commit,
        "blocks": answer.steps_per_block.len(),
        "steps_per_block": answer.steps_per_block,
        "tpf": ratio(tokens, forwards.denoise),
        "tpf_all": ratio(tokens, forwards.total()),
        "fallbacks": answer.fallbacks,
        "edits": answer.edits,
        "cached_tokens": answer.cached_tokens,
        "approximate": answer.approximate,
        "seed": end.asked.seed,
        "elapsed_ms": seconds * 1e3,
        "tokens_per_second": tokens as f64 / seconds.max(1e-9),
    });
    if end.asked.steps {
        let placed = answer.placed.iter();
        let placed =
            placed.map(|placed| json!({ "step": placed.step, "confidence": placed.confidence }));
        object["placed"] = placed.collect();
    }
    object
}

fn ratio(tokens: usize, forwards: usize) -> f64 {
    tokens as f64 / forwards.max(1) as f64
}
