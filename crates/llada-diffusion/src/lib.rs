//! Block diffusion for language, as pure functions: a map of the ideas.
//!
//! This crate is the method of LLaDA2 (arXiv:2512.15745, "the report") and nothing else: no tensors,
//! threads, files, clocks. Every function returns the same for the same arguments, and most fit on a
//! screen.

pub mod acceptance;
pub mod alignment;
pub mod block;
mod error;
pub mod layout;
mod names;
pub mod noise;
pub mod objective;
pub mod rng;
pub mod schedule;
pub mod sequence;
pub mod visibility;

pub use acceptance::{Acceptance, Candidate, Quota, accept, propose};
pub use alignment::{LabelAlignment, Predictor};
pub use block::BlockSize;
pub use error::Error;
pub use layout::{Elision, LossRow, NoisyDocument, TrainRows};
pub use noise::{Band, Corruption, MaskDraw, NoiseSchedule, RateScope};
pub use objective::{
    Counts, Elbos, Normalisation, Objective, cap_rows, cap_weight, dpo_loss, dpo_margin,
    loss_weights,
};
pub use rng::{Rng, Stream};
pub use schedule::{BlockSchedule, BlockStage, Decay, LearningRate};
pub use sequence::{DenoiseStep, FinishReason, Sequence, finished};
pub use visibility::{
    KeyRanges, Row, block_causal_ranges, causal_ranges, decode_ranges, full_ranges, prefill_ranges,
    visible,
};
