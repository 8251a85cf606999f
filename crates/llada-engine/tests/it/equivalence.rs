//! Savings that do not change the output: the cached engine against the oracle, fused against
//! separate commits, one engine for many requests against one each.

use llada_engine::{
    Answer, Edit, Engine, LabelAlignment, Options, Policy, Quota, Reopen, Request, Sampling,
    Savings, Schedule, reference,
};
use llada_model::Model;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::support::{DENSE, EOS, GOLDEN, MASK, endless, generate, options, policy, prompt};

/// Checks the engine with fused and separate commits against the oracle; returns the answer.
fn assert_exact(model: &Model, options: &Options, request: &Request) -> Answer {
    let oracle = reference::generate(model, options, request).unwrap();
    let [fused, separate] = [true, false].map(|fused_commit| {
        let answer = generate(
            model,
            &Options {
                savings: Savings {
                    fused_commit,
                    ..Savings::default()
                },
                ..options.clone()
            },
            request,
        );
        assert_eq!(
            answer.output_ids, oracle.output_ids,
            "fused {fused_commit} {request:?}"
        );
        assert_eq!(
            answer.trace, oracle.trace,
            "fused {fused_commit} {request:?}"
        );
        assert_eq!(answer.finish_reason, oracle.finish_reason);
        answer
    });
    assert_eq!(fused.forwards.commit, 0);
    assert_eq!(fused.forwards.prefill, separate.forwards.prefill);
    assert_eq!(fused.forwards.denoise, separate.forwards.denoise);
    if options.label_alignment == LabelAlignment::Same {
        assert_eq!(fused.forwards.denoise, oracle.forwards.denoise);
        let blocks = 1 + oracle.trace.last().unwrap().block - oracle.trace[0].block;
        assert_eq!(separate.forwards.commit, blocks - 1);
    }
    fused
}

fn alignments() -> [Options; 2] {
    [LabelAlignment::Same, LabelAlignment::Shifted].map(options)
}

#[test]
fn cached_decoding_equals_the_oracle_for_every_place_of_the_prompts_end() {
    for options in alignments() {
        for prompt_len in 1..=17 {
            let request = endless(prompt(prompt_len, 1), 12, 8);
            assert_exact(&GOLDEN, &options, &request);
            assert_exact(&DENSE, &options, &request);
        }
    }
}

#[test]
fn an_empty_prompt_is_decoded_from_masks_alone() {
    let options = options(LabelAlignment::Same);
    let answer = assert_exact(&GOLDEN, &options, &endless(vec![], 20, 1));
    assert_eq!(answer.output_ids.len(), 20);
    // In a longer block all rows are alike at first, and rounding breaks the tie: no oracle.
    let answer = generate(&GOLDEN, &options, &endless(vec![], 20, 8));
    assert_eq!(answer.output_ids.len(), 20);
    assert!(!answer.output_ids.contains(&MASK));
    assert_eq!(answer.forwards.prefill, 0);
}

#[test]
fn every_number_of_new_tokens_is_served() {
    for options in alignments() {
        for max_new_tokens in [1, 7, 8, 9, 24] {
            let request = endless(prompt(11, 2), max_new_tokens, 8);
            let answer = assert_exact(&DENSE, &options, &request);
            assert_eq!(answer.output_ids.len(), max_new_tokens);
        }
    }
}

#[test]
fn early_stop_and_whole_blocks_give_the_same_text() {
    for options in alignments() {
        for seed in 0..4 {
            let whole = generate(&DENSE, &options, &endless(prompt(9, seed), 40, 8));
            // Whatever token stands there is made the stop token.
            let stop_ids = vec![whole.output_ids[13]];
            let exact = Request {
                stop_ids,
                ..endless(prompt(9, seed), 40, 8)
            };
            let early = assert_exact(&DENSE, &options, &exact);
            assert_eq!(whole.output_ids[..early.output_ids.len()], early.output_ids);
            assert_eq!(early.output_ids.last(), exact.stop_ids.last());
            for eos_early_stop in [false, true] {
                let schedule = Schedule::Reference { eos_early_stop };
                let request = Request {
                    schedule,
                    ..exact.clone()
                };
                let answer = assert_exact(&DENSE, &options, &request);
                assert_eq!(answer.output_ids, early.output_ids);
                assert!(answer.forwards.denoise >= early.forwards.denoise);
            }
        }
    }
}

#[test]
fn stop_tokens_in_the_prompt_do_not_end_the_answer() {
    for options in alignments() {
        let mut prompt = prompt(12, 3);
        (prompt[0], prompt[7], prompt[11]) = (EOS, EOS, EOS);
        let request = Request {
            ignore_eos: false,
            ..endless(prompt.clone(), 16, 8)
        };
        let answer = assert_exact(&GOLDEN, &options, &request);
        assert!(!answer.output_ids.is_empty());
        assert!(answer.trace[0].ids.starts_with(&prompt[8..]));
    }
}

#[test]
fn an_engine_serves_one_request_after_another_as_if_each_were_alone() {
    let options = options(LabelAlignment::Shifted);
    let mut engine = Engine::new(&GOLDEN, options.clone()).unwrap();
    for seed in 0..4 {
        let request = endless(prompt(40 - 9 * seed as usize, seed), 20, 8);
        let answer = engine.generate(&request, &mut |_| {}).unwrap();
        assert_eq!(answer, generate(&GOLDEN, &options, &request));
    }
}

#[test]
fn the_same_seed_draws_the_same_text_and_another_seed_another() {
    let request = |seed| Request {
        sampling: Sampling {
            temperature: 1.5,
            top_k: 50,
            top_p: 0.95,
            seed,
            ..Sampling::default()
        },
        ..endless(prompt(5, 1), 24, 8)
    };
    for options in alignments() {
        let first = assert_exact(&GOLDEN, &options, &request(1));
        assert_eq!(first, generate(&GOLDEN, &options, &request(1)));
        assert_ne!(
            first.output_ids,
            generate(&GOLDEN, &options, &request(2)).output_ids
        );
        assert!(!first.output_ids.contains(&MASK));
    }
}

proptest! {
    // A fixed seed: among all requests are some where rounding decides between two confidences.
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::with_cases(48)
    })]

    #[test]
    fn any_request_is_decoded_exactly(
        prompt_len in 1usize..24, seed in 0u32..1000, max_new_tokens in 1usize..24,
        block_length in 1usize..12, threshold in -0.1f32..1.1, steps in 1usize..12,
        is_shifted: bool, min_transfer: bool,
    ) {
        let alignment = if is_shifted { LabelAlignment::Shifted } else { LabelAlignment::Same };
        let quota = if min_transfer { Quota::MinTransfer(steps) } else { Quota::Steps(steps) };
        let request = Request {
            policy: policy(threshold, quota),
            ..endless(prompt(prompt_len, seed), max_new_tokens, block_length)
        };
        let answer = assert_exact(&DENSE, &options(alignment), &request);
        prop_assert_eq!(answer.output_ids.len(), max_new_tokens);
        prop_assert!(!answer.output_ids.contains(&MASK));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(2),
        ..ProptestConfig::with_cases(48)
    })]

    #[test]
    fn any_edited_text_is_decoded_exactly(
        prompt_len in 0usize..20, seed in 0u32..1000, max_new_tokens in 1usize..20,
        block_length in 1usize..12, threshold in 0.2f32..1.1, above in -0.1f32..0.9,
        max_post_edit_steps in 0usize..5, penalty_lambda in 0.0f32..3.0, stop_id in 0u32..EOS,
        reopen in prop::option::of((1usize..4, 1usize..4)), is_shifted: bool,
    ) {
        let alignment = if is_shifted { LabelAlignment::Shifted } else { LabelAlignment::Same };
        let prompt_len = prompt_len.max(usize::from(is_shifted));
        let request = Request {
            policy: Policy {
                edit: Edit::Above(above),
                max_post_edit_steps,
                penalty_lambda,
                reopen: reopen.filter(|_| !is_shifted).map(|(blocks, rounds)| Reopen { blocks, rounds }),
                ..policy(threshold, Quota::MinTransfer(1))
            },
            stop_ids: vec![stop_id],
            ..endless(prompt(prompt_len, seed), max_new_tokens, block_length)
        };
        let options = options(alignment);
        let oracle = reference::generate(&DENSE, &options, &request).unwrap();
        let answer = generate(&DENSE, &options, &request);
        prop_assert_eq!(&answer.output_ids, &oracle.output_ids);
        prop_assert_eq!(answer.trace, oracle.trace);
        prop_assert_eq!(answer.edits, oracle.edits);
        prop_assert_eq!(answer.steps_per_block, oracle.steps_per_block);
        prop_assert_eq!(answer.finish_reason, oracle.finish_reason);
        // A pass that changes nothing is the commit.
        prop_assert!(!answer.output_ids.contains(&MASK));
    }
}
