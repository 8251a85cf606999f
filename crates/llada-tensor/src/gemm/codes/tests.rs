//! Every instruction set against a product in `f64` of what the codes and the rounded rows stand for.

use half::f16;

use super::*;
use crate::Tensor;

/// Weights [n, k] as in a file, and their values.
fn weights(codes: Codes, n: usize, k: usize) -> (Vec<u8>, Vec<f64>) {
    let mut bytes = Vec::new();
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let format = codes.format();
    let halves: &[usize] = match codes {
        Codes::Q4_0 | Codes::Q8_0 => &[0],
        Codes::Q4K | Codes::Q5K => &[0, 2],
        Codes::Q6K => &[208],
    };
    for _ in 0..n * k / format.block_values() {
        let mut block: Vec<u8> = (0..format.block_bytes()).map(|_| random()).collect();
        for &at in halves {
            let half = f16::from_f32(0.001 * f32::from(1 + random() % 50));
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        bytes.extend(block);
    }
    let mut values = vec![0.0; n * k];
    format.dequantise(&bytes, &mut values);
    (bytes, values.into_iter().map(f64::from).collect())
}

fn inputs(m: usize, k: usize) -> Vec<f32> {
    (0..m * k)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.03 * (1 + i / k) as f32)
        .collect()
}

/// The rows as they were rounded.
fn rounded(codes: Codes, x: &[f32]) -> Vec<f64> {
    let blocks = x.chunks_exact(BLOCK).flat_map(|x| {
        let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let unit = match codes {
            Codes::Q4_0 | Codes::Q4K | Codes::Q5K => (largest / 127.0).log2().ceil().exp2(),
            Codes::Q6K | Codes::Q8_0 => largest / 127.0,
        };
        x.iter()
            .map(move |x| f64::from((x * (1.0 / unit)).round_ties_even()) * f64::from(unit))
    });
    blocks.collect()
}

fn multiply(isa: Isa, codes: Codes, x: &[f32], bytes: &[u8], [n, k]: [usize; 2]) -> Vec<f32> {
    let matrix = CodeMatrix::new(k, &[(codes, bytes)]);
    let mut c = vec![0.0; x.len() / k * n];
    product(isa, Matrix::new(x, k), &matrix, Start::Zero, &mut c);
    c
}

#[test]
fn products_are_those_of_the_codes_on_ragged_shapes() {
    for codes in Codes::ALL {
        for (m, n, blocks) in [(1, 1, 1), (3, 17, 2), (7, 40, 3), (16, 16, 1), (37, 33, 5)] {
            let k = blocks * codes.span();
            let (bytes, values) = weights(codes, n, k);
            let x = inputs(m, k);
            let exact = rounded(codes, &x);
            for isa in Isa::available() {
                let c = multiply(isa, codes, &x, &bytes, [n, k]);
                for (i, row) in c.chunks_exact(n).enumerate() {
                    for (j, &got) in row.iter().enumerate() {
                        let terms = (0..k).map(|p| exact[i * k + p] * values[j * k + p]);
                        let size: f64 = terms.clone().map(f64::abs).sum();
                        let want: f64 = terms.sum();
                        let error = (f64::from(got) - want).abs();
                        assert!(
                            error <= 1e-6 * size,
                            "{isa:?} {codes:?} [{i}, {j}]: {got} {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others_bit_by_bit() {
    let (m, n, k) = (31, 48, 256);
    for codes in Codes::ALL {
        let (bytes, _) = weights(codes, n, k);
        let x = inputs(m, k);
        for isa in Isa::available() {
            let together = multiply(isa, codes, &x, &bytes, [n, k]);
            for (x, row) in x.chunks_exact(k).zip(together.chunks_exact(n)) {
                assert_eq!(multiply(isa, codes, x, &bytes, [n, k]), row);
            }
        }
    }
}

#[test]
fn products_of_parts_are_those_of_each_row_alone() {
    let (n, k) = (48, 256);
    let (left, wide) = (Tensor::from_f32(&[12, k], inputs(12, k)), n + 7);
    let picked: Vec<u32> = (0..30).map(|i| i * 5 % 12).collect();
    for codes in Codes::ALL {
        let matrices = [n, wide].map(|n| (n, weights(codes, n, k).0));
        let panels = [0, 1].map(|i| CodeMatrix::new(k, &[(codes, &matrices[i].1)]));
        let ranges = [0..1, 1..3, 3..3, 3..20, 20..30];
        for isa in Isa::available() {
            let mut sums: Vec<Vec<f32>> = Vec::new();
            for rows in &ranges {
                sums.extend(
                    panels
                        .each_ref()
                        .map(|b| vec![0.0; rows.len() * b.shape()[1]]),
                );
            }
            let products = sums.iter_mut().enumerate().map(|(index, c)| PartProduct {
                rows: ranges[index / 2].clone(),
                precision: crate::Precision::F32,
                right: Right::Codes(&panels[index % 2]),
                c,
            });
            parts(
                isa,
                codes,
                Left {
                    x: &left,
                    rows: Some(&picked),
                },
                Start::Zero,
                products.collect(),
            );
            for (index, c) in sums.iter().enumerate() {
                let (rows, (n, bytes)) = (&ranges[index / 2], &matrices[index % 2]);
                let x = picked[rows.clone()]
                    .iter()
                    .map(|&row| left.row(row as usize));
                for (x, row) in x.zip(c.chunks_exact(*n)) {
                    assert_eq!(multiply(isa, codes, x, bytes, [*n, k]), row);
                }
            }
        }
    }
}

#[test]
fn columns_of_several_kinds_are_those_of_each_alone() {
    let (k, kinds) = (
        512,
        [Codes::Q4K, Codes::Q4K, Codes::Q6K, Codes::Q8_0, Codes::Q4K],
    );
    let widths = [32, 5, 48, 17, 16];
    let runs: Vec<_> = kinds
        .into_iter()
        .zip(widths)
        .map(|(codes, n)| (codes, weights(codes, n, k).0))
        .collect();
    let runs: Vec<(Codes, &[u8])> = runs.iter().map(|(codes, run)| (*codes, &run[..])).collect();
    let (n, matrix) = (widths.iter().sum::<usize>(), CodeMatrix::new(k, &runs));
    assert_eq!(matrix.shape(), [k, n]);
    for m in [1, 9] {
        let x = inputs(m, k);
        for isa in Isa::available() {
            let mut joined = vec![0.0; m * n];
            product(isa, Matrix::new(&x, k), &matrix, Start::Zero, &mut joined);
            let mut first = 0;
            for ((codes, bytes), n) in runs.iter().zip(widths) {
                let alone = multiply(isa, *codes, &x, bytes, [n, k]);
                for (joined, alone) in joined.chunks(matrix.shape()[1]).zip(alone.chunks(n)) {
                    assert_eq!(&joined[first..][..n], alone);
                }
                first += n;
            }
        }
    }
    let (mut column, mut alone) = (vec![0.0; k], vec![0.0; k]);
    matrix.column(32 + 5 + 47, &mut column);
    CodePanels::new(Codes::Q6K, [48, k], runs[2].1).column(47, &mut alone);
    assert_eq!(column, alone);
}

#[test]
fn work_is_cut_at_panels_where_the_cost_is_reached() {
    let (bytes, _) = weights(Codes::Q4_0, 80, 32);
    let panels = CodePanels::new(Codes::Q4_0, [80, 32], &bytes);
    let (x, isa) = (inputs(9, 32), Isa::active());
    let rows = [0..1, 1..9];
    let rounded = CodeRows::new(isa, Codes::Q4_0, Matrix::new(&x, 32), &rows);
    let mut c = [vec![0.0; 80], vec![0.0; 640]];
    let [first, second] = &mut c;
    let mut sweeps: Vec<Sweep<'_>> = [(0, first), (1, second)]
        .map(|(i, c)| {
            let c = Target::new(c, [rows[i].len(), 80], Start::Zero);
            Sweep::new(rounded.part(rows[i].clone()), &panels, c)
        })
        .into();
    let costs: Vec<usize> = sweeps.iter().map(Sweep::cost).collect();
    let others = split_off(&mut sweeps, costs[0] + costs[1] / 2);
    let left: Vec<usize> = sweeps.iter().map(Sweep::cost).collect();
    assert_eq!(left, [costs[0], costs[1] / 5 * 2]);
    assert_eq!(
        others.iter().map(Sweep::cost).sum::<usize>(),
        costs[1] / 5 * 3
    );
}

#[test]
fn sums_start_from_what_is_there() {
    let (n, k) = (20, 32);
    let (bytes, _) = weights(Codes::Q4_0, n, k);
    let (x, isa) = (vec![0.0; k], Isa::active());
    let matrix = CodeMatrix::new(k, &[(Codes::Q4_0, &bytes)]);
    let mut c = vec![2.5; n];
    product(isa, Matrix::new(&x, k), &matrix, Start::Sum, &mut c);
    assert_eq!(c, vec![2.5; n]);
}

#[test]
fn a_number_that_is_not_finite_or_too_large_stays_visible() {
    let (n, k) = (16, 256);
    for codes in Codes::ALL {
        let (bytes, _) = weights(codes, n, k);
        for isa in Isa::available() {
            let bad: &[f32] = match codes.has_binary_units() {
                true => &[f32::NAN, f32::INFINITY, 1e36],
                false => &[f32::NAN, f32::INFINITY],
            };
            for &bad in bad {
                let mut x = inputs(1, k);
                x[40] = bad;
                let c = multiply(isa, codes, &x, &bytes, [n, k]);
                assert!(c.iter().all(|c| c.is_nan()), "{isa:?} {codes:?}: {c:?}");
            }
        }
    }
}

#[test]
fn the_largest_of_a_block_can_have_any_magnitude() {
    let (n, k) = (16, 256);
    for codes in Codes::ALL {
        let (bytes, values) = weights(codes, n, k);
        for exponent in -100_i32..100 {
            let power = f32::from_bits((127 + exponent).cast_unsigned() << 23);
            for fraction in [
                1.0,
                1.999_999_9,
                127.0 / 64.0,
                127.000_01 / 64.0,
                127.5 / 64.0,
            ] {
                let mut x = vec![0.0; k];
                x[40] = fraction * power;
                let c = multiply(Isa::active(), codes, &x, &bytes, [n, k]);
                for (c, values) in c.iter().zip(values.chunks_exact(k)) {
                    let want = f64::from(x[40]) * values[40];
                    let size =
                        f64::from(x[40]) * values[32..64].iter().fold(0.0, |a, b| b.abs().max(a));
                    let error = (f64::from(*c) - want).abs();
                    assert!(error <= size / 127.0, "{codes:?} {} {c} {want}", x[40]);
                }
            }
        }
    }
}

#[test]
fn numbers_near_the_smallest_there_are_vanish() {
    let (n, k) = (16, 256);
    for codes in Codes::ALL {
        let (bytes, _) = weights(codes, n, k);
        for isa in Isa::available() {
            for tiny in [1e-37, 1e-45] {
                let mut x = vec![0.0; k];
                (x[3], x[70], x[71]) = (tiny, -tiny, tiny);
                x[96..128].fill(tiny);
                let c = multiply(isa, codes, &x, &bytes, [n, k]);
                assert!(c.iter().all(|c| c.abs() < 1e-30), "{codes:?}: {c:?}");
            }
        }
    }
}

#[test]
fn columns_are_the_numbers_of_the_file() {
    let (n, k) = (37, 512);
    for codes in Codes::ALL {
        let (bytes, values) = weights(codes, n, k);
        let panels = CodePanels::new(codes, [n, k], &bytes);
        for (index, values) in values.chunks_exact(k).enumerate() {
            let mut column = vec![0.0; k];
            panels.column(index, &mut column);
            let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            assert_eq!(column, values, "column {index}");
        }
    }
}
