//! Autoregression: the way of the parents, on the same model and cache.
//!
//! One forward of the prompt decides the first token; each further forward has one row.

use llada_diffusion::{BlockSize, FinishReason};

use crate::plan::{check_common, stop_ids};
use crate::sampling::Sampler;
use crate::{Answer, Engine, Error, Forwards, Request, TraceStep};

pub(crate) fn generate(
    engine: &mut Engine<'_>,
    request: &Request,
    on_final: &mut dyn FnMut(&[u32]),
) -> Result<Answer, Error> {
    check_common(request, &engine.options, &engine.model.config)?;
    if request.prompt.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let stop_ids = stop_ids(request, &engine.options)?;
    let prompt_len = request.prompt.len();
    let mut tokens = request.prompt.clone();
    tokens.reserve_exact(request.max_new_tokens);
    engine.cache.truncate(0);

    let mut finish_reason = FinishReason::Length;
    while tokens.len() < prompt_len + request.max_new_tokens {
        let token = engine.next_token(request, &tokens)?;
        tokens.push(token);
        on_final(&[token]);
        if stop_ids.contains(&token) {
            finish_reason = FinishReason::Stop;
            break;
        }
    }
    let output_ids = tokens.split_off(prompt_len);
    let forwards = Forwards {
        prefill: 1,
        denoise: output_ids.len(),
        commit: 0,
    };
    let trace = if request.trace {
        trace(prompt_len, &output_ids)
    } else {
        Vec::new()
    };
    Ok(Answer {
        output_ids,
        finish_reason,
        forwards,
        trace,
    })
}

impl Engine<'_> {
    /// Runs the rows that are not cached yet; the last one decides the next token.
    fn next_token(&mut self, request: &Request, tokens: &[u32]) -> Result<u32, Error> {
        let (cached, len) = (self.cache.len(), tokens.len());
        let input = self
            .batch
            .rows(tokens, cached..len, BlockSize::ONE, &[len - 1]);
        let hidden = self.model.forward(&input, Some(&mut self.cache));
        self.cache.advance(len - cached);
        let sampler = Sampler {
            sampling: request.sampling,
            banned: self.options.mask_token_id,
        };
        let candidates = sampler.candidates(self.model, &hidden, &[len], 0)?;
        Ok(candidates[0].token)
    }
}

fn trace(prompt_len: usize, output_ids: &[u32]) -> Vec<TraceStep> {
    let step = |(i, &id)| TraceStep {
        block: prompt_len + i,
        step: 0,
        ids: vec![id],
    };
    output_ids.iter().enumerate().map(step).collect()
}
