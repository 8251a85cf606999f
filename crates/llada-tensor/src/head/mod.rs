//! Output head fused with what is read from the logits; a [N, V] array never exists (`training.md` 5.6).
//!
//! Logits exist for one chunk of rows at a time. A row's logits, and so all that is read from them, do
//! not depend on the chunk; the weight's gradient is one chain over the rows, which a chunk continues.

mod row;

use std::ops::Range;

use rayon::prelude::*;

use crate::gemm::{Matrix, Right, gemm, gemm_over};
use crate::simd::dispatch;
use crate::{Isa, Tensor, Weight};
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
        let logits = logits.par_chunks_mut(head.vocab).zip(chunk);
        rows.par_extend(logits.map(|(logits, i)| {
            let target = targets.map(|targets| targets[i]);
            dispatch(
                isa,
                Statistics {
                    logits,
                    target,
                    banned,
                },
            )
        }));
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
    dw: &mut Tensor,
) -> Tensor {
    let (isa, head) = (Isa::active(), Head::new(h, w));
    let lengths = [targets.len(), rows.len(), nll_weights.len()];
    assert_eq!(
        lengths, [head.rows; 3],
        "head_backward: targets, rows, weights"
    );
    assert_eq!(dw.shape(), w.values().shape(), "head_backward: dw");
    let mut dh = Tensor::scratch(h.shape());
    head.for_each_chunk(isa, |chunk, logits| {
        logits
            .par_chunks_mut(head.vocab)
            .zip(chunk.clone())
            .for_each(|(logits, i)| {
                let entropy_weight = entropy_weights.map_or(0.0, |weights| weights[i]);
                let (row, target, nll_weight) = (rows[i], targets[i], nll_weights[i]);
                dispatch(
                    isa,
                    LogitGradient {
                        logits,
                        row,
                        target,
                        nll_weight,
                        entropy_weight,
                    },
                );
            });
        let dz = Matrix::new(logits, head.vocab); // [chunk, V]
        let dh = &mut dh.f32s_mut()[head.elements(&chunk)];
        gemm_over(isa, w.precision(), dz, w.plain(), dh);
        let h = Right::Plain(head.hidden(&chunk));
        gemm(isa, w.precision(), dz.transposed(), h, dw.f32s_mut());
    });
    dh // [N, D]
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

    /// Returns where rows lie in arrays of the shape of `h`.
    fn elements(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.width..rows.end * self.width
    }

    /// Returns rows of `h`.
    fn hidden(&self, rows: &Range<usize>) -> Matrix<'a> {
        Matrix::new(&self.h[self.elements(rows)], self.width)
    }
}
