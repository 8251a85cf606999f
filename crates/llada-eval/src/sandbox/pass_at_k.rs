//! pass@k: the chance that at least one of k samples passes (Chen et al. 2021, arXiv:2107.03374, Eq. 1).

/// Returns the unbiased estimate of pass@k for one problem, `1 - C(n - c, k) / C(n, k)`, from
/// `passed` (c) of `samples` (n), as the stable product of the paper's Fig. 3.
///
/// `None` if it is not defined: `k` is zero or beyond `samples`, or `passed` is beyond `samples`.
///
/// # Examples
/// ```
/// # use llada_eval::sandbox::pass_at_k;
/// assert_eq!(pass_at_k(4, 2, 1), Some(0.5));
/// assert_eq!(pass_at_k(4, 2, 5), None);
/// ```
pub fn pass_at_k(samples: usize, passed: usize, k: usize) -> Option<f64> {
    if k == 0 || k > samples || passed > samples {
        return None;
    }
    if samples - passed < k {
        return Some(1.0); // every choice of k holds one that passed
    }
    let none_passes: f64 = (samples - passed + 1..=samples)
        .map(|i| 1.0 - k as f64 / i as f64)
        .product();
    Some(1.0 - none_passes)
}

/// Returns pass@1 over problems with one sample each: the share that passed, `None` for no problem.
pub fn pass_at_1(passed: &[bool]) -> Option<f64> {
    let count = passed.iter().filter(|&&passed| passed).count();
    pass_at_k(passed.len(), count, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, by counting all choices of k samples.
    fn by_enumeration(samples: usize, passed: usize, k: usize) -> f64 {
        let choices = (0_u32..1 << samples).filter(|choice| choice.count_ones() as usize == k);
        let good_mask = (1_u32 << passed) - 1;
        let (mut all, mut good) = (0, 0);
        for choice in choices {
            all += 1;
            good += u32::from(choice & good_mask != 0);
        }
        f64::from(good) / f64::from(all)
    }

    #[test]
    fn the_product_equals_the_share_of_choices_that_hold_a_pass() {
        for samples in 1..=8 {
            for passed in 0..=samples {
                for k in 1..=samples {
                    let got = pass_at_k(samples, passed, k).expect("all in range");
                    let want = by_enumeration(samples, passed, k);
                    assert!(
                        (got - want).abs() < 1e-12,
                        "n={samples} c={passed} k={k}: {got}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_defined_is_none() {
        assert_eq!(pass_at_k(3, 1, 0), None);
        assert_eq!(pass_at_k(3, 1, 4), None);
        assert_eq!(pass_at_k(3, 4, 1), None);
        assert_eq!(pass_at_1(&[]), None);
    }

    #[test]
    fn pass_at_1_is_the_share_that_passed() {
        assert_eq!(pass_at_1(&[true, false, false, true]), Some(0.5));
    }
}
