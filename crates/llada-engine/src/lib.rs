//! The decoding engine: requests in, token ids out.
//!
//! ```text
//! Request -> Plan (checked once) -> queue
//! loop {
//!     scheduler: which rows of which requests      (plain data: pages, groups)
//!     model:     one forward of all these rows
//!     head:      a proposal per open row           (fused, or whole logits for sampling)
//!     sequence:  what is accepted                  (pure: llada_diffusion)
//! } -> Events, at last an Answer
//! ```
//!
//! [`Engine::submit`] takes any number of requests, [`Engine::step`] runs one forward of all that are
//! running and returns what happened, [`Engine::cancel`] ends one. [`Engine::generate`] is the loop
//! for one request alone. An answer never depends on what runs beside it, nor on pages, chunks,
//! threads or the savings in [`Savings`]; [`mod@reference`] is its slow definition, without a cache,
//! and tests compare the two.
//!
//! ```no_run
//! use llada_engine::{Engine, Event, Options, Request};
//! # fn serve(model: &llada_model::Model) -> Result<(), llada_engine::Error> {
//! let mut engine = Engine::new(model, Options::new(&model.config))?;
//! for prompt in [vec![1, 2, 3], vec![4, 5]] {
//!     engine.submit(&Request::new(prompt, 64))?;
//! }
//! while !engine.is_idle() {
//!     for event in engine.step() {
//!         if let Event::Finished { request, answer } = event {
//!             assert!(answer.output_ids.len() <= 64, "{request:?}");
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The engine speaks token ids: no text, and no files but the recorded decodes of
//! [`generate_parity`]. Rules that need the text come in as [`Hooks`]. Clocks only feed [`Stats`].

mod alternatives;
mod batch;
mod decoding;
mod engine;
mod error;
mod event;
mod hooks;
mod options;
mod pages;
mod parity;
mod plan;
pub mod reference;
mod request;
mod sampling;
mod scheduler;
mod stats;

pub use alternatives::Alternative;
pub use engine::Engine;
pub use error::Error;
pub use event::Event;
pub use hooks::{Constraint, Hooks, StopRule};
pub use llada_diffusion::{
    Acceptance, Edit, FinishReason, LabelAlignment, Placed, Policy, Preset, Quota, Reopen, Window,
};
pub use options::{Capacity, Options, Savings};
pub use parity::{GenerateParity, generate_parity};
pub use request::{Answer, Forwards, Method, Request, RequestId, Sampling, Schedule, TraceStep};
pub use stats::Stats;
