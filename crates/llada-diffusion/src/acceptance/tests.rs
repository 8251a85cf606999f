//! Policies on small blocks, by hand and by enumeration.

use super::*;
use proptest::prelude::*;

/// The threshold policy, for readability.
fn accept(candidates: &[Candidate], threshold: f32, need: usize) -> Vec<usize> {
    Acceptance::Threshold(threshold).accept(candidates, need, BlockHistory::default())
}

fn candidates(confidences: &[f32]) -> Vec<Candidate> {
    let with_position = confidences.iter().enumerate();
    with_position
        .map(|(position, &confidence)| Candidate {
            position,
            token: 0,
            confidence,
        })
        .collect()
}

#[test]
fn the_threshold_accepts_more_than_the_quota_but_never_less() {
    let block = candidates(&[0.5, 0.9, 0.7, 0.8]);
    assert_eq!(accept(&block, 0.6, 1), [1, 2, 3]);
    assert_eq!(accept(&block, 0.85, 1), [1]);
    assert_eq!(accept(&block, 0.85, 2), [1, 3]);
    assert_eq!(accept(&block, 0.95, 1), [1]);
}

#[test]
fn a_confidence_at_the_threshold_is_not_above_it() {
    assert_eq!(accept(&candidates(&[0.2, 0.9, 0.9]), 0.9, 1), [1]);
}

#[test]
fn ties_go_to_the_lower_position() {
    assert_eq!(accept(&candidates(&[0.1, 0.4, 0.4, 0.4]), 0.5, 2), [1, 2]);
}

#[test]
fn nothing_is_accepted_of_nothing() {
    assert_eq!(accept(&[], 0.5, 3), []);
}

#[test]
fn a_quota_above_the_open_positions_accepts_all_of_them() {
    assert_eq!(accept(&candidates(&[0.1, 0.2]), 0.5, 9), [0, 1]);
}

#[test]
fn the_reference_schedule_puts_the_remainder_first() {
    let size = BlockSize::new(32).unwrap();
    let quotas = |steps| (0..steps).map(move |step| Quota::Steps(steps).at(step, size));
    assert!(quotas(5).eq([7, 7, 6, 6, 6]));
    assert!(quotas(32).eq([1; 32]));
    assert!((1..=32).all(|steps| quotas(steps).sum::<usize>() == 32));
}

#[test]
fn a_quota_is_at_least_one() {
    let size = BlockSize::new(4).unwrap();
    assert_eq!(Quota::MinTransfer(0).at(0, size), 1);
    assert_eq!(Quota::Steps(9).at(8, size), 1);
    assert_eq!(Quota::Steps(0).at(0, size), 4);
}

proptest! {
    #[test]
    fn the_accepted_are_the_most_confident(
        confidences in prop::collection::vec((0u8..20).prop_map(|p| f32::from(p) / 20.0), 0..40),
        threshold in -0.1f32..1.1,
        need in 0usize..45,
    ) {
        let block = candidates(&confidences);
        let accepted = accept(&block, threshold, need);
        let above = confidences.iter().filter(|&&p| p > threshold).count();
        prop_assert_eq!(accepted.len(), above.max(need.min(block.len())));
        prop_assert!(accepted.is_sorted());
        // Better than all others, or equal to them and before them.
        for &kept in &accepted {
            for left in (0..block.len()).filter(|i| !accepted.contains(i)) {
                let (p, q) = (confidences[kept], confidences[left]);
                prop_assert!(p > q || (p == q && kept < left));
            }
        }
    }
}
