//! All policies, with and without editing: worked traces, and what no model can break.

use llada_diffusion::{
    Acceptance, BlockOutcome, Candidate, Edit, FinishReason, Policy, Quota, Sequence,
};
use proptest::prelude::*;

use crate::models::{
    DELETE, Decoded, EOS, MASK, SPLIT, VOCAB, chaotic, decode, is_stop, peaked, prompt, size, step,
    threshold,
};

const REVISE: Edit = Edit::Revise {
    above: 0.5,
    delete_token_id: DELETE,
    split_token_id: SPLIT,
};

fn editing(policy: Policy, edit: Edit) -> Policy {
    Policy { edit, ..policy }
}

fn sequence(prompt: &[u32], max_new: usize, policy: Policy) -> Sequence {
    Sequence::new(prompt, max_new, size(4), MASK, policy).expect("a valid request")
}

/// A model that proposes a row of tokens for what it sees, with confidence 0.9 each.
fn proposing(row: impl Fn(&[u32]) -> [u32; 4]) -> impl Fn(&[u32], usize) -> Vec<f32> {
    move |visible, position| {
        let block = &visible[visible.len() - 4..];
        peaked(row(block)[position % 4], 0.9)
    }
}

/// The states of the first block after each step, until it is done.
fn states(
    sequence: &mut Sequence,
    model: impl Fn(&[u32], usize) -> Vec<f32>,
) -> (Vec<[u32; 4]>, BlockOutcome) {
    let mut states = Vec::new();
    loop {
        let done = step(sequence, &model);
        states.push(sequence.tokens()[..4].try_into().expect("blocks of 4"));
        if done.block_done() {
            return (states, done.block);
        }
    }
}

#[test]
fn fills_and_edits_come_from_one_forward_and_the_last_forward_is_the_commit() {
    let policy = editing(threshold(0.5), Edit::Above(0.5));
    let mut text = sequence(&[0], 3, policy);
    // Row 2 is not sure until its neighbours are placed; row 1 then changes its mind.
    let model = |visible: &[u32], position: usize| match (position, visible[3]) {
        (1, MASK) => peaked(1, 0.9),
        (1, _) => peaked(5, 0.8),
        (2, MASK) => peaked(2, 0.3),
        (2, _) => peaked(3, 0.6),
        _ => peaked(4, 0.9),
    };
    let steps: Vec<_> = (0..3).map(|_| step(&mut text, model)).collect();
    let changes = steps.iter().map(|s| (&s.written[..], &s.edited[..]));
    let expected: [(&[usize], &[usize]); 3] = [(&[1, 3], &[]), (&[2], &[1]), (&[], &[])];
    assert!(changes.eq(expected));
    assert_eq!(steps[1].block, BlockOutcome::Active);
    assert_eq!(steps[2].block, BlockOutcome::Settled);
    assert_eq!(steps[2].finish, Some(FinishReason::Length));
    assert_eq!(text.tokens(), [0, 5, 3, 4]);
    let placed = text.placed().iter().map(|p| p.map(|p| p.step));
    assert!(placed.eq([None, Some(1), Some(1), Some(0)]));
    let confidence = text.placed()[1].map(|p| p.confidence);
    assert!((confidence.unwrap() - 0.8).abs() < 1e-6);
    let counts = text.counts();
    assert_eq!((counts.filled, counts.edits, counts.fallbacks), (3, 1, 0));
    assert_eq!(counts.steps_per_block, [3]);
}

#[test]
fn an_edit_needs_more_than_the_edit_threshold() {
    let swap = |visible: &[u32], position: usize| match visible[position] {
        MASK => peaked(1, 0.9),
        _ => peaked(2, 0.6),
    };
    let tokens = |above| {
        let policy = editing(threshold(0.5), Edit::Above(above));
        decode(sequence(&[], 4, policy), swap).answer
    };
    assert_eq!(tokens(0.5), [2; 4]);
    assert_eq!(tokens(0.7), [1; 4]);
}

#[test]
fn the_budget_ends_a_change_of_mind_and_asks_for_a_commit() {
    let flip_flop = |visible: &[u32], position: usize| match visible[position] {
        1 => peaked(2, 0.9),
        _ => peaked(1, 0.9),
    };
    for (budget, last) in [(0, 1), (1, 2), (2, 1), (3, 2)] {
        let policy = Policy {
            max_post_edit_steps: budget,
            ..editing(threshold(0.5), Edit::Above(0.0))
        };
        let mut text = sequence(&[], 8, policy);
        let (states, outcome) = states(&mut text, flip_flop);
        assert_eq!(states.len(), 1 + budget);
        assert_eq!(states.last(), Some(&[last; 4]));
        assert_eq!(outcome, BlockOutcome::Changed);
    }
}

#[test]
fn a_stop_token_can_be_edited_away_until_its_block_ends() {
    let policy = editing(threshold(0.5), Edit::Above(0.5));
    let mut text = sequence(&[], 4, policy);
    let model = proposing(|block| match block[0] {
        MASK => [EOS, 1, 1, 1],
        _ => [2, 1, 1, 1],
    });
    let first = step(&mut text, &model);
    assert_eq!((text.tokens()[0], first.finish), (EOS, None));
    assert!(text.answer(is_stop).is_empty(), "nothing is frozen yet");
    let decoded = decode(text, model);
    assert_eq!(decoded.answer, [2, 1, 1, 1]);
    assert_eq!(decoded.finish, FinishReason::Length);
}

#[test]
fn a_stop_token_ends_an_edited_text_with_its_block() {
    let policy = editing(threshold(0.5), Edit::Above(0.5));
    let decoded = decode(sequence(&[3], 9, policy), |_, position| {
        peaked(if position == 2 { EOS } else { 1 }, 0.9)
    });
    assert_eq!(decoded.answer, [1, EOS]);
    assert_eq!(decoded.finish, FinishReason::Stop);
    assert_eq!(decoded.sequence.counts().steps_per_block, [2]);
}

#[test]
fn the_penalty_is_on_the_token_of_the_left_neighbour_within_the_block() {
    let policy = Policy {
        penalty_lambda: 3.0,
        ..editing(threshold(0.5), Edit::Above(0.5))
    };
    let text = sequence(&[1, 2, 3, 4, 5], 3, policy);
    let adjustments = text.adjustments();
    let adjustments = adjustments.iter().map(|a| (a.position, a.token, a.delta));
    let expected = [(5, 5, -3.0), (6, MASK, -3.0), (7, MASK, -3.0)];
    assert!(adjustments.eq(expected));
    let first_row = sequence(&[], 4, policy).adjustments();
    assert!(first_row.iter().all(|a| a.position > 0));
    let off = editing(policy, Edit::Off);
    assert_eq!(sequence(&[], 4, off).adjustments(), []);
}

#[test]
fn a_penalty_keeps_a_stuttering_model_from_repeating_a_token() {
    let stutter = |_: &[u32], _: usize| {
        let mut logits = vec![-9.0; VOCAB as usize];
        (logits[1], logits[2]) = (4.0, 3.0);
        logits
    };
    let decode = |penalty_lambda| {
        let policy = Policy {
            penalty_lambda,
            ..editing(threshold(2.0), Edit::Above(0.5))
        };
        decode(sequence(&[], 4, policy), stutter).answer
    };
    assert_eq!(decode(0.0), [1, 1, 1, 1]);
    assert_eq!(decode(3.0), [1, 2, 1, 2]);
}

#[test]
fn credit_grows_for_open_positions_and_is_forgotten_with_the_block() {
    let policy = Policy {
        acceptance: Acceptance::Credit(0.95),
        ..Policy::default()
    };
    let mut text = sequence(&[], 8, policy);
    assert_eq!(text.adjustments(), []);
    let model = |_: &[u32], position: usize| peaked(1, 0.4 - 0.01 * position as f32);
    step(&mut text, model);
    let adjustments = text.adjustments();
    let positions = adjustments.iter().map(|a| (a.position, a.token));
    assert!(positions.eq([(1, 1), (2, 1), (3, 1)]));
    let expected = 0.7 * (1.0 + 0.39f32.powf(0.2)).ln();
    assert!((adjustments[0].delta - expected).abs() < 1e-5);
    while text.frozen_len() < 4 {
        step(&mut text, model);
    }
    assert_eq!(text.adjustments(), []);
}

#[test]
fn credit_saves_steps_where_a_model_is_right_but_not_sure() {
    let model = |_: &[u32], position: usize| peaked(1, 0.88 - 0.01 * position as f32);
    let steps = |acceptance| {
        let policy = Policy {
            acceptance,
            ..Policy::default()
        };
        decode(sequence(&[], 4, policy), model).writes.len()
    };
    assert_eq!(steps(Acceptance::Threshold(0.9)), 4);
    assert_eq!(steps(Acceptance::Credit(0.9)), 2);
}

#[test]
fn the_adaptive_threshold_inherits_nothing_from_the_block_before() {
    let policy = Policy {
        acceptance: Acceptance::Bacd {
            low: 0.6,
            high: 0.9,
        },
        ..Policy::default()
    };
    // The first block is sure; with its mean the second one would fall back to one row a step.
    let confidence = |position: usize| if position < 4 { 0.95 } else { 0.7 };
    let decoded = decode(sequence(&[], 8, policy), |_, position| {
        peaked(1, confidence(position))
    });
    assert_eq!(decoded.writes, [[0, 1, 2, 3], [4, 5, 6, 7]]);
    assert_eq!(decoded.sequence.counts().fallbacks, 0);
}

#[test]
fn a_deletion_closes_the_gap_and_the_new_last_row_is_filled() {
    let policy = editing(threshold(0.5), REVISE);
    let model = proposing(|block| match block {
        [MASK, ..] => [1, 2, 2, 3],
        [1, 2, 2, 3] => [1, 2, DELETE, 3],
        _ => [1, 2, 3, 4],
    });
    let (states, outcome) = states(&mut sequence(&[], 8, policy), model);
    let expected = [[1, 2, 2, 3], [1, 2, 3, MASK], [1, 2, 3, 4], [1, 2, 3, 4]];
    assert_eq!(states, expected);
    assert_eq!(outcome, BlockOutcome::Settled);
}

#[test]
fn an_insertion_opens_a_row_before_the_token_and_drops_the_last() {
    let policy = editing(threshold(0.5), REVISE);
    let mut text = sequence(&[], 8, policy);
    let model = proposing(|block| match block {
        [MASK, ..] => [1, 2, 3, 4],
        [1, 2, 3, 4] => [1, SPLIT, 3, 4],
        _ => [1, 5, 2, 3],
    });
    let (states, outcome) = states(&mut text, model);
    let expected = [[1, 2, 3, 4], [1, MASK, 2, 3], [1, 5, 2, 3], [1, 5, 2, 3]];
    assert_eq!(states, expected);
    assert_eq!(outcome, BlockOutcome::Settled);
    let steps = text.placed()[..4].iter().map(|p| p.map(|p| p.step));
    assert!(
        steps.eq([Some(0), Some(2), Some(0), Some(0)]),
        "moved along"
    );
}

#[test]
fn a_text_under_a_grammar_grows_from_the_left() {
    let mut text = sequence(&[3], 7, threshold(0.8));
    let mut take = |confidences: &[f32]| {
        let rows = text.predicted_positions().into_iter().zip(confidences);
        let candidates: Vec<Candidate> = rows
            .map(|(position, &confidence)| Candidate {
                position,
                token: 1,
                confidence,
            })
            .collect();
        text.constrained_step(&candidates[..], |c| c.position != 3, is_stop)
    };
    // Row 1 is the first; row 2 passes and is admitted; row 3 passes and is refused.
    let done = take(&[0.1, 0.9, 0.9]);
    assert_eq!((done.written, done.fell_back), (vec![1, 2], true));
    let done = take(&[0.9]);
    assert_eq!((&done.written[..], done.fell_back), (&[3][..], false));
    assert!(done.needs_commit());
}

#[test]
fn a_stop_string_ends_the_answer_before_a_position() {
    let mut text = sequence(&[3], 7, threshold(0.5));
    step(&mut text, |_, _| peaked(1, 0.9));
    assert_eq!((text.answer(is_stop), text.finish(is_stop)), (1..4, None));
    text.stop_at(3);
    assert_eq!(text.answer(is_stop), 1..3);
    assert_eq!(text.finish(is_stop), Some(FinishReason::Stop));
}

#[test]
fn the_answer_cannot_be_stopped_outside_of_its_frozen_part() {
    let stopped = |end| {
        let mut text = sequence(&[3], 7, threshold(0.5));
        step(&mut text, |_, _| peaked(1, 0.9));
        text.stop_at(end);
        text.answer(is_stop)
    };
    assert_eq!((stopped(0), stopped(100)), (1..1, 1..4));
}

#[test]
fn a_clone_goes_on_as_the_original_does() {
    for policy in policies() {
        let mut text = sequence(&prompt(2), 9, policy);
        for _ in 0..3 {
            if step(&mut text, chaotic(5)).finish.is_some() {
                break;
            }
        }
        if text.finish(is_stop).is_none() {
            assert_eq!(
                decode(text.clone(), chaotic(5)),
                decode(text, chaotic(5)),
                "{policy:?}"
            );
        }
    }
}

/// Every acceptance with every kind of editing and several budgets.
fn policies() -> Vec<Policy> {
    let acceptances = [
        Acceptance::Threshold(0.95),
        Acceptance::Threshold(0.3),
        Acceptance::Hierarchy {
            threshold: 0.9,
            low: 0.4,
        },
        Acceptance::Credit(0.9),
        Acceptance::Bacd {
            low: 0.6,
            high: 0.9,
        },
    ];
    let edits = [Edit::Off, Edit::Above(0.0), Edit::Above(0.5), REVISE];
    let mut policies = Vec::new();
    for acceptance in acceptances {
        for (edit, max_post_edit_steps) in edits.map(|e| [0, 1, 5].map(|n| (e, n))).concat() {
            policies.push(Policy {
                acceptance,
                edit,
                max_post_edit_steps,
                penalty_lambda: 0.5,
                quota: Quota::MinTransfer(1),
                ..Policy::default()
            });
        }
    }
    policies
}

/// Returns the most forwards of a block of 4, without a commit.
fn max_steps(policy: Policy) -> usize {
    match policy.edit {
        Edit::Off => 4,
        Edit::Above(_) => 4 + policy.max_post_edit_steps,
        Edit::Revise { .. } => 4 + policy.max_post_edit_steps + 1,
    }
}

fn check(decoded: &Decoded, policy: Policy, max_new: usize) {
    let counts = decoded.sequence.counts();
    for &steps in &counts.steps_per_block {
        assert!((1..=max_steps(policy)).contains(&steps), "{policy:?}");
    }
    let (filled, forwards) = (counts.filled, decoded.writes.len());
    assert_eq!(filled, decoded.writes.concat().len());
    assert_eq!(forwards, counts.steps_per_block.iter().sum::<usize>());
    let answer = decoded.sequence.answer(is_stop);
    assert!(answer.len() <= max_new);
    assert!(!decoded.answer.contains(&MASK), "{policy:?}");
    if let Edit::Revise { .. } = policy.edit {
        let operations = [DELETE, SPLIT];
        assert!(!decoded.answer.iter().any(|id| operations.contains(id)));
    }
    assert!(
        decoded.sequence.placed()[answer]
            .iter()
            .all(Option::is_some)
    );
    match decoded.finish {
        FinishReason::Stop => assert_eq!(decoded.answer.last(), Some(&EOS)),
        FinishReason::Length => assert_eq!(decoded.answer.len(), max_new),
    }
}

#[test]
fn no_adversary_breaks_a_mode() {
    let flip_flop = |visible: &[u32], position: usize| match visible[position] {
        1 => peaked(2, 0.9),
        _ => peaked(1, 0.9),
    };
    let always = |id| move |_: &[u32], _: usize| peaked(id, 0.9);
    let unsure = |id| move |_: &[u32], _: usize| peaked(id, 0.2);
    for (policy, len) in policies()
        .into_iter()
        .flat_map(|p| (0..5).map(move |n| (p, n)))
    {
        let run = |model: &dyn Fn(&[u32], usize) -> Vec<f32>| {
            let decoded = decode(sequence(&prompt(len), 9, policy), model);
            check(&decoded, policy, 9);
        };
        run(&flip_flop);
        for id in [MASK, EOS, DELETE, SPLIT, 1] {
            run(&always(id));
            run(&unsure(id));
        }
    }
}

#[test]
fn opposite_operations_do_not_chase_each_other_for_ever() {
    let chase = |visible: &[u32], position: usize| {
        let open = visible.iter().filter(|&&id| id == MASK).count();
        peaked([DELETE, SPLIT, MASK, 1][(open + position) % 4], 0.9)
    };
    for budget in [0, 1, 16] {
        let policy = Policy {
            max_post_edit_steps: budget,
            ..editing(threshold(0.5), REVISE)
        };
        check(&decode(sequence(&[], 12, policy), chase), policy, 12);
    }
}

proptest! {
    #[test]
    fn chaotic_models_break_no_mode(
        seed: u64,
        prompt_len in 0usize..9,
        max_new in 1usize..14,
        index in 0..policies().len(),
    ) {
        let policy = policies()[index];
        let decoded = decode(sequence(&prompt(prompt_len), max_new, policy), chaotic(seed));
        check(&decoded, policy, max_new);
    }
}
