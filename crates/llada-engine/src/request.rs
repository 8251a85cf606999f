//! What is asked of the engine and what it answers: plain data.

use llada_diffusion::{FinishReason, Placed, Policy};

use crate::Alternative;

/// A request's number, given when it is submitted; numbers grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A text to continue. [`Request::new`] gives the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// Most ids to write, the stop token included; at least 1.
    pub max_new_tokens: usize,
    /// How the text is written.
    pub method: Method,
    /// Tokens denoised together; the checkpoint's block size if `None`.
    pub block_length: Option<usize>,
    /// Which proposals are accepted, and whether placed tokens may change.
    pub policy: Policy,
    /// When a block is left.
    pub schedule: Schedule,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Ids that end the text, besides the checkpoint's end-of-text ids.
    pub stop_ids: Vec<u32>,
    /// Go on after the checkpoint's end-of-text ids: for measurements.
    pub ignore_eos: bool,
    /// How many of the most probable tokens of each place are told, at most
    /// [`Request::MAX_TOP_LOGPROBS`]. The text stays the same; whole logits are computed for it.
    pub top_logprobs: usize,
    /// Whether the answer records the active blocks after every step.
    pub trace: bool,
    /// Whether every step sends the active blocks, each as an [`Event::Draft`](crate::Event::Draft).
    pub draft: bool,
}

impl Request {
    /// Most tokens of a place that are told.
    pub const MAX_TOP_LOGPROBS: usize = 20;

    /// Returns a greedy request with threshold 0.95, accepting at least one token per forward.
    pub fn new(prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            prompt,
            max_new_tokens,
            method: Method::default(),
            block_length: None,
            policy: Policy::default(),
            schedule: Schedule::Exact,
            sampling: Sampling::default(),
            stop_ids: Vec::new(),
            ignore_eos: false,
            top_logprobs: 0,
            trace: false,
            draft: false,
        }
    }
}

/// How a text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Block by block, each denoised in parallel.
    #[default]
    BlockDiffusion,
    /// Token by token, the way of an autoregressive parent. The block length, the policy and the
    /// schedule are not used; a [`TraceStep`] holds one token.
    Autoregression,
}

/// When decoding leaves a block. The answer is the same; the forwards and the trace are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// As soon as the answer is final, even inside a block.
    #[default]
    Exact,
    /// As the published reference code does, step by step: the whole block is denoised, past the
    /// tokens asked for too, and [`Quota::Steps`](crate::Quota::Steps) is at most `max_new_tokens`.
    Reference {
        /// Also leave inside a block, but only in a step that itself wrote a stop token.
        eos_early_stop: bool,
    },
}

/// How a token is chosen from its logits. The confidence is always the token's probability at
/// temperature 1, nothing truncated.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token; above 0 tokens are drawn from softmax(z / temperature).
    pub temperature: f32,
    /// Draw among this many most probable tokens only; 0 is off.
    pub top_k: usize,
    /// Draw among the fewest tokens whose probabilities sum to this; 1 is off. Applied to what
    /// `top_k` leaves, at the given temperature.
    pub top_p: f32,
    /// Draw among tokens at least this many times as probable as the best; 0 is off.
    pub min_p: f32,
    /// Divides positive logits, and multiplies others, of tokens that occur before the position;
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that occur before the position.
    pub presence_penalty: f32,
    /// Subtracted as often as the token occurs before the position.
    pub frequency_penalty: f32,
    /// Added to the logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Draws depend on the seed, the position and the step only.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Returns whether tokens that occur before a position change its logits.
    pub(crate) fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

/// A finished text.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Ids written, up to the first stop token, which is included.
    pub output_ids: Vec<u32>,
    /// How each id came to its place. The logarithm of the confidence is the token's log-probability
    /// *given the state of that step*, not a part of a sequence likelihood.
    pub placed: Vec<Placed>,
    /// The most probable tokens of each place, the best first; empty if none were asked for.
    pub alternatives: Vec<Vec<Alternative>>,
    /// Why the text ended.
    pub finish_reason: FinishReason,
    /// The request let blocks begin before their predecessor was done: the text may differ from the
    /// one decoded block by block ([`Window`](crate::Window)).
    pub approximate: bool,
    /// What it cost.
    pub forwards: Forwards,
    /// Tokens of the prompt whose keys and values were found in the cache.
    pub cached_tokens: usize,
    /// Steps in which fewer proposals of a block passed than its quota.
    pub fallbacks: usize,
    /// Placed tokens that were replaced, or positions inserted or deleted.
    pub edits: usize,
    /// Steps of each block. A step serves all blocks that are active together, so that these may sum
    /// to more than [`Forwards::denoise`].
    pub steps_per_block: Vec<usize>,
    /// The active blocks after every step, if asked for.
    pub trace: Vec<TraceStep>,
}

/// Forwards by purpose. One that serves two counts under both: the prompt's blocks together with the
/// first step are a prefill and a denoise. A finished block that rides along with the next block's
/// first step costs nothing of its own and is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwards {
    /// Forwards of the prompt's whole blocks, and of what a preempted request computes again.
    pub prefill: usize,
    /// Forwards whose outputs decided tokens: tokens / `denoise` are the tokens per forward.
    pub denoise: usize,
    /// Forwards of a finished block alone.
    pub commit: usize,
}

impl Forwards {
    /// Returns the sum: tokens per it are TPF_all.
    pub fn total(self) -> usize {
        self.prefill + self.denoise + self.commit
    }
}

/// A block as a step left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// Block, counted from the prompt's first token.
    pub block: usize,
    /// Step within the block, from 0.
    pub step: usize,
    /// Ids of the block, MASK at open positions.
    pub ids: Vec<u32>,
}
