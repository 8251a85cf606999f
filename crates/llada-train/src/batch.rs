//! From documents to the forward passes of one optimiser step.
//!
//! Noise is drawn per document by its number, before anything is divided: which micro-batch a
//! document lands in, and beside which others, changes nothing. The denominator of the loss is
//! counted over the whole batch before the first forward, and divided into the row weights, so that
//! micro-batches simply add up.

use llada_diffusion::{
    BlockSize, Corruption, Counts, Elision, LabelAlignment, NoiseSchedule, NoisyDocument,
    Normalisation, Objective, TrainRows, loss_weights,
};

use llada_model::Config;

use crate::data::{Document, Drawn};
use crate::error::{Error, Result};

/// How documents become rows. Fixed for a run.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// What is to be predicted from what.
    pub task: Task,
    /// What the loss is divided by.
    pub normalisation: Normalisation,
    /// Seed of the noise.
    pub seed: u64,
    /// Rows of one forward pass at most; one document may have more.
    pub micro_batch_rows: usize,
    /// Whether needless rows are left out.
    pub elision: Elision,
}

/// What is to be predicted from what.
#[derive(Clone, Debug)]
pub enum Task {
    /// The next token, from the ones before.
    Causal {
        /// Whether prompts are scored too.
        loss_on_prompt: bool,
    },
    /// Masked tokens, from the block around them and the blocks before.
    Diffusion(Diffusion),
}

/// Settings of denoising.
#[derive(Clone, Debug)]
pub struct Diffusion {
    /// Decides the block size of a document together with the schedule.
    pub objective: Objective,
    /// How documents are corrupted.
    pub noise: NoiseSchedule,
    /// Whether each document comes with a mask and its complement.
    pub complementary: bool,
    /// Token that fills answers up to the end of their block, if they are filled.
    pub fill: Option<u32>,
    /// What the checkpoint says about its rows.
    pub reading: Reading,
}

/// How a diffusion checkpoint is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Id of the MASK token.
    pub mask_token_id: u32,
    /// Which row predicts a position.
    pub alignment: LabelAlignment,
}

impl Reading {
    /// Returns what `config` says.
    ///
    /// # Errors
    /// If it is not the configuration of a diffusion model.
    pub fn of(config: &Config) -> Result<Self> {
        let mask_token_id = config
            .mask_token_id
            .ok_or(Error::NotDiffusion("mask_token_id"))?;
        let alignment = config
            .label_alignment
            .ok_or(Error::NotDiffusion("label_alignment"))?;
        Ok(Self {
            mask_token_id,
            alignment,
        })
    }
}

/// One forward pass.
#[derive(Clone, Debug, Default)]
pub struct MicroBatch {
    /// Rows to compute.
    pub rows: TrainRows,
    /// Weight of each loss row in the loss, denominators included, `[loss rows]`.
    pub weights: Vec<f32>,
    /// Mask ratio under which each loss row was drawn, `[loss rows]`.
    pub rates: Vec<f32>,
}

/// The forward passes of one step.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Forward passes; none if nothing is scored.
    pub micro_batches: Vec<MicroBatch>,
    /// What the denominator was taken from.
    pub counts: Counts,
    /// Tokens of the documents.
    pub num_tokens: u64,
    /// The documents.
    pub drawn: Vec<Drawn>,
}

impl Batch {
    /// Returns the number of rows computed.
    pub fn num_rows(&self) -> usize {
        self.micro_batches
            .iter()
            .map(|micro_batch| micro_batch.rows.len())
            .sum()
    }

    /// Returns the share of supervised tokens that is masked.
    pub fn mask_ratio(&self) -> f64 {
        self.counts.masked as f64 / self.counts.supervised.max(1) as f64
    }
}

impl Assembly {
    /// Builds the forward passes over some documents of a corpus.
    ///
    /// # Panics
    /// If a document number is not in the corpus.
    pub fn batch(&self, corpus: &[Document], drawn: Vec<Drawn>, block_size: BlockSize) -> Batch {
        let prepare = |&drawn: &Drawn| self.prepare(&corpus[drawn.document], drawn, block_size);
        let documents: Vec<Prepared> = drawn.iter().map(prepare).collect();
        let mut counts = Counts::default();
        documents
            .iter()
            .flat_map(Prepared::counts)
            .for_each(|copy| counts += copy);
        let micro_batches = match self.normalisation.denominator(&counts) {
            0 => Vec::new(),
            denominator => self.micro_batches(&documents, 1.0 / denominator as f64),
        };
        let num_tokens = documents
            .iter()
            .map(|document| document.ids.len() as u64)
            .sum();
        Batch {
            micro_batches,
            counts,
            num_tokens,
            drawn,
        }
    }

    fn prepare(&self, document: &Document, drawn: Drawn, block_size: BlockSize) -> Prepared {
        match &self.task {
            Task::Causal { loss_on_prompt } => Prepared::causal(document, *loss_on_prompt),
            Task::Diffusion(diffusion) => diffusion.prepare(document, drawn, block_size, self.seed),
        }
    }

    /// Fills forward passes in order of the documents.
    fn micro_batches(&self, documents: &[Prepared], scale: f64) -> Vec<MicroBatch> {
        let mut micro_batches = vec![MicroBatch::default()];
        for (doc, document) in (0..).zip(documents) {
            let last = micro_batches.last().expect("there is a first one");
            let is_full = last.rows.len() + document.most_rows() > self.micro_batch_rows;
            if is_full && !last.rows.is_empty() {
                micro_batches.push(MicroBatch::default());
            }
            let last = micro_batches.last_mut().expect("there is a first one");
            self.push(last, doc, document, scale);
        }
        micro_batches.retain(|micro_batch| !micro_batch.rows.loss_rows.is_empty());
        micro_batches
    }

    fn push(&self, micro_batch: &mut MicroBatch, doc: u32, document: &Prepared, scale: f64) {
        match &self.task {
            Task::Causal { .. } => micro_batch.push_causal(doc, document),
            Task::Diffusion(diffusion) => {
                micro_batch.push_diffusion(doc, document, diffusion.reading, self.elision);
            }
        }
        micro_batch.push_weights(document, self.normalisation, scale);
    }
}

impl Diffusion {
    fn prepare(
        &self,
        document: &Document,
        drawn: Drawn,
        scheduled: BlockSize,
        seed: u64,
    ) -> Prepared {
        let block_size = self.objective.block_size(scheduled, document.ids.len());
        let mut ids = document.ids.clone();
        if let Some(fill) = self.fill.filter(|_| document.is_answer) {
            ids.resize(ids.len().next_multiple_of(block_size.get()), fill);
        }
        let filled = Document { ids, ..*document };
        let supervised = filled.supervised();
        let number = drawn.document as u64;
        let first = self
            .noise
            .corrupt(seed, drawn.epoch, number, &supervised, block_size);
        let twin = self.complementary.then(|| first.complement(&supervised));
        let copies = std::iter::once(first).chain(twin).collect();
        Prepared {
            ids: filled.ids,
            supervised,
            copies,
            block_size,
        }
    }
}

/// A document with its noise.
pub(crate) struct Prepared {
    pub(crate) ids: Vec<u32>,
    pub(crate) supervised: Vec<bool>,
    pub(crate) copies: Vec<Corruption>,
    pub(crate) block_size: BlockSize,
}

impl Prepared {
    /// Every supervised token is scored: the mask is full and its ratio 1.
    pub(crate) fn causal(document: &Document, loss_on_prompt: bool) -> Self {
        let mut supervised = document.supervised();
        if loss_on_prompt {
            supervised.iter_mut().skip(1).for_each(|sup| *sup = true);
        }
        let rates = vec![1.0; supervised.len()];
        let copies = vec![Corruption {
            masked: supervised.clone(),
            rates,
        }];
        Self {
            ids: document.ids.clone(),
            supervised,
            copies,
            block_size: BlockSize::ONE,
        }
    }

    fn counts(&self) -> impl Iterator<Item = Counts> {
        self.copies
            .iter()
            .map(|copy| Counts::of(&self.supervised, copy))
    }

    /// Returns how many rows the document has at most.
    pub(crate) fn most_rows(&self) -> usize {
        self.ids.len() * (1 + self.copies.len())
    }
}

impl MicroBatch {
    pub(crate) fn push_causal(&mut self, doc: u32, document: &Prepared) {
        let first = self.rows.loss_rows.len();
        self.rows.push_causal(doc, &document.ids);
        let scored = |row: &llada_diffusion::LossRow| document.supervised[row.position as usize];
        let rows: Vec<_> = self.rows.loss_rows.drain(first..).filter(scored).collect();
        self.rows.loss_rows.extend(rows);
    }

    pub(crate) fn push_diffusion(
        &mut self,
        doc: u32,
        document: &Prepared,
        reading: Reading,
        elision: Elision,
    ) {
        let copies: Vec<_> = document
            .copies
            .iter()
            .map(|copy| copy.masked.clone())
            .collect();
        let block_size = document.block_size;
        let noisy = NoisyDocument {
            clean_ids: &document.ids,
            copies: &copies,
            block_size,
        };
        let Reading {
            mask_token_id,
            alignment,
        } = reading;
        self.rows
            .push_diffusion(doc, &noisy, mask_token_id, alignment, elision);
    }

    /// Gives the loss rows that the document added their weights.
    pub(crate) fn push_weights(
        &mut self,
        document: &Prepared,
        normalisation: Normalisation,
        scale: f64,
    ) {
        let weigh = |copy| loss_weights(normalisation, &document.supervised, copy);
        let weights: Vec<Vec<f32>> = document.copies.iter().map(weigh).collect();
        for row in &self.rows.loss_rows[self.weights.len()..] {
            let weight = weights[row.copy as usize][row.position as usize];
            self.weights.push((f64::from(weight) * scale) as f32);
            let corruption = &document.copies[row.copy as usize];
            self.rates.push(corruption.rates[row.position as usize]);
        }
    }
}

#[cfg(test)]
mod tests;
