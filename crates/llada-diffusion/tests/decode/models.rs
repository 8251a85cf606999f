//! Models as pure functions from what a row sees to logits, and the loop that decodes with them.

use std::ops::Range;

use llada_diffusion::{
    Acceptance, Adjustment, BlockSize, Candidate, DenoiseStep, Edit, FinishReason, Policy,
    Proposals, Quota, Rng, Sequence, Stream, propose,
};

pub(crate) const MASK: u32 = 7;
pub(crate) const EOS: u32 = 6;
pub(crate) const DELETE: u32 = 8;
pub(crate) const SPLIT: u32 = 9;
pub(crate) const VOCAB: u32 = 10;

pub(crate) fn is_stop(id: u32) -> bool {
    id == EOS
}

pub(crate) fn size(n: usize) -> BlockSize {
    BlockSize::new(n).expect("sizes are above 0")
}

pub(crate) fn threshold(confidence_threshold: f32) -> Policy {
    Policy {
        acceptance: Acceptance::Threshold(confidence_threshold),
        ..Policy::default()
    }
}

pub(crate) fn with_quota(policy: Policy, quota: Quota) -> Policy {
    Policy { quota, ..policy }
}

/// What happened in a decode.
#[derive(Debug, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) sequence: Sequence,
    pub(crate) answer: Vec<u32>,
    pub(crate) finish: FinishReason,
    /// Positions written by each forward.
    pub(crate) writes: Vec<Vec<usize>>,
    pub(crate) commits: usize,
}

/// A forward of `model`, whose logits can be asked for the best token under any ban.
struct Forward<'a, M> {
    model: &'a M,
    tokens: Vec<u32>,
    block_size: BlockSize,
    /// Re-opened positions: all of them see each other.
    reopened: Range<usize>,
    adjustments: Vec<Adjustment>,
}

impl<M: Fn(&[u32], usize) -> Vec<f32>> Proposals for Forward<'_, M> {
    fn best(&self, position: usize, banned: &[u32]) -> Option<Candidate> {
        let block = self.block_size.of(position);
        let visible = match self.reopened.contains(&position) {
            true => self.reopened.end,
            false => self.block_size.rows(block, self.tokens.len()).end,
        };
        let mut logits = (self.model)(&self.tokens[..visible], position);
        for adjustment in self.adjustments.iter().filter(|a| a.position == position) {
            logits[adjustment.token as usize] += adjustment.delta;
        }
        let (token, confidence) = propose(&logits, banned).ok()?;
        Some(Candidate {
            position,
            token,
            confidence,
        })
    }
}

/// Takes one step with `model`, from (all tokens up to the end of the position's block or of the
/// re-opened ones, position) to logits.
pub(crate) fn step(
    sequence: &mut Sequence,
    model: impl Fn(&[u32], usize) -> Vec<f32>,
) -> DenoiseStep {
    let active = sequence.active_blocks().flatten();
    let reopened: Vec<_> = active.filter(|_| sequence.is_reopened()).collect();
    let forward = Forward {
        model: &model,
        tokens: sequence.tokens().to_vec(),
        block_size: sequence.block_size(),
        reopened: reopened
            .first()
            .map_or(0..0, |&first| first..first + reopened.len()),
        adjustments: sequence.adjustments(),
    };
    sequence.denoise_step(&forward, is_stop)
}

/// Decodes to the end.
pub(crate) fn decode(mut sequence: Sequence, model: impl Fn(&[u32], usize) -> Vec<f32>) -> Decoded {
    let (mut writes, mut commits, mut streamed) = (Vec::new(), 0, Vec::new());
    let prompt = sequence.tokens()[..sequence.prompt_len()].to_vec();
    loop {
        let active: Vec<_> = sequence.active_blocks().flatten().collect();
        let done = step(&mut sequence, &model);
        let may_write_nothing = sequence.policy().edit != Edit::Off;
        assert!(may_write_nothing || !done.written.is_empty());
        assert!(done.written.iter().all(|i| active.contains(i)));
        assert!(done.edited.iter().all(|i| active.contains(i)));
        assert!(sequence.tokens().starts_with(&prompt), "prompts stay");
        commits += usize::from(done.needs_commit());
        writes.push(done.written);
        let answer = sequence.tokens()[sequence.answer(is_stop)].to_vec();
        assert!(answer.starts_with(&streamed), "what was streamed stays");
        streamed = answer;
        if let Some(finish) = done.finish {
            return Decoded {
                sequence,
                answer: streamed,
                finish,
                writes,
                commits,
            };
        }
    }
}

/// Logits that put probability `confidence` on `token` and share the rest evenly.
pub(crate) fn peaked(token: u32, confidence: f32) -> Vec<f32> {
    let rest = (1.0 - confidence) / (VOCAB - 1) as f32;
    (0..VOCAB)
        .map(|id| {
            if id == token {
                confidence.ln()
            } else {
                rest.ln()
            }
        })
        .collect()
}

/// A model without rhyme or reason that depends on everything it may see.
pub(crate) fn chaotic(seed: u64) -> impl Fn(&[u32], usize) -> Vec<f32> {
    move |visible, position| {
        let digest = visible.iter().fold(seed, |hash, &id| {
            (hash ^ u64::from(id))
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(17)
        });
        let rng = Rng::new(digest, Stream::Sample);
        (0..VOCAB)
            .map(|id| 6.0 * rng.uniform(id, 0, position as u32))
            .collect()
    }
}

pub(crate) fn prompt(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i % 6).collect()
}
