//! Attention in which every query row sees at most two ranges of keys (`training.md` 3).

use crate::Tensor;

/// Keys that one query row sees: rows `[0]..[1]` and rows `[2]..[3]` of the key array, disjoint, in
/// either order; an empty range has equal ends. At least one key is visible.
pub type KeyRanges = [u32; 4];

/// Numbers of heads and their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, H.
    pub query: usize,
    /// Key-value heads, G; query head h uses key-value head h * G / H.
    pub key_value: usize,
    /// Width of a head, P.
    pub dim: usize,
}

/// Output of [`attention`].
#[derive(Clone, Debug)]
pub struct Attended {
    /// Weighted values, [N, H*P].
    pub out: Tensor,
    /// Log-sum-exp of the scaled scores, [N, H]; the backward needs it.
    pub lse: Tensor,
}

/// Returns softmax(q k^T * scale over the visible keys) v. One pass with a running softmax.
/// # Shapes: q [N, H*P], keys and values [M, G*P] (M may exceed what the ranges use), ranges N.
pub fn attention(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    ranges: &[KeyRanges],
    heads: Heads,
    scale: f32,
) -> Attended {
    let rows = check(q, keys, values, ranges, heads);
    let mut out = Tensor::zeros(q.shape());
    let mut lse = Tensor::zeros(&[rows, heads.query]);
    let width = heads.dim;
    for row in 0..rows {
        for head in 0..heads.query {
            let shared = head * heads.key_value / heads.query * width;
            let query = &q.row(row)[head * width..][..width];
            let scores: Vec<f32> = visible(ranges[row])
                .map(|key| scale * dot(query, &keys.row(key)[shared..][..width]))
                .collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|score| (score - max).exp()).sum();
            lse.f32s_mut()[row * heads.query + head] = max + sum.ln();
            let out = &mut out.f32s_mut()[(row * heads.query + head) * width..][..width];
            for (key, score) in visible(ranges[row]).zip(&scores) {
                let weight = (score - max).exp() / sum;
                for (out, value) in out.iter_mut().zip(&values.row(key)[shared..][..width]) {
                    *out += weight * value;
                }
            }
        }
    }
    Attended { out, lse }
}

/// Returns (dq [N, H*P], dkeys [M, G*P], dvalues [M, G*P]).
#[expect(clippy::too_many_arguments, reason = "the saved forward is plain arrays")]
pub fn attention_backward(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    ranges: &[KeyRanges],
    heads: Heads,
    scale: f32,
    saved: &Attended,
    dout: &Tensor,
) -> (Tensor, Tensor, Tensor) {
    let rows = check(q, keys, values, ranges, heads);
    let mut dq = Tensor::zeros(q.shape());
    let (mut dkeys, mut dvalues) = (Tensor::zeros(keys.shape()), Tensor::zeros(values.shape()));
    let (width, columns) = (heads.dim, heads.key_value * heads.dim);
    for row in 0..rows {
        for head in 0..heads.query {
            let shared = head * heads.key_value / heads.query * width;
            let here = head * width..(head + 1) * width;
            let (query, dout) = (&q.row(row)[here.clone()], &dout.row(row)[here.clone()]);
            let drift = dot(dout, &saved.out.row(row)[here.clone()]);
            let dq = &mut dq.f32s_mut()[row * heads.query * width..][here];
            for key in visible(ranges[row]) {
                let at = key * columns + shared..key * columns + shared + width;
                let k = &keys.f32s()[at.clone()];
                let p = (scale * dot(query, k) - saved.lse.row(row)[head]).exp();
                let ds = p * scale * (dot(dout, &values.f32s()[at.clone()]) - drift);
                for i in 0..width {
                    dq[i] += ds * k[i];
                    dkeys.f32s_mut()[at.start + i] += ds * query[i];
                    dvalues.f32s_mut()[at.start + i] += p * dout[i];
                }
            }
        }
    }
    (dq, dkeys, dvalues)
}

fn check(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    ranges: &[KeyRanges],
    heads: Heads,
) -> usize {
    let [rows, columns] = q.dims2();
    assert_eq!(columns, heads.query * heads.dim, "attention: q {:?}, {heads:?}", q.shape());
    assert_eq!(ranges.len(), rows, "attention: ranges");
    assert_eq!(keys.dims2()[1], heads.key_value * heads.dim, "attention: keys {:?}", keys.shape());
    assert_eq!(keys.shape(), values.shape(), "attention: keys and values");
    rows
}

fn visible([a0, a1, b0, b1]: KeyRanges) -> impl Iterator<Item = usize> {
    (a0..a1).chain(b0..b1).map(|key| key as usize)
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
