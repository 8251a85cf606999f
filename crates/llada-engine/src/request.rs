//! What is asked of the engine and what it answers: plain data.

use llada_diffusion::{FinishReason, Quota};

/// A text to continue. [`Request::new`] gives the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// Most ids to write, the stop token included; at least 1.
    pub max_new_tokens: usize,
    /// Tokens denoised together; the checkpoint's block size if `None`.
    pub block_length: Option<usize>,
    /// Confidence above which (strictly) a token is accepted. From 1 on only the quota counts; below
    /// 0 a block takes one forward.
    pub threshold: f32,
    /// How many tokens a forward accepts at least.
    pub quota: Quota,
    /// When a block is left.
    pub schedule: Schedule,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Ids that end the text, besides the checkpoint's end-of-text ids.
    pub stop_ids: Vec<u32>,
    /// Go on after the checkpoint's end-of-text ids: for measurements.
    pub ignore_eos: bool,
    /// Whether the answer records the active block after every step.
    pub trace: bool,
}

impl Request {
    /// Returns a greedy request with threshold 0.95, accepting at least one token per forward.
    pub fn new(prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            prompt,
            max_new_tokens,
            block_length: None,
            threshold: 0.95,
            quota: Quota::MinTransfer(1),
            schedule: Schedule::Exact,
            sampling: Sampling::default(),
            stop_ids: Vec::new(),
            ignore_eos: false,
            trace: false,
        }
    }
}

/// When decoding leaves a block. The answer is the same; the forwards and the trace are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// As soon as the answer is final, even inside a block.
    #[default]
    Exact,
    /// As the published reference code does, step by step: the whole block is denoised, past the
    /// tokens asked for too, and [`Quota::Steps`] is at most `max_new_tokens`.
    Reference {
        /// Also leave inside a block, but only in a step that itself wrote a stop token.
        eos_early_stop: bool,
    },
}

/// How a token is chosen from its logits. The confidence is always the token's probability under
/// the model: temperature 1, nothing truncated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token; above 0 tokens are drawn from softmax(z / temperature).
    pub temperature: f32,
    /// Draw among this many most probable tokens only; 0 is off.
    pub top_k: usize,
    /// Draw among the fewest tokens whose probabilities sum to this; 1 is off. Applied to what
    /// `top_k` leaves, at the given temperature.
    pub top_p: f32,
    /// Draws depend on the seed, the position and the step only.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// A finished text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Ids written, up to the first stop token, which is included.
    pub output_ids: Vec<u32>,
    /// Why the text ended.
    pub finish_reason: FinishReason,
    /// What it cost.
    pub forwards: Forwards,
    /// The active block after every step, if asked for.
    pub trace: Vec<TraceStep>,
}

/// Forwards by purpose. One that serves two counts under both: the prompt's blocks together with the
/// first step are a prefill and a denoise. A finished block that rides along with the next block's
/// first step costs nothing of its own and is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwards {
    /// Forwards of the prompt's whole blocks.
    pub prefill: usize,
    /// Forwards whose outputs decided tokens: tokens / `denoise` are the tokens per forward.
    pub denoise: usize,
    /// Forwards of a finished block alone.
    pub commit: usize,
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

/// A request's number, given when it is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);
