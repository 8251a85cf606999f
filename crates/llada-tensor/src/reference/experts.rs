//! Routed experts.

use super::matmul::{matmul, transpose};

/// The three matrices of one expert: gate and up [F, D], down [D, F].
#[derive(Clone, Debug)]
pub struct Expert {
    /// [F, D].
    pub gate: Vec<f64>,
    /// [F, D].
    pub up: Vec<f64>,
    /// [D, F].
    pub down: Vec<f64>,
}

impl Expert {
    /// Returns the output for one row. # Shapes: x `[D]` -> `[D]`.
    fn output(&self, x: &[f64]) -> Vec<f64> {
        let (d, f) = (x.len(), self.gate.len() / x.len());
        let product =
            |w: &[f64], x: &[f64], [o, i]: [usize; 2]| matmul(x, &transpose(w, [o, i]), [1, i, o]);
        let (gate, up) = (product(&self.gate, x, [f, d]), product(&self.up, x, [f, d]));
        let hidden: Vec<f64> = gate
            .iter()
            .zip(up)
            .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
            .collect();
        product(&self.down, &hidden, [d, f])
    }
}

/// Returns the weighted sum of the chosen experts' outputs of every row.
/// # Shapes: x [N, D], chosen and weights [N, A] -> [N, D].
pub fn experts(
    x: &[f64],
    chosen: &[u32],
    weights: &[f64],
    top_k: usize,
    experts: &[Expert],
) -> Vec<f64> {
    let rows = chosen.len() / top_k;
    let mut y = Vec::with_capacity(x.len());
    for (i, x) in x.chunks_exact(x.len() / rows).enumerate() {
        let mut sum = vec![0.0; x.len()];
        for slot in i * top_k..(i + 1) * top_k {
            let output = experts[chosen[slot] as usize].output(x);
            sum.iter_mut()
                .zip(output)
                .for_each(|(sum, y)| *sum += weights[slot] * y);
        }
        y.extend(sum);
    }
    y
}
