//! Output head fused with what is read from the logits; a [N, V] array never exists (`training.md` 5.6).
//!
//! Logits exist for one chunk of rows at a time. A row's logits, and so all that is read from them, do
//! not depend on the chunk; the weight's gradient is one chain over the rows, which a chunk continues.

mod row;

use std::ops::Range;

use rayon::prelude::*;

use crate::gemm::{Matrix, gemm_over};
use crate::simd::dispatch;
use crate::{Gradient, Isa, Tensor, Weight};
use row::{LogitGradient, Statistics};

/// Logits of a chunk, if that gives a sensible number of rows.
const CHUNK_LOGITS: usize = 1 << 23;

/// What one row's logits z say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadRow {
    /// log sum exp z over the full vocabulary.
    pub lse: f32,
    /// z at the target; NaN when no target was given.
    pub target_logit: f32,
    /// Entropy of softmax(z) in nats.
    pub entropy: f32,
    /// Id of the largest logit outside the banned id; the lower id wins ties.
    pub argmax: u32,
    /// Its logit.
    pub argmax_logit: f32,
}

/// Computes [`HeadRow`]s chunk by chunk. A non-finite logit shows as a non-finite `lse`.
/// # Shapes: h [N, D], w [V, D]; targets N when given; `banned` is excluded from the argmax only.
///
/// # Panics
/// If a target is not below V.
pub fn head_rows(
    h: &Tensor,
    w: &Weight,
    targets: Option<&[u32]>,
    banned: Option<u32>,
) -> Vec<HeadRow> {
    let (isa, head) = (Isa::active(), Head::new(h, w));
    if let Some(targets) = targets {
        assert_eq!(targets.len(), head.rows, "head_rows: targets");
    }
    let mut rows = Vec::with_capacity(head.rows);
    head.for_each_chunk(isa, |chunk, logits| {
        rows.extend(read(isa, chunk, logits, targets, banned));
    });
    rows
}

/// Returns dh and adds the head's gradient to `dw`, for the loss
/// `sum_i nll_weights[i] * nll_i + entropy_weights[i] * entropy_i`.
/// # Shapes: h [N, D], w, dw [V, D] -> [N, D].
///
/// # Panics
/// If a target is not below V.
pub fn head_backward(
    h: &Tensor,
    w: &Weight,
    targets: &[u32],
    rows: &[HeadRow],
    nll_weights: &[f32],
    entropy_weights: Option<&[f32]>,
    dw: &mut Gradient,
) -> Tensor {
    let (isa, head) = (Isa::active(), Head::new(h, w));
    let loss = Loss {
        targets,
        nll_weights,
        entropy_weights,
    };
    loss.check(&head);
    assert_eq!(rows.len(), head.rows, "head_backward: rows");
    let mut dh = Tensor::scratch(h.shape());
    head.for_each_chunk(isa, |chunk, logits| {
        loss.differentiate(isa, chunk.clone(), logits, rows);
        head.add_gradients(isa, chunk, logits, &mut dh, dw);
    });
    dh // [N, D]
}

/// As [`head_rows`] and [`head_backward`], bit by bit, for weights that are known before the rows:
/// logits are computed once. The loss has no entropies.
///
/// # Panics
/// If a target is not below V.
pub fn head_rows_and_backward(
    h: &Tensor,
    w: &Weight,
    targets: &[u32],
    nll_weights: &[f32],
    dw: &mut Gradient,
) -> (Vec<HeadRow>, Tensor) {
    let (isa, head) = (Isa::active(), Head::new(h, w));
    let loss = Loss {
        targets,
        nll_weights,
        entropy_weights: None,
    };
    loss.check(&head);
    let mut rows = Vec::with_capacity(head.rows);
    let mut dh = Tensor::scratch(h.shape());
    head.for_each_chunk(isa, |chunk, logits| {
        rows.extend(read(isa, chunk.clone(), logits, Some(targets), None));
        loss.differentiate(isa, chunk.clone(), logits, &rows);
        head.add_gradients(isa, chunk, logits, &mut dh, dw);
    });
    (rows, dh) // [N, D]
}

/// Returns what the logits of a chunk of rows say. They are unchanged in the end.
fn read(
    isa: Isa,
    chunk: Range<usize>,
    logits: &mut [f32],
    targets: Option<&[u32]>,
    banned: Option<u32>,
) -> Vec<HeadRow> {
    let vocab = logits.len() / chunk.len();
    let logits = logits.par_chunks_mut(vocab).zip(chunk);
    let row = logits.map(|(logits, i)| {
        let target = targets.map(|targets| targets[i]);
        dispatch(
            isa,
            Statistics {
                logits,
                target,
                banned,
            },
        )
    });
    row.collect()
}

/// A weighted sum of negative log-likelihoods and entropies.
struct Loss<'a> {
    targets: &'a [u32],
    nll_weights: &'a [f32],
    entropy_weights: Option<&'a [f32]>,
}

impl Loss<'_> {
    fn check(&self, head: &Head<'_>) {
        let lengths = [self.targets.len(), self.nll_weights.len()];
        assert_eq!(lengths, [head.rows; 2], "head: targets and weights");
    }

    /// Turns the logits of a chunk of rows into their gradient.
    fn differentiate(&self, isa: Isa, chunk: Range<usize>, logits: &mut [f32], rows: &[HeadRow]) {
        let vocab = logits.len() / chunk.len();
        let logits = logits.par_chunks_mut(vocab).zip(chunk);
        logits.for_each(|(logits, i)| {
            dispatch(
                isa,
                LogitGradient {
                    logits,
                    row: rows[i],
                    target: self.targets[i],
                    nll_weight: self.nll_weights[i],
                    entropy_weight: self.entropy_weights.map_or(0.0, |weights| weights[i]),
                },
            );
        });
    }
}

/// Inputs of the head and their extents.
struct Head<'a> {
    h: &'a [f32],
    w: &'a Weight,
    rows: usize,
    width: usize,
    vocab: usize,
}

impl<'a> Head<'a> {
    fn new(h: &'a Tensor, w: &'a Weight) -> Self {
        let ([rows, width], [vocab, _]) = (h.dims2(), w.values().dims2());
        Self {
            h: h.f32s(),
            w,
            rows,
            width,
            vocab,
        }
    }

    /// Computes the logits of one chunk of rows after the other and hands them to `body`.
    fn for_each_chunk(&self, isa: Isa, mut body: impl FnMut(Range<usize>, &mut [f32])) {
        let chunk = (CHUNK_LOGITS / self.vocab.max(1)).clamp(64, 256);
        let mut scratch = Tensor::scratch(&[chunk.min(self.rows), self.vocab]);
        for first in (0..self.rows).step_by(chunk) {
            let rows = first..self.rows.min(first + chunk);
            let logits = &mut scratch.f32s_mut()[..rows.len() * self.vocab]; // [chunk, V]
            let (h, w) = (self.hidden(&rows), self.w.transposed());
            gemm_over(isa, self.w.precision(), h, w, logits);
            body(rows, logits);
        }
    }

    /// Writes the rows' part of dh and adds their part of dw, given the gradient of their logits,
    /// [chunk, V].
    fn add_gradients(
        &self,
        isa: Isa,
        chunk: Range<usize>,
        dlogits: &[f32],
        dh: &mut Tensor,
        dw: &mut Gradient,
    ) {
        let (precision, dlogits) = (self.w.precision(), Matrix::new(dlogits, self.vocab));
        let dh = &mut dh.f32s_mut()[self.elements(&chunk)];
        gemm_over(isa, precision, dlogits, self.w.plain(), dh);
        dw.add_product(isa, self.w, [self.hidden(&chunk), dlogits], None);
    }

    /// Returns where rows lie in arrays of the shape of `h`.
    fn elements(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.width..rows.end * self.width
    }

    /// Returns rows of `h`.
    fn hidden(&self, rows: &Range<usize>) -> Matrix<'a> {
        Matrix::new(&self.h[self.elements(rows)], self.width)
    }
}
