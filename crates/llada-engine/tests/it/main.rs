//! The engine against golden decodes, against its oracle, and against the contract of decoding.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

mod alternatives;
mod batch;
mod constraint;
mod equivalence;
mod golden;
mod invariants;
mod model_contract;
mod refusals;
mod reopen;
mod support;
mod tinystories;
mod window;
