//! The threshold policy without editing: LLaDA2.0.

use llada_diffusion::{
    BlockSize, Candidate, Error, FinishReason, Policy, Quota, Sequence, finished,
};
use proptest::prelude::*;

use crate::models::{
    Decoded, EOS, MASK, chaotic, decode, is_stop, peaked, prompt, size, threshold, with_quota,
};

/// The worked trace: block 1 of 4 rows, of which row 4 is prompt. Proposals of step 0 and 1.
fn worked_trace(token_5: u32, token_7: u32) -> Decoded {
    let sequence =
        Sequence::new(&prompt(5), 3, size(4), MASK, threshold(0.95)).expect("a valid request");
    decode(sequence, |visible, position| match position {
        5 => peaked(token_5, 0.97),
        6 if visible[5] == MASK => peaked(2, 0.40),
        6 => peaked(3, 0.80),
        7 => peaked(token_7, 0.99),
        _ => unreachable!("a prompt row has no proposal"),
    })
}

#[test]
fn the_worked_trace_takes_two_forwards_for_three_tokens() {
    let decoded = worked_trace(1, 4);
    assert_eq!(decoded.writes, [vec![5, 7], vec![6]]);
    assert_eq!(
        (decoded.answer, decoded.finish),
        (vec![1, 3, 4], FinishReason::Length)
    );
}

#[test]
fn a_stop_token_after_a_gap_does_not_end_the_text_until_the_gap_is_filled() {
    let decoded = worked_trace(1, EOS);
    assert_eq!(decoded.writes, [vec![5, 7], vec![6]]);
    assert_eq!(
        (decoded.answer, decoded.finish),
        (vec![1, 3, EOS], FinishReason::Stop)
    );
    assert_eq!(decoded.commits, 0);
}

#[test]
fn a_stop_token_without_a_gap_ends_the_text_inside_the_block() {
    let decoded = worked_trace(EOS, 4);
    assert_eq!(decoded.writes, [[5, 7]]);
    assert_eq!(
        (decoded.answer, decoded.finish),
        (vec![EOS], FinishReason::Stop)
    );
    assert!(decoded.sequence.open()[6], "row 6 is never denoised");
}

#[test]
fn models_that_insist_on_mask_are_outvoted() {
    for threshold_value in [0.0, 0.95] {
        let sequence =
            Sequence::new(&prompt(2), 9, size(4), MASK, threshold(threshold_value)).unwrap();
        let decoded = decode(sequence, |_, _| peaked(MASK, 0.999));
        assert_eq!(decoded.answer.len(), 9);
        assert!(!decoded.answer.contains(&MASK));
        assert!(
            decoded.writes.len() <= 12,
            "at most a forward per open position"
        );
    }
}

#[test]
fn a_model_that_always_stops_answers_with_one_stop_token() {
    let sequence = Sequence::new(&prompt(6), 40, size(4), MASK, threshold(0.5)).unwrap();
    let decoded = decode(sequence, |_, _| peaked(EOS, 0.9));
    assert_eq!((decoded.answer, decoded.writes.len()), (vec![EOS], 1));
}

#[test]
fn a_model_that_stops_at_its_last_rows_first_still_terminates() {
    // Confidence rises with position: the block fills from its end, stop tokens first.
    let model = |_: &[u32], position: usize| peaked(EOS, 0.2 + 0.01 * position as f32);
    let sequence = Sequence::new(&[], 8, size(8), MASK, threshold(0.95)).unwrap();
    let decoded = decode(sequence, model);
    assert_eq!(decoded.writes.concat(), [7, 6, 5, 4, 3, 2, 1, 0]);
    assert_eq!(decoded.answer, [EOS]);
}

#[test]
fn a_model_that_changes_its_mind_terminates() {
    let flip_flop = |visible: &[u32], position: usize| {
        let placed = visible.iter().filter(|&&id| id != MASK).count();
        peaked(((placed + position) % 2) as u32, 0.3)
    };
    for len in 0..9 {
        let sequence = Sequence::new(&prompt(len), 13, size(4), MASK, threshold(0.95)).unwrap();
        let decoded = decode(sequence, flip_flop);
        assert_eq!(decoded.answer.len(), 13);
    }
}

#[test]
fn prompts_of_every_length_stay_as_they_are() {
    for (block, len) in (1..=5).flat_map(|block| (0..=11).map(move |len| (block, len))) {
        let sequence = Sequence::new(&prompt(len), 7, size(block), MASK, threshold(0.4)).unwrap();
        assert_eq!(sequence.prefill_len(), len / block * block);
        let first = sequence.active_blocks().next().unwrap();
        assert_eq!((first.start, first.len()), (len / block * block, block));
        let decoded = decode(sequence, chaotic(3));
        assert_eq!(decoded.sequence.tokens()[..len], prompt(len));
        assert!(decoded.writes.concat().iter().all(|&i| i >= len));
    }
}

#[test]
fn stop_tokens_of_the_prompt_do_not_stop_the_answer() {
    let prompt = [1, EOS, 2, EOS, EOS];
    let sequence = Sequence::new(&prompt, 6, size(4), MASK, threshold(0.5)).unwrap();
    let decoded = decode(sequence, |_, _| peaked(3, 0.9));
    assert_eq!(
        (decoded.answer, decoded.finish),
        (vec![3; 6], FinishReason::Length)
    );
}

#[test]
fn the_number_of_new_tokens_need_not_fill_blocks() {
    for (max_new, len) in [1, 3, 4, 5, 12]
        .into_iter()
        .flat_map(|n| (0..5).map(move |p| (n, p)))
    {
        let sequence = Sequence::new(&prompt(len), max_new, size(4), MASK, threshold(0.5)).unwrap();
        assert_eq!(sequence.tokens().len(), (len + max_new).div_ceil(4) * 4);
        let decoded = decode(sequence, |_, _| peaked(2, 0.9));
        assert_eq!(
            (decoded.answer.len(), decoded.finish),
            (max_new, FinishReason::Length)
        );
    }
}

#[test]
fn rows_past_the_last_token_asked_for_need_not_be_filled() {
    // The first row is the most confident one; the other three lie past the limit.
    let model = |_: &[u32], position: usize| peaked(2, 0.9 - 0.1 * position as f32);
    let decoded = decode(
        Sequence::new(&[], 1, size(4), MASK, threshold(0.95)).unwrap(),
        model,
    );
    assert_eq!(decoded.writes, [[0]]);
}

#[test]
fn a_stop_token_past_the_last_token_asked_for_does_not_count() {
    let model = |_: &[u32], position: usize| peaked(if position < 2 { 1 } else { EOS }, 0.9);
    let decoded = decode(
        Sequence::new(&[], 2, size(4), MASK, threshold(0.5)).unwrap(),
        model,
    );
    assert_eq!(
        (decoded.answer, decoded.finish),
        (vec![1, 1], FinishReason::Length)
    );
}

#[test]
fn a_threshold_of_one_fills_exactly_the_quota() {
    let unsure = |_: &[u32], position: usize| peaked(1, 0.5 + 0.01 * position as f32);
    let quotas: [(Quota, &[usize]); 4] = [
        (Quota::MinTransfer(1), &[1; 8]),
        (Quota::MinTransfer(3), &[3, 3, 2]),
        (Quota::Steps(3), &[3, 3, 2]),
        (Quota::Steps(8), &[1; 8]),
    ];
    for (quota, expected) in quotas {
        let policy = with_quota(threshold(1.0), quota);
        let decoded = decode(
            Sequence::new(&[], 16, size(8), MASK, policy).unwrap(),
            unsure,
        );
        let written: Vec<usize> = decoded.writes.iter().map(Vec::len).collect();
        assert_eq!(written, [expected, expected].concat(), "{quota:?}");
    }
}

#[test]
fn a_negative_threshold_fills_a_block_in_one_forward() {
    let sequence = Sequence::new(&prompt(3), 13, size(4), MASK, threshold(-1.0)).unwrap();
    let no_stop = |visible: &[u32], position: usize| {
        let mut logits = chaotic(5)(visible, position);
        logits[EOS as usize] = -9.0;
        logits
    };
    let decoded = decode(sequence, no_stop);
    let written: Vec<usize> = decoded.writes.iter().map(Vec::len).collect();
    assert_eq!(written, [1, 4, 4, 4]);
    assert_eq!(decoded.commits, 3);
}

#[test]
fn blocks_of_one_decode_left_to_right() {
    let sequence = Sequence::new(&prompt(3), 5, BlockSize::ONE, MASK, threshold(0.95)).unwrap();
    let decoded = decode(sequence, |_, _| peaked(4, 0.3));
    assert_eq!(decoded.writes, [[3], [4], [5], [6], [7]]);
}

#[test]
fn a_step_tells_when_the_threshold_was_not_enough() {
    let mut sequence = Sequence::new(&[], 4, size(4), MASK, threshold(0.9)).unwrap();
    let mut step = |confidences: &[f32]| {
        let proposals = sequence.open_positions().into_iter().zip(confidences);
        let candidates: Vec<Candidate> = proposals
            .map(|(position, &confidence)| Candidate {
                position,
                token: 1,
                confidence,
            })
            .collect();
        sequence.denoise_step(&candidates[..], is_stop)
    };
    assert!(!step(&[0.95, 0.5, 0.5, 0.95]).fell_back);
    assert!(step(&[0.5, 0.6]).fell_back);
    let last = step(&[0.99]);
    assert!(last.block_done() && !last.fell_back && !last.needs_commit());
}

#[test]
fn the_first_stop_token_counts_only_without_a_gap_before_it() {
    let tokens = [EOS, 1, 2, EOS, EOS];
    let mut open = [false; 5];
    assert_eq!(finished(&tokens, &open, 1, is_stop), Some(3));
    assert_eq!(finished(&tokens, &open, 0, is_stop), Some(0));
    open[4] = true;
    assert_eq!(finished(&tokens, &open, 1, is_stop), Some(3));
    open[2] = true;
    assert_eq!(finished(&tokens, &open, 1, is_stop), None);
}

#[test]
fn requests_that_cannot_be_decoded_are_refused() {
    let new =
        |prompt: &[u32], max_new| Sequence::new(prompt, max_new, size(4), MASK, Policy::default());
    let with_mask = Err(Error::MaskInPrompt {
        mask_token_id: MASK,
        position: 1,
    });
    assert_eq!(new(&[1, MASK], 4), with_mask);
    assert_eq!(new(&[1], 0), Err(Error::NoNewTokens));
    let too_long = Err(Error::TooLong {
        prompt_len: 1,
        max_new_tokens: usize::MAX,
    });
    assert_eq!(new(&[1], usize::MAX), too_long);
}

proptest! {
    #[test]
    fn chaotic_models_terminate_without_mask_and_repeat_themselves(
        seed: u64,
        prompt_len in 0usize..12,
        max_new in 1usize..20,
        block in 1usize..7,
        confidence_threshold in -0.1f32..1.1,
        quota in 0usize..4,
    ) {
        let policy = with_quota(threshold(confidence_threshold), Quota::MinTransfer(quota));
        let sequence =
            Sequence::new(&prompt(prompt_len), max_new, size(block), MASK, policy).unwrap();
        let decoded = decode(sequence.clone(), chaotic(seed));
        prop_assert!(decoded.answer.len() <= max_new);
        prop_assert!(!decoded.answer.contains(&MASK));
        let num_stops = decoded.answer.iter().filter(|&&id| is_stop(id)).count();
        prop_assert_eq!(num_stops, usize::from(decoded.finish == FinishReason::Stop));
        let ends_with_stop = decoded.answer.last().is_some_and(|&id| is_stop(id));
        prop_assert_eq!(ends_with_stop, decoded.finish == FinishReason::Stop);
        let mut written = decoded.writes.concat();
        written.sort_unstable();
        let num_written = written.len();
        written.dedup();
        prop_assert_eq!(written.len(), num_written, "no position is written twice");
        prop_assert_eq!(decode(sequence, chaotic(seed)), decoded);
    }
}
