//! Matrix products.

/// Returns `A B`. # Shapes: a [M, K], b [K, N] -> [M, N], row-major.
pub fn matmul(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
    assert_eq!(
        (a.len(), b.len()),
        (m * k, k * n),
        "product {m} x {k} x {n}"
    );
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
        }
    }
    c
}

/// Returns the transpose. # Shapes: a [M, N] -> [N, M].
pub fn transpose(a: &[f64], [m, n]: [usize; 2]) -> Vec<f64> {
    assert_eq!(a.len(), m * n, "transpose of {m} x {n}");
    (0..m * n).map(|i| a[i % m * n + i / m]).collect()
}
