//! The decoding engine: requests in, token ids out.
//!
//! ```text
//! Request -> Plan (checked once) -> loop { forward of some rows -> candidates -> denoise_step } -> Answer
//! ```
//!
//! [`Engine::generate`] writes a text block by block over a cache of keys and values: block
//! diffusion as [`llada_diffusion`] defines it, with every saving that leaves the output the same.
//! [`Engine::generate_causal`] is autoregression, for the parents. [`mod@reference`] is the slow definition
//! of the first, without a cache; tests compare the two.
//!
//! The engine speaks token ids: no text, no clock, and no files but the recorded decodes of
//! [`generate_parity`]. Its state between forwards is plain data
//! and its decisions are the pure functions of [`llada_diffusion`].

mod batch;
mod causal;
mod decode;
mod error;
mod options;
#[allow(dead_code)]
mod pages;
mod parity;
mod plan;
pub mod reference;
mod request;
mod sampling;
#[allow(dead_code)]
mod scheduler;

use llada_model::{KvCache, Model};

pub use error::Error;
pub use llada_diffusion::{FinishReason, LabelAlignment, Quota};
pub use options::{CommitMode, Options};
pub use parity::{GenerateParity, generate_parity};
pub use request::{Answer, Forwards, Request, Sampling, Schedule, TraceStep};

use batch::Batch;

/// A model with the buffers that decoding needs; it serves one request at a time.
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m Model,
    options: Options,
    cache: KvCache,
    batch: Batch,
}

impl<'m> Engine<'m> {
    /// Creates an engine; pack the model first ([`Model::pack`]).
    pub fn new(model: &'m Model, options: Options) -> Self {
        Self {
            model,
            options,
            cache: KvCache::new(&model.config),
            batch: Batch::default(),
        }
    }

    /// Writes an answer by block diffusion.
    ///
    /// `on_final` receives the ids of the answer as they become final, in order and without gaps; all
    /// of them together are [`Answer::output_ids`].
    ///
    /// # Errors
    /// If the request cannot be served by this model, or the model produces numbers that are not finite.
    pub fn generate(
        &mut self,
        request: &Request,
        on_final: &mut dyn FnMut(&[u32]),
    ) -> Result<Answer, Error> {
        decode::generate(self, request, on_final)
    }

    /// Writes an answer token by token: the way of an autoregressive parent. The settings of blocks
    /// and acceptance are not used; a [`TraceStep`] holds one token, as with blocks of one.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn generate_causal(
        &mut self,
        request: &Request,
        on_final: &mut dyn FnMut(&[u32]),
    ) -> Result<Answer, Error> {
        causal::generate(self, request, on_final)
    }
}
