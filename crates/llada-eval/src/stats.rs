//! Intervals and paired comparison.

use llada_diffusion::{Rng, Stream};

/// Quantile of the normal distribution for 95 % in the middle.
const Z95: f64 = 1.959_963_984_540_054;
/// Resamples of the bootstrap; its interval is then good to about a hundredth of its width.
const RESAMPLES: u32 = 10_000;
/// Seed of the resamples: the same results give the same interval.
const SEED: u64 = 0;

/// Returns Wilson's 95 % interval of a share, `passed` of `n`; of nothing it is `[0, 1]`.
///
/// Unlike the textbook interval it stays inside `[0, 1]` and is not empty at 0 and n (Wilson 1927).
pub fn wilson(passed: usize, n: usize) -> [f64; 2] {
    wilson_of_share(passed as f64 / n as f64, n)
}

/// Returns [`wilson`]'s interval of a mean of `n` values between 0 and 1, which vary at most as much
/// as right and wrong answers would: it is at most too wide.
pub fn wilson_of_share(share: f64, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let n = n as f64;
    let centre = share + Z95 * Z95 / (2.0 * n);
    let spread = Z95 * (share * (1.0 - share) / n + Z95 * Z95 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z95 * Z95 / n;
    let ends = [(centre - spread) / scale, (centre + spread) / scale];
    // Both ends are exact in these cases, but for rounding.
    [
        if share == 0.0 { 0.0 } else { ends[0] },
        if share == 1.0 { 1.0 } else { ends[1] },
    ]
}

/// Returns the 95 % percentile bootstrap interval of a ratio of sums, over pairs (top, bottom).
///
/// `None` without pairs. A mean is a ratio with bottoms of 1.
pub fn bootstrap(pairs: &[(f64, f64)]) -> Option<[f64; 2]> {
    let n = u32::try_from(pairs.len()).ok().filter(|&n| n > 0)?;
    let rng = Rng::new(SEED, Stream::Sample);
    let resample = |round: u32| {
        let drawn = (0..n).map(|place| pairs[rng.below(round, 0, place, n) as usize]);
        let (top, bottom) = drawn.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        top / bottom
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(resample).collect();
    ratios.sort_by(f64::total_cmp);
    let quantile = |share: f64| ratios[(share * f64::from(RESAMPLES - 1)).round() as usize];
    Some([quantile(0.025), quantile(0.975)])
}

/// Two runs over the same items.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Paired {
    /// Items in both.
    pub n: usize,
    /// Items that the first answers right more often: with one sample each, right in the first only.
    pub first_better: usize,
    /// Items that the second answers right more often.
    pub second_better: usize,
    /// Score of the first minus that of the second.
    pub difference: f64,
    /// Bootstrap interval of the difference over items.
    pub ci95: [f64; 2],
    /// Two-sided sign test of the items on which they differ (McNemar, exact): the chance of a split
    /// as uneven if both were equally good.
    pub p: f64,
}

/// Compares two runs, item by item, by the share of right answers to each; `None` without items.
pub fn paired(results: &[(f64, f64)]) -> Option<Paired> {
    let differences: Vec<(f64, f64)> = results.iter().map(|(a, b)| (a - b, 1.0)).collect();
    let count = |is: fn(f64) -> bool| differences.iter().filter(|(by, _)| is(*by)).count();
    let (first_better, second_better) = (count(|by| by > 0.0), count(|by| by < 0.0));
    let sum: f64 = differences.iter().map(|(by, _)| by).sum();
    Some(Paired {
        n: results.len(),
        first_better,
        second_better,
        difference: sum / results.len() as f64,
        ci95: bootstrap(&differences)?,
        p: sign_test(first_better, second_better),
    })
}

/// Returns the chance that n fair coins fall at least as unevenly as `a` to `b`.
fn sign_test(a: usize, b: usize) -> f64 {
    let n = a + b;
    let ln_choose = |k: usize| {
        (1..=k)
            .map(|i| ((n - k + i) as f64 / i as f64).ln())
            .sum::<f64>()
    };
    let tail = (0..=a.min(b)).map(|k| (ln_choose(k) - n as f64 * std::f64::consts::LN_2).exp());
    (2.0 * tail.sum::<f64>()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: [f64; 2], expected: [f64; 2], tolerance: f64) {
        let near = found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < tolerance);
        assert!(near, "{found:?} {expected:?}");
    }

    #[test]
    fn wilson_agrees_with_the_textbook() {
        // Newcombe 1998, Table I: 81/263, 15/148, 0/20, 1/29.
        close(wilson(81, 263), [0.2553, 0.3662], 1e-4);
        close(wilson(15, 148), [0.0624, 0.1605], 1e-4);
        close(wilson(0, 20), [0.0, 0.1611], 1e-4);
        close(wilson(1, 29), [0.0061, 0.1718], 1e-4);
    }

    #[test]
    fn wilson_of_all_right_ends_at_one() {
        assert_eq!([wilson(1319, 1319)[1], wilson(0, 1319)[0]], [1.0, 0.0]);
    }

    #[test]
    fn the_bootstrap_of_a_share_is_near_its_normal_interval() {
        let pairs: Vec<_> = (0..400)
            .map(|i| (f64::from(u8::from(i % 4 == 0)), 1.0))
            .collect();
        close(
            bootstrap(&pairs).unwrap(),
            [0.25 - 0.0424, 0.25 + 0.0424],
            0.006,
        );
        assert_eq!(bootstrap(&[]), None);
    }

    #[test]
    fn a_sign_test_counts_coins() {
        assert!((sign_test(0, 5) - 2.0 / 32.0).abs() < 1e-12);
        assert!((sign_test(3, 3) - 1.0).abs() < 1e-12);
        assert!((sign_test(0, 0) - 1.0).abs() < 1e-12);
        assert!((sign_test(1, 9) - 22.0 / 1024.0).abs() < 1e-12);
    }

    #[test]
    fn paired_runs_are_compared_on_the_items_that_differ() {
        let results = [(1.0, 1.0), (1.0, 0.0), (0.75, 0.5), (0.0, 1.0), (0.0, 0.0)];
        let paired = paired(&results).unwrap();
        assert_eq!(
            (paired.n, paired.first_better, paired.second_better),
            (5, 2, 1)
        );
        assert!((paired.difference - 0.05).abs() < 1e-12);
    }
}
