//! Likelihood of texts: exact for a parent, a bound for a block-diffusion model.
//!
//! **The bound.** For a block of n tokens the diffusion bound E_t[sum M nll / t] is the same as
//! drawing the *number* of masked tokens k uniformly from 1..n, masking k tokens at random, and
//! weighing by n / k: both give every k the weight 1 / k. Counting has two advantages: there is no
//! small t with a huge weight, and the k of several draws can be spread evenly. With as many draws
//! as tokens in a block each k is met once. Blocks of one token are exact: n = k = 1 is the chain
//! rule.
//!
//! Noise is fixed, so that two models, or one model at two times, are compared on the same masks.
//! The first token of a document is never scored, in any mode: the figures of all modes are about
//! the same tokens.

use llada_diffusion::{BlockSize, Corruption, Elision, Grouping, Normalisation, Rng, Stream};
use llada_model::{Config, Model};

use crate::batch::{MicroBatch, Noisy, Prepared, Reading};
use crate::data::{Document, Turn};
use crate::error::{Error, Result};
use crate::objective::{nll_of, score};

/// Rows of one forward pass at most.
const MAX_ROWS: usize = 8192;
/// Seed of the fixed noise.
const SEED: u64 = 0;
/// Fractional part of the golden ratio: spreads the first draw of a document's blocks.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The exact likelihood of a causal model.
    Ar,
    /// The bound of a diffusion model that writes blocks of this size.
    Block(BlockSize),
}

impl Mode {
    /// Returns how many masks are worth drawing: more than a block has tokens repeat themselves.
    fn draws(self, wanted: usize) -> usize {
        match self {
            Self::Ar => 1,
            Self::Block(size) => wanted.clamp(1, size.get()),
        }
    }

    /// Checks that blocks are those whose rows choose their experts together, if the model has such.
    fn check(self, config: &Config) -> Result<()> {
        match (config.block_routing(), self) {
            (None, _) => Ok(()),
            (Some(routing), Self::Block(size)) if size.get() == routing.block_size => Ok(()),
            (Some(routing), _) => Err(Error::OtherBlocks(routing.block_size)),
        }
    }
}

/// Negative log-likelihood of some documents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NllResult {
    /// Mean over tokens, in nats.
    pub nll_per_token: f64,
    /// Tokens that were predicted.
    pub tokens: u64,
    /// Standard error of the mean that the choice of documents causes.
    pub stderr: f64,
}

/// Measures the likelihood of `documents`, with `draws` noise levels per block.
///
/// # Errors
/// If a bound is asked of a model that is not a diffusion model, or of one whose blocks of another size
/// choose their experts together, there is no token to predict, or the model's output is not finite.
pub fn nll(model: &Model, documents: &[Document], mode: Mode, draws: usize) -> Result<NllResult> {
    summarise(&nll_of_each(model, documents, mode, draws)?)
}

/// As [`nll`], document by document. The noise of a document depends on its place in `documents`.
///
/// # Errors
/// If a bound is asked of a model that is not a diffusion model, or of one whose blocks of another size
/// choose their experts together.
pub fn nll_of_each(
    model: &Model,
    documents: &[Document],
    mode: Mode,
    draws: usize,
) -> Result<Vec<Total>> {
    mode.check(&model.config)?;
    let mut totals = Vec::with_capacity(documents.len());
    let draws = mode.draws(draws);
    let mut pending = Pending::default();
    for (number, document) in (0..).zip(documents) {
        let prepared = prepare(document, number, mode, draws);
        if pending.micro_batch.rows.len() + prepared.most_rows() > MAX_ROWS {
            pending.score(model, &mut totals);
        }
        pending.push(model, &prepared, mode, draws)?;
    }
    pending.score(model, &mut totals);
    Ok(totals)
}

/// Likelihood of one document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// Sum of negative log-likelihoods, in nats.
    pub nll: f64,
    /// Tokens that were predicted.
    pub tokens: u64,
}

/// Documents that wait for a forward pass.
#[derive(Default)]
struct Pending {
    micro_batch: MicroBatch,
    totals: Vec<Total>,
}

impl Pending {
    fn push(&mut self, model: &Model, document: &Prepared, mode: Mode, draws: usize) -> Result<()> {
        let doc = self.totals.len() as u32;
        match mode {
            Mode::Ar => self.micro_batch.push_causal(doc, document),
            Mode::Block(_) => {
                let reading = Reading::of(&model.config)?;
                self.micro_batch
                    .push_diffusion(doc, document, reading, Elision::On);
            }
        }
        let scale = 1.0 / draws as f64;
        self.micro_batch
            .push_weights(document, Normalisation::ElboToken, scale);
        let supervised = document.copies.iter().map(Noisy::num_supervised);
        let tokens = supervised.sum::<u64>() / draws as u64;
        self.totals.push(Total { nll: 0.0, tokens });
        Ok(())
    }

    /// Scores what waits and moves its totals to `scored`.
    fn score(&mut self, model: &Model, scored: &mut Vec<Total>) {
        let Self {
            micro_batch,
            mut totals,
        } = std::mem::take(self);
        if !micro_batch.rows.is_empty() {
            let head = score(model, &micro_batch);
            let rows = micro_batch.rows.loss_rows.iter().zip(&micro_batch.weights);
            for ((row, &weight), head) in rows.zip(&head) {
                totals[row.doc as usize].nll += f64::from(weight) * nll_of(head);
            }
        }
        scored.extend(totals);
    }
}

fn prepare(document: &Document, number: u64, mode: Mode, draws: usize) -> Prepared {
    let Mode::Block(block_size) = mode else {
        return Prepared::causal(document, false);
    };
    let copies = |turn: Turn| {
        let copy = move |draw| {
            let noise = fixed_noise(number, &turn.supervised, block_size, draw, draws);
            Noisy::new(turn.clone(), noise)
        };
        (0..draws).map(copy)
    };
    let turns = document.turns(None, block_size); // nothing is filled: what is scored is the text
    Prepared {
        ids: document.ids.clone(),
        copies: turns.into_iter().flat_map(copies).collect(),
        block_size,
        grouping: Grouping::default(),
    }
}

/// Draws mask number `draw` of `draws` of a document.
fn fixed_noise(
    document: u64,
    supervised: &[bool],
    block_size: BlockSize,
    draw: usize,
    draws: usize,
) -> Corruption {
    let words = Rng::new(SEED, Stream::Mask);
    let start = f64::from(Rng::new(SEED, Stream::Rate).uniform(0, document, 0));
    let len = supervised.len();
    let mut noise = Corruption {
        masked: vec![false; len],
        rates: vec![1.0; len],
    };
    for block in 0..block_size.count(len) {
        let rows = block_size.rows(block, len);
        let mut order: Vec<usize> = rows.clone().filter(|&i| supervised[i]).collect();
        let u = (start + block as f64 * GOLDEN + draw as f64 / draws as f64).fract();
        let num_masked = ((u * order.len() as f64) as usize + 1).min(order.len());
        order.sort_by_key(|&i| (words.at(draw as u32, document, i as u32)[0], i));
        order[..num_masked]
            .iter()
            .for_each(|&i| noise.masked[i] = true);
        noise.rates[rows].fill(num_masked as f32 / order.len().max(1) as f32);
    }
    noise
}

/// Returns the mean over tokens, with the standard error of a ratio of sums over documents.
fn summarise(totals: &[Total]) -> Result<NllResult> {
    let tokens: u64 = totals.iter().map(|total| total.tokens).sum();
    if tokens == 0 {
        return Err(Error::NoDocuments {
            paths: "the documents".into(),
        });
    }
    let nll_per_token = totals.iter().map(|total| total.nll).sum::<f64>() / tokens as f64;
    let deviation = |total: &Total| total.nll - nll_per_token * total.tokens as f64;
    let squares: f64 = totals.iter().map(|total| deviation(total).powi(2)).sum();
    let num_documents = totals.len() as f64;
    let correction = num_documents / (num_documents - 1.0).max(1.0);
    let stderr = (squares * correction).sqrt() / tokens as f64;
    if !nll_per_token.is_finite() {
        return Err(Error::NonFiniteLikelihood(nll_per_token));
    }
    Ok(NllResult {
        nll_per_token,
        tokens,
        stderr,
    })
}

#[cfg(test)]
mod tests;
