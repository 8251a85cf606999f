//! The output head: statistics of the logits and the loss.

use super::matmul::{matmul, transpose};

/// What one row's logits say; see [`crate::HeadRow`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// log sum exp z.
    pub lse: f64,
    /// Entropy of softmax(z) in nats.
    pub entropy: f64,
    /// First index of the largest logit outside the banned id.
    pub argmax: usize,
}

/// Returns `h W^T`. # Shapes: h [N, D], w [V, D] -> [N, V].
pub fn logits(h: &[f64], w: &[f64], [n, d, v]: [usize; 3]) -> Vec<f64> {
    matmul(h, &transpose(w, [v, d]), [n, d, v])
}

/// Returns the statistics of one row of logits.
pub fn statistics(logits: &[f64], banned: Option<usize>) -> Statistics {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + logits.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
    let entropy = logits.iter().map(|z| -(z - lse).exp() * (z - lse)).sum();
    let mut argmax = None;
    for id in (0..logits.len()).filter(|id| Some(*id) != banned) {
        if argmax.is_none_or(|best: usize| logits[id] > logits[best]) {
            argmax = Some(id);
        }
    }
    Statistics {
        lse,
        entropy,
        argmax: argmax.unwrap_or(0),
    }
}

/// Returns `sum_i nll_weights[i] * nll_i + entropy_weights[i] * entropy_i`.
/// # Shapes: logits [N, V].
pub fn loss(logits: &[f64], targets: &[u32], nll_weights: &[f64], entropy_weights: &[f64]) -> f64 {
    let vocab = logits.len() / targets.len();
    let rows = logits
        .chunks_exact(vocab)
        .zip(targets)
        .zip(nll_weights.iter().zip(entropy_weights));
    rows.map(|((z, target), (nll_weight, entropy_weight))| {
        let row = statistics(z, None);
        nll_weight * (row.lse - z[*target as usize]) + entropy_weight * row.entropy
    })
    .sum()
}
