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

/// All blocks of up to five positions, each filled already or open with one of three confidences.
fn small_blocks() -> impl Iterator<Item = Vec<Candidate>> {
    let choices = [None, Some(0.2), Some(0.5), Some(0.97)];
    let blocks = (0..=5u32).flat_map(|len| (0..4usize.pow(len)).map(move |code| (len, code)));
    blocks.map(move |(len, code)| {
        let rows = (0..len).map(|i| (i as usize, choices[code / 4usize.pow(i) % 4]));
        rows.filter_map(|(position, confidence)| {
            confidence.map(|confidence| Candidate {
                position,
                token: 0,
                confidence,
            })
        })
        .collect()
    })
}

/// Whether the hierarchy passes a candidate, as it is defined.
fn is_passed_by_hierarchy(block: &[Candidate], index: usize, threshold: f32, low: f32) -> bool {
    let own = block[index];
    let is_neighbour = |other: &Candidate| {
        let between = own.position.min(other.position)..=own.position.max(other.position);
        let mut positions = block.iter().map(|c| c.position);
        between.clone().count() == positions.by_ref().filter(|p| between.contains(p)).count()
    };
    let mut run = block.iter().filter(|c| is_neighbour(c));
    let is_best = run.all(|other| {
        let (p, q) = (own.confidence, other.confidence);
        p > q || (p == q && own.position <= other.position)
    });
    own.confidence > threshold || (is_best && own.confidence > low)
}

#[test]
fn the_hierarchy_takes_the_best_of_each_run() {
    let policy = Acceptance::Hierarchy {
        threshold: 0.95,
        low: 0.4,
    };
    let mut refused = 0;
    for block in small_blocks() {
        let passing = policy.passing(&block, BlockHistory::default());
        let expected = |&i: &usize| is_passed_by_hierarchy(&block, i, 0.95, 0.4);
        let expected: Vec<usize> = (0..block.len()).filter(expected).collect();
        assert_eq!(passing, expected, "{block:?}");
        refused += usize::from(passing.len() < block.len());
    }
    assert!(refused > 100, "the rule refuses something");
}

#[test]
fn the_hierarchy_falls_back_to_the_best_of_all() {
    let policy = Acceptance::Hierarchy {
        threshold: 0.95,
        low: 0.4,
    };
    let block = candidates(&[0.1, 0.3, 0.2]);
    let history = BlockHistory::default();
    let accepted = policy.accept(&block, 1, history);
    assert_eq!(accepted, [1]);
    assert!(policy.falls_back(&block, &accepted, history));
}

#[test]
fn every_policy_accepts_what_passes_and_at_least_the_quota() {
    let policies = [
        Acceptance::Threshold(0.95),
        Acceptance::Credit(0.4),
        Acceptance::Hierarchy {
            threshold: 0.95,
            low: 0.4,
        },
        Acceptance::Bacd {
            low: 0.6,
            high: 0.9,
        },
    ];
    for (policy, need) in policies.into_iter().flat_map(|p| [1, 2, 9].map(|n| (p, n))) {
        for block in small_blocks() {
            let history = BlockHistory::default();
            let passing = policy.passing(&block, history);
            let accepted = policy.accept(&block, need, history);
            assert!(accepted.is_sorted() && passing.iter().all(|i| accepted.contains(i)));
            assert_eq!(accepted.len(), passing.len().max(need.min(block.len())));
            let has_fallback = accepted.len() > passing.len();
            assert_eq!(policy.falls_back(&block, &accepted, history), has_fallback);
        }
    }
}

#[test]
fn the_adaptive_threshold_starts_at_the_largest_confidence_of_the_block() {
    let policy = Acceptance::Bacd {
        low: 0.6,
        high: 0.9,
    };
    let passing = |confidences| policy.passing(&candidates(confidences), BlockHistory::default());
    assert_eq!(passing(&[0.7, 0.65, 0.7]), [0, 2]); // max 0.7
    assert_eq!(passing(&[0.99, 0.9, 0.89]), [0, 1]); // max 0.99, bounded by 0.9
    assert_eq!(passing(&[0.5, 0.59]), []); // max 0.59, bounded by 0.6
}

#[test]
fn the_adaptive_threshold_follows_the_mean_of_what_was_accepted() {
    let policy = Acceptance::Bacd {
        low: 0.6,
        high: 0.9,
    };
    let block = candidates(&[0.95, 0.75, 0.74, 0.65, 0.6]);
    let after = |accepted: &[f32]| {
        let mut history = BlockHistory::default();
        accepted.iter().for_each(|&p| history.add(p));
        policy.passing(&block, history)
    };
    assert_eq!(after(&[1.0, 0.5]), [0, 1]); // mean 0.75, which is enough itself
    assert_eq!(after(&[0.3, 0.3]), [0, 1, 2, 3, 4]); // bounded by 0.6
    assert_eq!(after(&[1.0]), [0]); // bounded by 0.9
}

#[test]
fn left_to_right_stops_at_the_first_refusal() {
    let block = candidates(&[0.1, 0.99, 0.99, 0.5, 0.99]);
    let accept = |need, refused: usize| {
        let mut asked = Vec::new();
        let accepted = Acceptance::Threshold(0.9).accept_left_to_right(
            &block,
            need,
            BlockHistory::default(),
            |c| {
                asked.push(c.position);
                c.position != refused
            },
        );
        (accepted, asked)
    };
    // Row 0 is accepted whatever it is, rows 1 and 2 pass, row 3 does not.
    assert_eq!(accept(1, 9), (vec![0, 1, 2], vec![0, 1, 2]));
    assert_eq!(accept(1, 0), (vec![0, 1, 2], vec![0, 1, 2]));
    assert_eq!(accept(1, 2), (vec![0, 1], vec![0, 1, 2]));
    assert_eq!(accept(4, 9), (vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4]));
    assert_eq!(accept(4, 3), (vec![0, 1, 2], vec![0, 1, 2, 3]));
}
