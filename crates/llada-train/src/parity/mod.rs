//! Comparison of losses and gradients with those of an independent implementation
//! (`testdata/golden`), through the code that trains.

mod file;

use std::collections::BTreeMap;
use std::path::Path;

use llada_diffusion::{
    BlockSize, Corruption, Elision, Grouping, LabelAlignment, Normalisation, Objective,
};
use llada_model::{Activations, Gradients, KeepDtype, Model, Weights, load};
use llada_tensor::{AdamW, Precision, Tensor, Weight, adamw_step};
use serde::{Deserialize, Serialize};

use self::file::TensorFile;
use crate::batch::{MicroBatch, Noisy, Prepared, Reading};
use crate::data::{Document, Turn};
use crate::error::{Error, Result};
use crate::objective::{Preference, Reference, cap, weighted_nll};
use crate::optimizer::gradient_norm;

/// How far a case is from its recorded values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TrainParity {
    /// Difference of the loss, relative to it.
    pub loss_rel: f64,
    /// Largest relative difference of a gradient norm: of the whole and of each parameter.
    pub grad_norm_rel: f64,
    /// Largest difference of a stored gradient (or updated parameter), relative to its largest entry.
    pub grad_rel: f64,
}

/// Runs every case of `train.json`, in f32.
///
/// # Errors
/// If a file is missing or malformed, or a case is unknown.
pub fn train_parity(golden: &Path) -> Result<BTreeMap<String, TrainParity>> {
    let golden = Golden::open(golden)?;
    golden
        .cases
        .keys()
        .map(|name| Ok((name.clone(), golden.case(name)?)))
        .collect()
}

/// A case of `train.json`. Which fields it has depends on its objective.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Case {
    t: f32,
    block_size: usize,
    prompt_len: usize,
    beta: f64,
    loss: f64,
    grad_norm: f64,
    grad_norms: BTreeMap<String, f64>,
    /// Of one optimiser step: the case whose gradient it uses, and its settings.
    of: String,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
}

/// The model and the recorded values.
struct Golden {
    model: Model,
    /// Parameters of the frozen model.
    reference: TensorFile,
    reading: Reading,
    cases: BTreeMap<String, Case>,
    tensors: TensorFile,
}

impl Golden {
    fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("train.json");
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let cases = serde_json::from_slice(&text)
            .map_err(|e| Error::unsuitable(&path, format!("is malformed: {e}")))?;
        let loaded = load(&dir.join("model"), Precision::F32, KeepDtype::F32)?;
        let reference = TensorFile::open(dir.join("dpo_reference.safetensors"))?;
        let tensors = TensorFile::open(dir.join("train.safetensors"))?;
        Ok(Self {
            reference,
            model: Model::new(loaded.config, loaded.weights),
            reading: Reading {
                mask_token_id: mask_token_id(&tensors)?,
                alignment: LabelAlignment::Same,
            },
            cases,
            tensors,
        })
    }

    fn case(&self, name: &str) -> Result<TrainParity> {
        let case = &self.cases[name];
        if !case.of.is_empty() {
            return self.update(name, case);
        }
        let (loss, grads) = self.gradients(name, case)?;
        self.compare(name, case, loss, &grads)
    }

    /// Computes loss and gradients of a case.
    fn gradients(&self, name: &str, case: &Case) -> Result<(f64, Gradients)> {
        let mut grads = self.model.zero_gradients();
        let (model, keep) = (&self.model, Activations::Keep);
        let loss = match name.split('_').next() {
            Some("ar") => weighted_nll(model, &self.causal(name)?, keep, &mut grads).loss,
            Some("bdlm" | "mdlm") => {
                weighted_nll(model, &self.denoising(name, case)?, keep, &mut grads).loss
            }
            Some("sft") => {
                let lambda = name
                    .rsplit_once("lambda")
                    .and_then(|(_, text)| text.parse().ok());
                let lambda = lambda.ok_or_else(|| self.tensors.malformed(name))?;
                cap(model, &[self.twins(name, case)?], lambda, keep, &mut grads).loss
            }
            Some("dpo") => self.preference(name, case, &mut grads)?,
            _ => return Err(self.tensors.malformed(name)),
        };
        Ok((loss, grads))
    }

    /// Mean next-token loss over documents side by side.
    fn causal(&self, name: &str) -> Result<MicroBatch> {
        let documents = self.documents(name, "x0")?;
        let prepare = |ids| Prepared::causal(&Document::text(ids), false);
        let prepared: Vec<_> = documents.into_iter().map(prepare).collect();
        let copies = prepared.iter().flat_map(|document| &document.copies);
        let scale = 1.0 / copies.map(Noisy::num_supervised).sum::<u64>() as f64;
        let mut batch = MicroBatch::default();
        for (doc, document) in (0..).zip(&prepared) {
            batch.push_causal(doc, document);
            batch.push_weights(document, Normalisation::MaskedMean, scale);
        }
        Ok(batch)
    }

    /// Bound per token over documents side by side.
    fn denoising(&self, name: &str, case: &Case) -> Result<MicroBatch> {
        let (clean, noisy) = (self.documents(name, "x0")?, self.documents(name, "xt")?);
        let scale = 1.0 / clean.iter().map(Vec::len).sum::<usize>() as f64;
        let objective = if case.block_size == 0 {
            Objective::Mdlm
        } else {
            Objective::Bdlm
        };
        let scheduled = BlockSize::new(case.block_size).unwrap_or(BlockSize::ONE);
        let mut batch = MicroBatch::default();
        for (doc, (ids, noisy)) in (0..).zip(clean.into_iter().zip(noisy)) {
            let masked = noisy
                .iter()
                .map(|&id| id == self.reading.mask_token_id)
                .collect();
            let block_size = objective.block_size(scheduled, ids.len());
            let document = prepared(ids, 0, case.t, vec![masked], block_size);
            batch.push_diffusion(doc, &document, self.reading, Elision::On);
            batch.push_weights(&document, Normalisation::ElboToken, scale);
        }
        Ok(batch)
    }

    /// Mean over the masked tokens of an answer's complementary pair.
    fn twins(&self, name: &str, case: &Case) -> Result<MicroBatch> {
        let masks = [self.mask(name, "mask_a")?, self.mask(name, "mask_b")?];
        let num_masked = masks.iter().flatten().filter(|&&masked| masked).count();
        let document = self.answer(case, self.ids(name, "x0")?, masks.to_vec())?;
        Ok(self.alone(
            &document,
            Normalisation::MaskedMean,
            1.0 / num_masked as f64,
        ))
    }

    fn preference(&self, name: &str, case: &Case, grads: &mut Gradients) -> Result<f64> {
        let mut pair = MicroBatch::default();
        for (doc, which) in (0..).zip(["chosen", "rejected"]) {
            let mask = self.mask(name, &format!("mask_{which}"))?;
            let answer = self.answer(case, self.ids(name, which)?, vec![mask])?;
            pair.push_diffusion(doc, &answer, self.reading, Elision::On);
            pair.push_weights(&answer, Normalisation::ElboToken, 1.0);
        }
        let preference = Preference {
            reference: Reference::Model(self.reference()?.into()),
            beta: case.beta,
        };
        let keep = Activations::Keep;
        Ok(preference
            .accumulate(&self.model, &pair, &[], 1.0, keep, grads)
            .loss)
    }

    fn reference(&self) -> Result<Model> {
        let config = &self.model.config;
        let weights = Weights::build(config, |spec| {
            let values = self.reference.floats(&format!("ref.{}", spec.name))?;
            Ok::<_, Error>(Weight::new(values, Precision::F32))
        })?;
        Ok(Model::new(config.clone(), weights))
    }

    fn answer(&self, case: &Case, ids: Vec<u32>, masks: Vec<Vec<bool>>) -> Result<Prepared> {
        let block_size = BlockSize::new(case.block_size)?;
        Ok(prepared(ids, case.prompt_len, case.t, masks, block_size))
    }

    fn alone(&self, document: &Prepared, normalisation: Normalisation, scale: f64) -> MicroBatch {
        let mut batch = MicroBatch::default();
        batch.push_diffusion(0, document, self.reading, Elision::On);
        batch.push_weights(document, normalisation, scale);
        batch
    }

    /// Takes one optimiser step on another case's gradient and compares the stored parameters.
    fn update(&self, name: &str, case: &Case) -> Result<TrainParity> {
        let source = self
            .cases
            .get(&case.of)
            .ok_or_else(|| self.tensors.malformed(name))?;
        let (loss, grads) = self.gradients(&case.of, source)?;
        let mut parity = self.compare(&case.of, source, loss, &grads)?;
        parity.grad_rel = 0.0;
        let mut weights = self.model.weights.clone();
        let step = AdamW {
            learning_rate: case.lr,
            beta1: case.beta1,
            beta2: case.beta2,
            eps: case.eps,
            weight_decay: case.weight_decay,
            step_num: 1,
        };
        let trained = weights.trained_mut(&grads).into_iter();
        for (weight, (param, grad)) in trained.zip(grads.tensors()) {
            let Some(expected) = self.tensors.floats_if_any(&format!("{name}.{param}"))? else {
                continue;
            };
            let (mut first, mut second) =
                (Tensor::zeros(grad.shape()), Tensor::zeros(grad.shape()));
            adamw_step(&step, weight, grad, 1.0, &mut first, &mut second);
            parity.grad_rel = worst(parity.grad_rel, relative(weight, &expected));
        }
        Ok(parity)
    }

    fn compare(
        &self,
        name: &str,
        case: &Case,
        loss: f64,
        grads: &Gradients,
    ) -> Result<TrainParity> {
        let mut parity = TrainParity {
            loss_rel: relative_difference(loss, case.loss),
            grad_norm_rel: relative_difference(gradient_norm(grads), case.grad_norm),
            grad_rel: 0.0,
        };
        for (param, grad) in grads.tensors() {
            if let Some(&expected) = case.grad_norms.get(&param) {
                let norm = llada_tensor::sum_of_squares(grad).sqrt();
                let difference = relative_difference(norm, expected);
                parity.grad_norm_rel = worst(parity.grad_norm_rel, difference);
            }
            if let Some(expected) = self
                .tensors
                .floats_if_any(&format!("{name}.grad.{param}"))?
            {
                parity.grad_rel = worst(parity.grad_rel, relative(grad, &expected));
            }
        }
        Ok(parity)
    }

    /// Splits a row of ids into its documents.
    fn documents(&self, name: &str, which: &str) -> Result<Vec<Vec<u32>>> {
        let (ids, docs) = (self.ids(name, which)?, self.ids(name, "doc")?);
        if ids.len() != docs.len() {
            return Err(self.tensors.malformed(name));
        }
        let tokens: Vec<(u32, u32)> = docs.into_iter().zip(ids).collect();
        let same_document = |a: &(u32, u32), b: &(u32, u32)| a.0 == b.0;
        let ids = |document: &[(u32, u32)]| document.iter().map(|&(_, id)| id).collect();
        Ok(tokens.chunk_by(same_document).map(ids).collect())
    }

    fn ids(&self, name: &str, which: &str) -> Result<Vec<u32>> {
        self.tensors.ids(&format!("{name}.{which}"))
    }

    fn mask(&self, name: &str, which: &str) -> Result<Vec<bool>> {
        Ok(self
            .ids(name, which)?
            .into_iter()
            .map(|flag| flag != 0)
            .collect())
    }
}

/// Returns a document with given masks, all drawn at rate `t`, of which all after a prompt is learned.
fn prepared(
    ids: Vec<u32>,
    prompt_len: usize,
    t: f32,
    masks: Vec<Vec<bool>>,
    block_size: BlockSize,
) -> Prepared {
    let turn = Turn {
        supervised: (0..ids.len()).map(|i| i >= prompt_len).collect(),
        ids: ids.clone(),
        steps: Vec::new(),
    };
    let copy = |masked: Vec<bool>| {
        let rates = vec![t; masked.len()];
        Noisy::new(turn.clone(), Corruption { masked, rates })
    };
    Prepared {
        ids,
        copies: masks.into_iter().map(copy).collect(),
        block_size,
        grouping: Grouping::default(),
    }
}

/// Returns the id that noise puts in place of a token; the model's config does not name it.
fn mask_token_id(tensors: &TensorFile) -> Result<u32> {
    let (clean, noisy) = (tensors.ids("mdlm.x0")?, tensors.ids("mdlm.xt")?);
    let replaced = clean
        .into_iter()
        .zip(noisy)
        .find(|(clean, noisy)| clean != noisy);
    replaced
        .map(|(_, mask)| mask)
        .ok_or_else(|| tensors.malformed("mdlm.xt"))
}

/// Returns the largest difference relative to the largest expected entry.
fn relative(actual: &Tensor, expected: &Tensor) -> f64 {
    let pairs = actual.f32s().iter().zip(expected.f32s());
    let differences = pairs.map(|(a, b)| f64::from((a - b).abs()));
    let scale = expected
        .f32s()
        .iter()
        .fold(0.0, |max, x| f64::max(max, f64::from(x.abs())));
    ratio(differences.fold(0.0, worst), scale)
}

fn relative_difference(actual: f64, expected: f64) -> f64 {
    ratio((actual - expected).abs(), expected.abs())
}

/// Returns 0 for 0 / 0: both say that nothing is there.
fn ratio(difference: f64, scale: f64) -> f64 {
    if difference == 0.0 {
        0.0
    } else {
        difference / scale
    }
}

/// Returns the larger one, and NaN if either is.
fn worst(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests;
