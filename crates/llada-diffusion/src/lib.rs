//! Block diffusion for language, as pure functions: a map of the ideas.
//!
//! This crate is the method of the LLaDA2 report (arXiv:2512.15745) and nothing else: no tensors,
//! threads, files or clocks. Every function returns the same for the same arguments, most fit on a
//! screen, and the tests read like claims. Equation numbers are the report's.
//!
//! # The idea in one paragraph
//! An autoregressive model writes one token per forward, each given all before it. A *block
//! diffusion* model writes S tokens at once: it is shown the finished text followed by a block of
//! MASK, proposes all of the block's tokens, keeps those it is sure of, and looks again until none is
//! left. To learn that, it is given texts with some tokens replaced by MASK, and predicts them.
//!
//! ```text
//! the cat sat on | _ _ _ _      ->  _ mat and _     ->  the mat and slept | _ _ _ _    -> ...
//! finished blocks  active block     sure of two         block finished      next block
//! ```
//!
//! # Reading order
//! | module | idea | in the report |
//! |---|---|---|
//! | [`block`] | cutting a text into blocks | the sum over k in Eq. 1 |
//! | [`rng`] | random numbers as a function of (seed, purpose, epoch, document, position) | – |
//! | [`noise`] | mask ratios, masks, complementary twins | t and x_t of Eq. 1; complementary masking |
//! | [`draft`] | wrong tokens, insertions and deletions beside masks | LLaDA2.1 and 2.2 |
//! | [`levenshtein`] | what to say of a draft to repair it | LLaDA2.2 |
//! | [`trajectory`] | states of a recorded decoding in place of random masks | – |
//! | [`visibility`] | who may attend to whom, in two key ranges per row | Eq. 3 and 4 |
//! | [`group`] | several noisy blocks at once, with rising mask ratios | – |
//! | [`alignment`] | which row predicts a token | – |
//! | [`layout`] | a training batch without rows that serve nobody | Eq. 1, 2 and 5 as rows |
//! | [`objective`] | weights and denominators, confidence-aware training, preference margins, policy ratios | Eq. 1, 2, 5; 6; 7 and 8; LLaDA2.1 |
//! | [`schedule`] | warm-up, stable, decay of the block size; learning rate | the WSD strategy |
//! | [`proposal`] | what a forward says about a position | – |
//! | [`acceptance`] | which proposals fill open positions: threshold and relatives | threshold decoding |
//! | [`credit`] | proposals that repeat become easier to accept | – |
//! | [`window`] | several blocks at a time, approximate and off by default | – |
//! | [`policy`] | acceptance, editing and window together, presets | LLaDA2.1: quality and speed modes |
//! | [`revise`] | editing that inserts and deletes positions | LLaDA2.2 |
//! | [`sequence`] | block after block, and where a text ends | threshold decoding |
//!
//! # A training batch
//! Noise, rows and weights of a document of 8 tokens, of which the first 3 are a prompt:
//!
//! ```
//! use llada_diffusion::*;
//!
//! const MASK_TOKEN_ID: u32 = 99; // comes from the checkpoint
//! let clean_ids = [10, 11, 12, 13, 14, 15, 16, 17];
//! let supervised: Vec<bool> = (0..8).map(|i| i >= 3).collect();
//! let block_size = BlockSize::new(4)?;
//!
//! let noise = NoiseSchedule::new(RateScope::Block, Band::new(0.3, 0.8)?);
//! let (seed, epoch, document) = (1, 0, 7);
//! let corruption = noise.corrupt(seed, epoch, document, &supervised, block_size);
//! let twin = corruption.complement(&supervised);
//!
//! let mut batch = TrainRows::new();
//! let copies = [&corruption, &twin].map(|copy| NoisyCopy { ids: &clean_ids, masked: &copy.masked });
//! let noisy = NoisyDocument { clean_ids: &clean_ids, copies: &copies, block_size, grouping: Grouping::default() };
//! batch.push_diffusion(0, &noisy, MASK_TOKEN_ID, LabelAlignment::Same, Elision::On);
//!
//! // Between them, the twins score every supervised token exactly once.
//! assert_eq!(batch.loss_rows.len(), 5);
//! let weights = [&corruption, &twin]
//!     .map(|copy| loss_weights(Normalisation::MaskedMean, &supervised, copy));
//! for loss in &batch.loss_rows {
//!     assert_eq!(weights[loss.copy as usize][loss.position as usize], 1.0);
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! # A decoding step
//! ```
//! use llada_diffusion::*;
//!
//! const MASK_TOKEN_ID: u32 = 99;
//! let policy = Policy { acceptance: Acceptance::Threshold(0.95), ..Policy::default() };
//! let mut sequence = Sequence::new(&[10, 11], 6, BlockSize::new(4)?, MASK_TOKEN_ID, policy)?;
//! assert_eq!(sequence.predicted_positions(), [2, 3]); // the first block begins with the prompt
//!
//! // A model would be asked here; it proposes a token and a confidence per open position.
//! let candidates = [(2, 0.99), (3, 0.42)]
//!     .map(|(position, confidence)| Candidate { position, token: 5, confidence });
//! let step = sequence.denoise_step(&candidates[..], |token| token == 0);
//! assert_eq!(step.written, [2]);
//! assert_eq!(sequence.tokens()[..4], [10, 11, 5, MASK_TOKEN_ID]);
//! # Ok::<(), Error>(())
//! ```
//!
//! # Not here
//! The model, the optimiser, caches, text, and special-token ids (they belong to a checkpoint). Of
//! decoding: tokens that return to MASK for want of confidence.

pub mod acceptance;
pub mod alignment;
pub mod block;
pub mod credit;
pub mod draft;
mod error;
pub mod group;
pub mod layout;
pub mod levenshtein;
mod names;
pub mod noise;
pub mod objective;
pub mod policy;
pub mod proposal;
pub mod revise;
pub mod rng;
pub mod schedule;
pub mod sequence;
pub mod trajectory;
pub mod visibility;
pub mod window;

pub use acceptance::{Acceptance, BlockHistory, Quota};
pub use alignment::{LabelAlignment, Predictor};
pub use block::BlockSize;
pub use credit::Credits;
pub use draft::{Draft, LevenshteinNoise, Original, ReplaceNoise, Replacements, Role};
pub use error::Error;
pub use group::{Grouped, Grouping};
pub use layout::{Elision, LossRow, NoisyCopy, NoisyDocument, TrainRows};
pub use levenshtein::{Masks, Operations, apply_labels, levenshtein_labels};
pub use noise::{Band, Corruption, MaskDraw, NoiseSchedule, RateScope};
pub use objective::{
    Clip, Counts, Elbos, Normalisation, Objective, cap_rows, cap_weight, dpo_loss, dpo_margin,
    ebpo_loss, group_advantages, loss_weights,
};
pub use policy::{Edit, Policy, Preset, Reopen};
pub use proposal::{Adjustment, Candidate, Proposals, propose};
pub use rng::{Rng, Stream};
pub use schedule::{BlockSchedule, BlockStage, Decay, LearningRate};
pub use sequence::{
    BlockOutcome, DecodeCounts, DenoiseStep, FinishReason, Placed, Sequence, finished,
};
pub use trajectory::{Recorded, TrajectoryNoise};
pub use visibility::{
    KeyRanges, Row, block_causal_ranges, causal_ranges, decode_ranges, full_ranges, prefill_ranges,
    visible,
};
pub use window::Window;
