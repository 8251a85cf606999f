//! Blocks edited again when later ones are done: worked traces, the rule on plain ids, and bounds.

use llada_diffusion::{BlockOutcome, Edit, FinishReason, Policy, Reopen, Sequence, propose};
use proptest::prelude::*;

use crate::models::{EOS, MASK, chaotic, decode, is_stop, peaked, prompt, size, step, threshold};

fn reopening(confidence_threshold: f32, above: f32, reopen: Reopen) -> Policy {
    Policy {
        edit: Edit::Above(above),
        reopen: Some(reopen),
        ..threshold(confidence_threshold)
    }
}

/// Settings of a decode in blocks of `size`.
#[derive(Debug)]
struct Settings {
    prompt_len: usize,
    max_new: usize,
    size: usize,
    threshold: f32,
    above: f32,
    budget: usize,
    reopen: Reopen,
}

impl Settings {
    fn sequence(&self) -> Sequence {
        let policy = Policy {
            max_post_edit_steps: self.budget,
            ..reopening(self.threshold, self.above, self.reopen)
        };
        let prompt = prompt(self.prompt_len);
        Sequence::new(&prompt, self.max_new, size(self.size), MASK, policy).expect("valid")
    }

    fn editable(&self, block: usize) -> impl Iterator<Item = usize> {
        (block * self.size..(block + 1) * self.size).filter(|&i| i >= self.prompt_len)
    }
}

/// Returns the text after each forward, and its answer.
fn by_the_rule(
    settings: &Settings,
    model: impl Fn(&[u32], usize) -> Vec<f32>,
) -> (Vec<Vec<u32>>, Vec<u32>) {
    let &Settings {
        prompt_len, size, ..
    } = settings;
    let limit = prompt_len + settings.max_new;
    let blocks = prompt_len / size..limit.div_ceil(size);
    let (mut x, mut trace) = (prompt(prompt_len), Vec::new());
    x.resize(blocks.end * size, MASK);
    let best =
        |visible: &[u32], i: usize| propose(&model(visible, i), &[MASK]).expect("tokens are left");
    let edits = |visible: &[u32], block: usize| -> Vec<(usize, u32)> {
        let placed = settings.editable(block).filter(|&i| visible[i] != MASK);
        let proposed = placed.map(|i| (i, best(visible, i)));
        let changes = proposed.filter(|&(i, (token, p))| token != visible[i] && p > settings.above);
        changes.map(|(i, (token, _))| (i, token)).collect()
    };
    let answer_end = |x: &[u32], end: usize| {
        let stop = (prompt_len..end).find(|&i| is_stop(x[i]));
        stop.map(|stop| stop + 1)
    };
    for block in blocks.clone() {
        let mut post = 0;
        loop {
            let open: Vec<usize> = settings.editable(block).filter(|&i| x[i] == MASK).collect();
            post += usize::from(open.is_empty());
            if post > settings.budget {
                break;
            }
            let visible = &x[..(block + 1) * size];
            let changes = edits(visible, block);
            let mut fills: Vec<_> = open.iter().map(|&i| (i, best(visible, i))).collect();
            fills.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
            let passed = fills.iter().filter(|f| f.1.1 > settings.threshold).count();
            fills.truncate(passed.max(1));
            let fills: Vec<_> = fills
                .into_iter()
                .map(|(i, (token, _))| (i, token))
                .collect();
            for &(i, token) in changes.iter().chain(&fills) {
                x[i] = token;
            }
            trace.push(x.clone());
            if open.is_empty() && changes.is_empty() {
                break;
            }
        }
        let first = block
            .saturating_sub(settings.reopen.blocks)
            .max(blocks.start);
        let rounds = if first < block {
            settings.reopen.rounds
        } else {
            0
        };
        for _ in 0..rounds {
            let visible = &x[..(block + 1) * size];
            let changes = (first..=block).flat_map(|block| edits(visible, block));
            let changes: Vec<_> = changes.collect();
            for &(i, token) in &changes {
                x[i] = token;
            }
            trace.push(x.clone());
            if changes.is_empty() {
                break;
            }
        }
        if let Some(end) = answer_end(&x, (block + 1) * size) {
            return (trace, x[prompt_len..end.min(limit)].to_vec());
        }
    }
    (trace, x[prompt_len..limit].to_vec())
}

/// A prompt of one token, then 5 in blocks of 2.
fn pairs(blocks: usize, rounds: usize) -> Sequence {
    let policy = reopening(0.5, 0.5, Reopen { blocks, rounds });
    Sequence::new(&[0], 5, size(2), MASK, policy).expect("a valid request")
}

/// Position 1 becomes 5 where position 3 is seen; then position 2 becomes 4.
fn second_thoughts(visible: &[u32], position: usize) -> Vec<f32> {
    match position {
        1 if visible.len() > 2 => peaked(5, 0.9),
        2 if visible[1] == 5 => peaked(4, 0.9),
        _ => peaked(3, 0.9),
    }
}

#[test]
fn a_done_block_changes_once_it_sees_the_next_and_is_frozen_when_it_cannot_any_more() {
    let mut text = pairs(1, 4);
    let mut seen = Vec::new();
    loop {
        let reopened = text.is_reopened();
        let done = step(&mut text, second_thoughts);
        let active: Vec<_> = text.active_blocks().map(|rows| rows.start / 2).collect();
        seen.push((reopened, done.edited, done.block, active, text.frozen_len()));
        if done.finish.is_some() {
            assert_eq!(done.finish, Some(FinishReason::Length));
            break;
        }
    }
    use BlockOutcome::{Active, Changed, Settled};
    let expected = [
        (false, vec![], Active, vec![0], 1), // fills position 1
        (false, vec![], Settled, vec![1], 1),
        (false, vec![], Active, vec![1], 1), // fills positions 2 and 3
        (false, vec![], Active, vec![0, 1], 1), // block 1 rests, block 0 is re-opened
        (true, vec![1], Active, vec![0, 1], 1),
        (true, vec![2], Active, vec![0, 1], 1),
        (true, vec![], Changed, vec![2], 2), // block 0 cannot change any more
        (false, vec![], Active, vec![2], 2),
        (false, vec![], Active, vec![1, 2], 2),
        (true, vec![], Changed, vec![], 6),
    ];
    assert_eq!(seen, expected);
    assert_eq!(text.tokens(), [0, 5, 4, 3, 3, 3]);
    assert_eq!(text.counts().steps_per_block, [5, 6, 3]);
    assert_eq!(text.counts().edits, 2);
    let steps = text.placed().iter().map(|placed| placed.map(|p| p.step));
    assert!(steps.eq([None, Some(2), Some(3), Some(0), Some(0), Some(0)]));
}

#[test]
fn rounds_run_out() {
    let rounds = |most| {
        let decoded = decode(pairs(1, most), second_thoughts);
        (decoded.answer, decoded.writes.len(), decoded.commits)
    };
    // With one round, the second edit comes when block 1 is re-opened with block 2.
    assert_eq!(rounds(1), (vec![5, 4, 3, 3, 3], 8, 1));
    assert_eq!(rounds(3), (vec![5, 4, 3, 3, 3], 10, 1));
}

#[test]
fn a_stop_token_may_be_edited_away_while_its_block_is_reopened_and_not_after() {
    // Position 3 stops, until block 1 is seen together with block 0.
    let mut text = pairs(1, 2);
    let model = |visible: &[u32], position: usize| match position {
        3 if visible[1] == 3 => peaked(EOS, 0.9),
        1 if visible.len() > 2 => peaked(5, 0.9),
        _ => peaked(3, 0.9),
    };
    let decoded = decode(text.clone(), model);
    assert_eq!(decoded.answer, [5, 3, 3, 3, 3]);
    assert_eq!(decoded.finish, FinishReason::Length);

    // One that stands ends the text without a step in block 2; nothing is streamed too early.
    let stubborn = |_: &[u32], position: usize| match position {
        2 => peaked(EOS, 0.9),
        _ => peaked(3, 0.9),
    };
    let finish = loop {
        assert_eq!(text.answer(is_stop), 1..1);
        if let Some(finish) = step(&mut text, stubborn).finish {
            break finish;
        }
    };
    assert_eq!(finish, FinishReason::Stop);
    assert_eq!(text.answer(is_stop), 1..3);
    assert_eq!(text.tokens(), [0, 3, EOS, 3, MASK, MASK]);
}

#[test]
fn a_change_of_mind_without_end_takes_a_bounded_number_of_forwards() {
    let flip_flop = |visible: &[u32], position: usize| match visible[position] {
        1 => peaked(2, 0.9),
        _ => peaked(1, 0.9),
    };
    for (blocks, rounds) in [(1, 1), (1, 5), (3, 2), (usize::MAX, 3)] {
        let policy = Policy {
            max_post_edit_steps: 2,
            ..reopening(0.5, 0.0, Reopen { blocks, rounds })
        };
        let text = Sequence::new(&[], 24, size(4), MASK, policy).expect("a valid request");
        let decoded = decode(text, flip_flop);
        // A fill and two edits each; all but the first are re-opened.
        assert_eq!(decoded.writes.len(), 6 * 3 + 5 * rounds);
        assert_eq!(decoded.answer.len(), 24);
    }
}

prop_compose! {
    fn cases()(
        (prompt_len, max_new, size) in (0usize..9, 1usize..20, 1usize..6),
        threshold in 0.0f32..1.0,
        above in 0.0f32..0.9,
        budget in 0usize..4,
        (blocks, rounds) in (1usize..4, 1usize..4),
    ) -> Settings {
        let reopen = Reopen { blocks, rounds };
        Settings { prompt_len, max_new, size, threshold, above, budget, reopen }
    }
}

proptest! {
    #[test]
    fn reopening_is_the_rule(settings in cases(), seed: u64) {
        let (expected, answer) = by_the_rule(&settings, chaotic(seed));
        let mut text = settings.sequence();
        let mut trace = Vec::new();
        while text.finish(is_stop).is_none() {
            step(&mut text, chaotic(seed));
            trace.push(text.tokens().to_vec());
        }
        prop_assert_eq!(&trace, &expected);
        prop_assert_eq!(&text.tokens()[text.answer(is_stop)], &answer[..]);
        // The same once more, with what is streamed under watch.
        let decoded = decode(settings.sequence(), chaotic(seed));
        prop_assert_eq!(decoded.answer, answer);
    }
}
