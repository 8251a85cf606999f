//! Training: data -> batches -> objective -> optimiser, with checkpoints that resume bit by bit.
//!
//! Where to start: [`Learner::train_step`] is one step, [`train`] the loop around it, [`Recipe`]
//! everything that a user can decide. The method itself is in `llada-diffusion`, the transformer in
//! `llada-model`; this crate brings documents to the one and gradients to the other.
//!
//! * [`data`] reads rows of files, [`check_data`] says beforehand what they are; [`batch`] turns
//!   documents into forward passes.
//! * [`rollout`] is where the answers of a policy come from that is trained on them.
//! * [`objective`] holds the losses and their gradients, [`step`] and [`optimizer`] the update.
//! * [`mask_noise`] and [`balance`] are for the start of a conversion and for mixtures of experts,
//!   [`adapter_dropout`] for adapters.
//! * [`evaluate`] measures likelihoods, [`mod@convert`] makes a diffusion model of a parent.
//! * [`mod@merge`] averages checkpoints, and merges an adapter into its base.
//! * [`mod@plan`] tells the memory a run needs, [`report`] draws the curves of runs.
//! * [`parity`] compares all of it with recorded values of an independent implementation.
//!
//! The crate knows neither decoding nor HTTP.

pub mod adapter_dropout;
pub mod balance;
pub mod batch;
mod checkpoint;
pub mod convert;
pub mod data;
mod data_check;
mod error;
pub mod evaluate;
pub mod mask_noise;
pub mod merge;
pub mod objective;
pub mod optimizer;
pub mod parity;
pub mod plan;
pub mod recipe;
mod replace;
pub mod report;
pub mod rollout;
pub mod step;
#[cfg(test)]
mod testing;
pub mod trainer;
mod validations;

pub use convert::{ConvertOptions, Converted, MaskChoice, convert};
pub use data_check::{DataReport, Lengths, SetReport, check_data};
pub use error::{Error, Result};
pub use evaluate::{Mode, NllResult, Total, nll, nll_of_each};
pub use merge::{best_checkpoints, merge, merge_adapter};
pub use recipe::Recipe;
pub use step::{Learner, StepReport};
pub use trainer::{Ending, Metrics, Outcome, Progress, Resume, train, train_policy};
