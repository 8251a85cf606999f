//! Attention with a dense mask.

use crate::Heads;

/// Returns softmax(q k^T * scale over the keys that a row sees) v [N, H*P], and the log-sum-exp of the
/// scaled scores [N, H]. # Shapes: q [N, H*P], keys, values [M, G*P].
pub fn attention(
    q: &[f64],
    keys: &[f64],
    values: &[f64],
    sees: impl Fn(usize, usize) -> bool,
    heads: Heads,
    scale: f64,
) -> (Vec<f64>, Vec<f64>) {
    let dim = heads.dim;
    let num_keys = keys.len() / (heads.key_value * dim);
    let (mut out, mut lse) = (vec![0.0; q.len()], Vec::new());
    for query in 0..q.len() / dim {
        let (row, head) = (query / heads.query, query % heads.query);
        let shared = head * heads.key_value / heads.query;
        let of = |key: usize| (key * heads.key_value + shared) * dim;
        let q = &q[query * dim..][..dim];
        let scores: Vec<f64> = (0..num_keys)
            .map(|key| match sees(row, key) {
                true => scale * (0..dim).map(|i| q[i] * keys[of(key) + i]).sum::<f64>(),
                false => f64::NEG_INFINITY,
            })
            .collect();
        let total: f64 = scores.iter().map(|score| score.exp()).sum();
        lse.push(total.ln());
        for (key, score) in scores.iter().enumerate() {
            for i in 0..dim {
                out[query * dim + i] += score.exp() / total * values[of(key) + i];
            }
        }
    }
    (out, lse)
}
