//! Root-mean-square normalisation.

/// Returns `w * x / sqrt(mean(x^2) + eps)` for every group of D elements. # Shapes: x `[k*D]`, w `[D]`.
pub fn rms_norm(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let group = |x: &[f64]| {
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let rms = (mean_square + eps).sqrt();
        x.iter()
            .zip(w)
            .map(|(x, w)| w * x / rms)
            .collect::<Vec<_>>()
    };
    x.chunks_exact(w.len()).flat_map(group).collect()
}
