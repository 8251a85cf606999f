//! Several blocks at a time: against a plain oracle, and what must hold for any model.

use std::ops::Range;

use llada_diffusion::{
    Acceptance, FinishReason, Policy, Quota, Sequence, Window, finished, propose,
};
use proptest::prelude::*;

use crate::models::{
    EOS, MASK, VOCAB, chaotic, decode, is_stop, peaked, prompt, size, step, threshold, with_quota,
};

fn window(buffer_blocks: usize, admit_threshold: f32) -> Window {
    Window {
        buffer_blocks,
        admit_threshold,
        ..Window::default()
    }
}

fn windowed(confidence_threshold: f32, window: Window) -> Policy {
    Policy {
        window,
        ..threshold(confidence_threshold)
    }
}

/// Returns where the active blocks start.
fn active(sequence: &Sequence) -> Vec<usize> {
    sequence.active_blocks().map(|block| block.start).collect()
}

/// The running set as its source writes it down (Diffulex, with our rules for the end), on a text of
/// plain ids. Returns what each forward writes, and the answer.
fn oracle(
    prompt: &[u32],
    max_new: usize,
    block_size: usize,
    policy: Policy,
    model: impl Fn(&[u32], usize) -> Vec<f32>,
) -> (Vec<Vec<usize>>, Vec<u32>) {
    let (Acceptance::Threshold(threshold), Quota::MinTransfer(quota)) =
        (policy.acceptance, policy.quota)
    else {
        panic!("the oracle knows thresholds only")
    };
    let (start, limit) = (prompt.len(), prompt.len() + max_new);
    let mut x = prompt.to_vec();
    x.resize(limit.div_ceil(block_size) * block_size, MASK);
    let rows = |block: usize| block * block_size..(block + 1) * block_size;
    let progress = |x: &[u32], block| {
        let filled = rows(block).filter(|&i| x[i] != MASK).count();
        filled as f32 / block_size as f32
    };
    let (mut first, mut end) = (start / block_size, start / block_size + 1);
    let mut writes = Vec::new();
    loop {
        // Admit.
        let is_stopped = x[start..].iter().any(|&id| is_stop(id));
        while end - first < policy.window.buffer_blocks
            && rows(end).end <= x.len()
            && !is_stopped
            && progress(&x, end - 1) >= policy.window.admit_threshold
        {
            end += 1;
        }
        // Forward and accept, all from the same state.
        let mut accepted = Vec::new();
        for block in first..end {
            let open = rows(block).filter(|&i| x[i] == MASK);
            let mut proposals: Vec<(usize, u32, f32)> = open
                .map(|i| {
                    let (token, p) = propose(&model(&x[..rows(block).end], i), &[MASK])
                        .expect("tokens are left");
                    (i, token, p)
                })
                .collect();
            proposals.sort_by(|a, b| b.2.total_cmp(&a.2));
            let confident = proposals.iter().filter(|p| p.2 > threshold).count();
            let may_fall_back =
                block == first || progress(&x, block - 1) >= policy.window.semi_complete;
            let need = if may_fall_back { quota.max(1) } else { 0 };
            proposals.truncate(confident.max(need));
            accepted.extend(proposals);
        }
        accepted.sort_by_key(|&(i, ..)| i);
        for &(i, token, _) in &accepted {
            x[i] = token;
        }
        writes.push(accepted.iter().map(|&(i, ..)| i).collect());
        // End, drop, slide.
        let final_len = x.iter().position(|&id| id == MASK).unwrap_or(x.len());
        let stop = (start..x.len()).find(|&i| is_stop(x[i]));
        if let Some(stop) = stop.filter(|&stop| stop < final_len.min(limit)) {
            return (writes, x[start..=stop].to_vec());
        }
        if final_len >= limit {
            return (writes, x[start..limit].to_vec());
        }
        if let Some(stop) = stop {
            end = end.min(stop / block_size + 1);
        }
        first = final_len / block_size;
        end = end.max(first + 1);
    }
}

#[test]
fn the_next_block_begins_once_the_last_one_is_far_enough() {
    let policy = windowed(0.9, window(3, 0.5));
    let mut text = Sequence::new(&prompt(1), 15, size(4), MASK, policy).unwrap();
    let mut denoise = |confident: &[usize]| {
        let before = text.predicted_positions();
        let model =
            |_: &[u32], i: usize| peaked(1, if confident.contains(&i) { 0.95 } else { 0.5 });
        let done = step(&mut text, model);
        (before.len(), done.block_done(), done.written, active(&text))
    };
    // One of four rows is prompt; the quota fills another.
    assert_eq!(denoise(&[]), (3, false, vec![1], vec![0, 4]));
    // Block 0 is half filled: block 1 accepts what passes and nothing else.
    assert_eq!(denoise(&[]), (6, false, vec![2], vec![0, 4]));
    assert_eq!(denoise(&[5, 6]), (5, true, vec![3, 5, 6], vec![4, 8]));
    // Block 2 waits for its predecessor, too.
    assert_eq!(denoise(&[]), (6, false, vec![4], vec![4, 8]));
    assert_eq!(denoise(&[]), (5, true, vec![7], vec![8]));
    assert_eq!(denoise(&[]), (4, false, vec![8], vec![8]));
}

#[test]
fn blocks_filled_early_are_done_together_with_the_first() {
    let policy = windowed(0.9, window(3, 0.0));
    let mut text = Sequence::new(&[], 16, size(4), MASK, policy).unwrap();
    assert_eq!(active(&text), [0, 4, 8]);
    let sure_of = |rows: Range<usize>| {
        move |_: &[u32], i: usize| peaked(2, if rows.contains(&i) { 0.95 } else { 0.5 })
    };
    let done = step(&mut text, sure_of(1..8));
    assert_eq!(done.written, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((done.block_done(), text.clean_len()), (false, 0));
    let done = step(&mut text, sure_of(0..1));
    assert!(done.block_done() && done.needs_commit());
    // Row 8 came by the quota: block 1 was filled.
    assert_eq!((text.clean_len(), text.frozen_len()), (8, 9));
    assert_eq!(active(&text), [8, 12]);
}

#[test]
fn a_stop_token_drops_the_blocks_after_its_own_and_admits_no_more() {
    let policy = windowed(0.9, window(2, 0.0));
    let mut text = Sequence::new(&[], 16, size(4), MASK, policy).unwrap();
    let model = |_: &[u32], i: usize| match i {
        2 => peaked(EOS, 0.95),
        4.. => peaked(3, 0.95),
        _ => peaked(1, 0.5),
    };
    let done = step(&mut text, model);
    assert_eq!((done.written, done.finish), (vec![2, 4, 5, 6, 7], None));
    assert_eq!(active(&text), [0]);
    step(&mut text, model);
    let done = step(&mut text, model);
    assert_eq!(done.finish, Some(FinishReason::Stop));
    assert_eq!(text.tokens()[text.answer(is_stop)], [1, 1, EOS]);
}

#[test]
fn a_later_blocks_stop_token_waits_for_the_blocks_before() {
    let sequence = Sequence::new(&[], 12, size(4), MASK, windowed(0.9, window(3, 0.0))).unwrap();
    let decoded = decode(sequence, |_, i| match i {
        5 => peaked(EOS, 0.95),
        _ => peaked(1, 0.5),
    });
    assert_eq!(decoded.answer, [1, 1, 1, 1, 1, EOS]);
    // Row 4 is filled by the quota once block 0 is nearly so; row 5 at once, rows from 8 on never.
    assert_eq!(
        decoded.writes,
        [vec![0, 5], vec![1], vec![2], vec![3], vec![4]]
    );
}

#[test]
fn a_model_that_is_never_sure_takes_no_more_forwards_than_positions() {
    for (buffer_blocks, semi_complete) in [(2, 0.0), (3, 0.9), (9, 2.0)] {
        let window = Window {
            semi_complete,
            ..window(buffer_blocks, 0.0)
        };
        let sequence = Sequence::new(&prompt(3), 21, size(4), MASK, windowed(2.0, window)).unwrap();
        let decoded = decode(sequence, |_, _| peaked(MASK, 0.999));
        assert_eq!(decoded.answer.len(), 21);
        assert!(!decoded.answer.contains(&MASK));
        assert!(decoded.writes.len() <= 21);
    }
}

#[test]
fn each_block_adapts_to_its_own_history() {
    let policy = Policy {
        acceptance: Acceptance::Bacd {
            low: 0.3,
            high: 0.9,
        },
        window: window(2, 0.0),
        ..Policy::default()
    };
    let mut text = Sequence::new(&[], 8, size(4), MASK, policy).unwrap();
    let model = |_: &[u32], i: usize| peaked(1, [0.8, 0.5, 0.5, 0.5, 0.6, 0.5, 0.5, 0.5][i]);
    // The best of each block's first step, though 0.6 is far below 0.8.
    assert_eq!(step(&mut text, model).written, [0, 4]);
}

prop_compose! {
    fn windows()(
        buffer_blocks in 1usize..5, admit_threshold in -0.1f32..1.1, semi_complete in 0.0f32..1.1,
    ) -> Window {
        Window { buffer_blocks, admit_threshold, semi_complete }
    }
}

proptest! {
    #[test]
    fn any_window_decodes_as_the_oracle_does(
        seed: u64, prompt_len in 0usize..12, max_new in 1usize..30, block in 1usize..7,
        confidence_threshold in 0.1f32..1.1, quota in 0usize..4, window in windows(),
    ) {
        let policy = windowed(confidence_threshold, window);
        let policy = with_quota(policy, Quota::MinTransfer(quota));
        let text = Sequence::new(&prompt(prompt_len), max_new, size(block), MASK, policy).unwrap();
        let decoded = decode(text, chaotic(seed));
        let mut in_effect = policy;
        if !window.is_approximate() {
            in_effect.window = Window::default();
        }
        let (writes, answer) =
            oracle(&prompt(prompt_len), max_new, block, in_effect, chaotic(seed));
        prop_assert_eq!(decoded.writes, writes);
        prop_assert!(!answer.contains(&MASK));
        prop_assert_eq!(decoded.answer, answer);
    }

    #[test]
    fn a_window_that_waits_for_whole_blocks_changes_nothing(
        seed: u64, prompt_len in 0usize..12, max_new in 1usize..30, block in 1usize..7,
        confidence_threshold in 0.1f32..1.1, buffer_blocks in 1usize..5, alone in any::<bool>(),
    ) {
        let waiting = if alone { window(1, 0.0) } else { window(buffer_blocks, 1.0) };
        let decoded = [Window::default(), waiting].map(|window| {
            let policy = windowed(confidence_threshold, window);
            let text =
                Sequence::new(&prompt(prompt_len), max_new, size(block), MASK, policy).unwrap();
            let decoded = decode(text, chaotic(seed));
            let counts = decoded.sequence.counts().clone();
            (decoded.answer, decoded.writes, decoded.finish, decoded.commits, counts)
        });
        prop_assert_eq!(&decoded[0], &decoded[1]);
    }

    #[test]
    fn chaotic_models_terminate_under_any_acceptance_and_window(
        seed: u64, prompt_len in 0usize..12, max_new in 1usize..30, block in 1usize..7,
        which in 0usize..3, steps in 1usize..5, window in windows(),
    ) {
        let acceptance = [
            Acceptance::Credit(0.9),
            Acceptance::Bacd { low: 0.6, high: 0.9 },
            Acceptance::Hierarchy { threshold: 0.9, low: 0.4 },
        ][which];
        let policy = Policy { acceptance, window, ..with_quota(threshold(0.9), Quota::Steps(steps)) };
        let text = Sequence::new(&prompt(prompt_len), max_new, size(block), MASK, policy).unwrap();
        let most = text.open().iter().filter(|&&open| open).count();
        let decoded = decode(text, chaotic(seed));
        prop_assert!(decoded.writes.len() <= most, "every forward fills an open position");
        prop_assert!(decoded.answer.iter().all(|&id| id < VOCAB && id != MASK));
        let (open, text) = (decoded.sequence.open(), &decoded.sequence);
        let stop = finished(text.tokens(), open, prompt_len, is_stop);
        let ends_at_stop = stop.is_some_and(|stop| stop < prompt_len + max_new);
        prop_assert_eq!(ends_at_stop, decoded.finish == FinishReason::Stop);
    }
}
