//! An answer as JSON.

use llada_engine::{Alternative, Answer, Placed};
use serde_json::{Value, json};

use llada_request::Checkpoint;

use super::Job;

/// Returns the object that `--json` prints for an answer.
///
/// `cached_tokens`, `forwards.prefill`, `forwards.commit` and `tpf_all` tell what the cache saved
/// and so depend on what ran before and beside; nothing else does. A `logprob` is conditional on the
/// state of the step that placed its token and is no part of a sequence likelihood.
pub(in crate::commands) fn to_json(
    checkpoint: &Checkpoint,
    job: &Job,
    answer: &Answer,
) -> anyhow::Result<Value> {
    let text = match checkpoint.tokenizer {
        Some(_) => Some(
            checkpoint
                .text(&job.request, &job.settings)?
                .of(&answer.output_ids)?,
        ),
        None => None,
    };
    let tokens = answer.output_ids.len() as f64;
    let forwards = answer.forwards;
    let trace = answer
        .trace
        .iter()
        .map(|step| json!({ "block": step.block, "step": step.step, "ids": step.ids }));
    let mut object = json!({
        "prompt_ids": job.request.prompt,
        "output_ids": answer.output_ids,
        "text": text,
        "finish_reason": answer.finish_reason.to_string(),
        "forwards": {
            "prefill": forwards.prefill,
            "denoise": forwards.denoise,
            "commit": forwards.commit,
        },
        "cached_tokens": answer.cached_tokens,
        "approximate": answer.approximate,
        "fallbacks": answer.fallbacks,
        "edits": answer.edits,
        "steps_per_block": answer.steps_per_block,
        "tpf": tokens / forwards.denoise as f64,
        "tpf_all": tokens / forwards.total() as f64,
        "trace": trace.collect::<Vec<_>>(),
    });
    if job.settings.logprobs == Some(true) {
        object["logprobs"] = answer.placed.iter().map(Placed::logprob).collect();
    }
    if !answer.alternatives.is_empty() {
        let places = answer.alternatives.iter();
        object["top_logprobs"] = places.map(|place| alternatives(place)).collect();
    }
    if job.settings.return_steps == Some(true) {
        object["steps"] = answer.placed.iter().map(|placed| placed.step).collect();
    }
    Ok(object)
}

fn alternatives(place: &[Alternative]) -> Value {
    let alternative = |a: &Alternative| json!({ "id": a.token, "logprob": a.logprob });
    place.iter().map(alternative).collect()
}
