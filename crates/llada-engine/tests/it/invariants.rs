//! What every decode promises, whatever the model says.

use llada_engine::{Engine, LabelAlignment, Method, Quota, Request, Sampling, Schedule};

use crate::support::{DENSE, GOLDEN, MASK, endless, generate, options, policy, prompt, threshold};

fn open_rows(ids: &[u32]) -> usize {
    ids.iter().filter(|&&id| id == MASK).count()
}

#[test]
fn a_block_takes_at_most_one_forward_per_token_and_only_fills() {
    let request = Request {
        policy: threshold(2.0),
        ..endless(prompt(5, 1), 27, 8)
    };
    let answer = generate(&GOLDEN, &options(LabelAlignment::Same), &request);
    assert_eq!(answer.forwards.denoise, 27);
    for pair in answer
        .trace
        .windows(2)
        .filter(|pair| pair[0].block == pair[1].block)
    {
        let kept = pair[0]
            .ids
            .iter()
            .zip(&pair[1].ids)
            .filter(|(before, after)| before == after);
        assert_eq!(kept.count(), 7, "one token is filled, the others stay");
    }
}

#[test]
fn the_prompts_tail_never_changes() {
    for prompt_len in 0..=8 {
        let request = endless(prompt(prompt_len, 4), 8, 8);
        let answer = generate(&DENSE, &options(LabelAlignment::Same), &request);
        let tail = &request.prompt[prompt_len / 8 * 8..];
        for step in answer
            .trace
            .iter()
            .filter(|step| step.block == prompt_len / 8)
        {
            assert_eq!(step.ids[..tail.len()], *tail);
        }
    }
}

#[test]
fn a_threshold_of_one_fills_exactly_the_quota_in_every_step() {
    // Steps(3) of a block of 8: 3, 3, 2.
    for (quota, expected) in [
        (Quota::MinTransfer(3), [5, 2, 0]),
        (Quota::Steps(3), [5, 2, 0]),
        (Quota::Steps(2), [4, 0, 4]),
        (Quota::MinTransfer(9), [0, 0, 0]),
    ] {
        let request = Request {
            policy: policy(1.0, quota),
            ..endless(prompt(8, 2), 24, 8)
        };
        let answer = generate(&GOLDEN, &options(LabelAlignment::Same), &request);
        let open: Vec<usize> = answer
            .trace
            .iter()
            .map(|step| open_rows(&step.ids))
            .collect();
        assert_eq!(open[..3], expected, "{quota:?}");
    }
}

#[test]
fn a_threshold_below_zero_fills_a_block_in_one_forward() {
    for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
        let request = Request {
            policy: threshold(-1.0),
            ..endless(prompt(8, 2), 24, 8)
        };
        let answer = generate(&GOLDEN, &options(alignment), &request);
        assert_eq!((answer.forwards.denoise, answer.forwards.prefill), (3, 1));
    }
}

#[test]
fn decoding_stops_at_the_tokens_asked_for_not_at_the_blocks_end() {
    let exact = Request {
        policy: threshold(2.0),
        ..endless(prompt(4, 1), 6, 32)
    };
    let whole = Request {
        schedule: Schedule::Reference {
            eos_early_stop: true,
        },
        ..exact.clone()
    };
    let [exact, whole] =
        [exact, whole].map(|request| generate(&GOLDEN, &options(LabelAlignment::Same), &request));
    assert_eq!(exact.output_ids, whole.output_ids);
    assert_eq!(whole.forwards.denoise, 28);
    assert!(exact.forwards.denoise < 28);
}

#[test]
fn streamed_pieces_make_up_the_answer() {
    for (seed, alignment) in [(1, LabelAlignment::Same), (2, LabelAlignment::Shifted)] {
        let whole = generate(
            &DENSE,
            &options(alignment),
            &endless(prompt(9, seed), 30, 8),
        );
        let stop_ids = vec![whole.output_ids[20]];
        let request = Request {
            stop_ids,
            ..endless(prompt(9, seed), 30, 8)
        };
        let mut pieces: Vec<Vec<u32>> = Vec::new();
        let answer = Engine::new(&DENSE, options(alignment))
            .unwrap()
            .generate(&request, &mut |ids| pieces.push(ids.to_vec()))
            .unwrap();
        assert_eq!(pieces.concat(), answer.output_ids);
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| !piece.is_empty()));
    }
}

#[test]
fn blocks_of_one_are_left_to_right_decoding() {
    // Same-position: a MASK row that sees everything before it decides its own token.
    let request = endless(prompt(6, 3), 10, 1);
    let answer = generate(&GOLDEN, &options(LabelAlignment::Same), &request);
    let mut text = request.prompt.clone();
    for _ in 0..10 {
        text.push(MASK);
        let len = text.len();
        let positions: Vec<u32> = (0..len as u32).collect();
        let ranges = llada_diffusion::causal_ranges(len);
        let outputs = [len as u32 - 1];
        let input = llada_model::Input {
            ids: &text,
            positions: &positions,
            ranges: &ranges,
            outputs: &outputs,
            dropout: None,
        };
        let hidden = GOLDEN.forward(&input);
        text[len - 1] = GOLDEN.head_rows(&hidden, None, Some(MASK))[0].argmax;
    }
    assert_eq!(answer.output_ids, text[6..]);
}

#[test]
fn shifted_blocks_of_one_are_autoregression() {
    for sampling in [
        Sampling::default(),
        Sampling {
            temperature: 0.8,
            seed: 3,
            ..Sampling::default()
        },
    ] {
        let request = Request {
            sampling,
            policy: threshold(-1.0),
            ..endless(prompt(6, 3), 20, 1)
        };
        let options = options(LabelAlignment::Shifted);
        let blocks = generate(&GOLDEN, &options, &request);
        let causal = Request {
            method: Method::Autoregression,
            ..request
        };
        let tokens = generate(&GOLDEN, &options, &causal);
        assert_eq!(blocks, tokens);
    }
}
