//! Dropout of what an adapter sees (LoRA): noise of training alone.
//!
//! What is dropped is a function of (seed, epoch, document, position, copy, layer, place in the layer):
//! micro-batches, threads and resuming change nothing. Likelihoods are measured without it.

use llada_diffusion::{Rng, Row, Stream, TrainRows};
use llada_model::Dropout;

use crate::data::{Drawn, Unit};

/// The dropout of one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterDropout {
    /// Share of inputs that are dropped, in 0..1.
    pub rate: f32,
    /// Seed of the run.
    pub seed: u64,
    /// What is drawn together.
    pub unit: Unit,
    /// The documents, or pairs of them, of the batch.
    pub drawn: Vec<Drawn>,
}

impl AdapterDropout {
    /// Returns the dropout of some rows.
    pub(crate) fn of(&self, rows: &TrainRows) -> Dropout {
        let rng = Rng::new(self.seed, Stream::Dropout);
        let of_row = |row: &Row| {
            let (unit, member) = (
                row.doc as usize / self.unit.size(),
                row.doc as usize % self.unit.size(),
            );
            let Drawn { epoch, document } = self.drawn[unit];
            let of_token = rng.fork(epoch, document as u64, row.pos);
            of_token.fork(row.copy, member as u64, u32::from(row.clean))
        };
        Dropout::new(self.rate, rows.rows.iter().map(of_row).collect())
    }
}
