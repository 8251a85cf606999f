//! Rotary position embedding.

/// Rotates every head, in half-split layout: with R frequencies, element i < R turns with element
/// i + R by `position * inv_freq[i]`; `scale` multiplies what turns.
/// # Shapes: x [N, heads, P], positions `[N]`, inv_freq `[R]`.
pub fn rope(
    x: &[f64],
    head_dim: usize,
    positions: &[u32],
    inv_freq: &[f64],
    scale: f64,
) -> Vec<f64> {
    let mut y = x.to_vec();
    let columns = x.len() / positions.len();
    for (row, &position) in positions.iter().enumerate() {
        for head in (row * columns..(row + 1) * columns).step_by(head_dim) {
            for (i, freq) in inv_freq.iter().enumerate() {
                let (low, high) = (head + i, head + i + inv_freq.len());
                let (sin, cos) = (f64::from(position) * freq).sin_cos();
                y[low] = scale * (x[low] * cos - x[high] * sin);
                y[high] = scale * (x[high] * cos + x[low] * sin);
            }
        }
    }
    y
}
