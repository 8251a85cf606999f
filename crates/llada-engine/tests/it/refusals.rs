//! Requests that cannot be served are refused with the field at fault.

use llada_engine::{
    Capacity, Edit, Engine, Error, LabelAlignment, Method, Options, Policy, Quota, Request,
    Sampling, Window,
};
use llada_model::{BlockRouting, Model, Weights};
use llada_tensor::Precision;

use crate::support::{CAPACITY, DENSE, GOLDEN, MASK, options, prompt, threshold, without_numbers};

fn refusal(change: impl Fn(&mut Request, &mut Options)) -> String {
    let mut request = Request::new(prompt(5, 1), 8);
    let mut options = options(LabelAlignment::Same);
    change(&mut request, &mut options);
    Engine::new(&DENSE, options)
        .unwrap()
        .generate(&request, &mut |_| {})
        .unwrap_err()
        .to_string()
}

fn causal(request: Request) -> Request {
    Request {
        method: Method::Autoregression,
        ..request
    }
}

#[test]
fn a_prompt_with_mask_is_refused() {
    let message = refusal(|request, _| request.prompt[3] = MASK);
    assert_eq!(
        message,
        "prompt holds the MASK id 511 at position 3; remove it"
    );
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    let message = refusal(|request, _| request.prompt[2] = 512);
    let expected = "`prompt` holds id 512 at index 2; expected ids below the vocabulary size 512";
    assert_eq!(message, expected);
    assert!(refusal(|request, _| request.stop_ids = vec![999]).starts_with("`stop_ids` holds id"));
    assert!(refusal(|_, options| options.mask_token_id = Some(512)).starts_with("`mask_token_id`"));
    assert!(
        refusal(|_, options| options.eos_token_ids = vec![9000]).starts_with("`eos_token_ids`")
    );
}

#[test]
fn a_context_overflow_is_refused() {
    let expected = "`prompt` of 5 tokens and `max_new_tokens` 252 exceed the context of 256 tokens; \
                    shorten one of them";
    assert_eq!(refusal(|request, _| request.max_new_tokens = 252), expected);
    assert!(refusal(|request, _| request.max_new_tokens = usize::MAX).contains("context"));
}

#[test]
fn the_last_position_of_the_context_can_be_used() {
    let request = Request {
        ignore_eos: true,
        ..Request::new(prompt(250, 1), 6)
    };
    let options = Options {
        block_size: Some(24),
        ..options(LabelAlignment::Same)
    };
    let answer = Engine::new(&DENSE, options)
        .unwrap()
        .generate(&request, &mut |_| {})
        .unwrap();
    assert_eq!(answer.output_ids.len(), 6);
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let sampling =
        |sampling: Sampling| refusal(move |request, _| request.sampling = sampling.clone());
    let start = Sampling::default();
    for (message, field) in [
        (
            refusal(|request, _| request.max_new_tokens = 0),
            "max_new_tokens",
        ),
        (
            refusal(|request, _| request.block_length = Some(0)),
            "block_length",
        ),
        (
            refusal(|request, _| request.block_length = Some(usize::MAX)),
            "block_length",
        ),
        (
            refusal(|request, _| request.policy.quota = Quota::MinTransfer(0)),
            "min_transfer",
        ),
        (
            refusal(|request, _| request.policy.quota = Quota::Steps(0)),
            "steps",
        ),
        (
            sampling(Sampling {
                temperature: -1.0,
                ..start.clone()
            }),
            "temperature",
        ),
        (
            sampling(Sampling {
                temperature: f32::NAN,
                ..start.clone()
            }),
            "temperature",
        ),
        (
            sampling(Sampling {
                top_p: 0.0,
                ..start.clone()
            }),
            "top_p",
        ),
        (
            sampling(Sampling {
                top_p: 1.5,
                ..start.clone()
            }),
            "top_p",
        ),
        (
            sampling(Sampling {
                top_p: f32::NAN,
                ..start.clone()
            }),
            "top_p",
        ),
    ] {
        assert!(message.starts_with(&format!("`{field}` is ")), "{message}");
        assert!(message.contains("; expected "), "{message}");
    }
}

#[test]
fn a_threshold_that_is_no_number_is_refused() {
    for (number, found) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let message = refusal(|request, _| request.policy = threshold(number));
        let expected = format!("confidence threshold is {found}; expected a finite number");
        assert_eq!(message, expected);
    }
}

#[test]
fn what_the_checkpoint_does_not_say_must_be_given() {
    assert!(refusal(|_, options| options.mask_token_id = None).contains("--mask-id"));
    assert!(refusal(|_, options| options.eos_token_ids.clear()).contains("--eos-id"));
    assert!(refusal(|_, options| options.block_size = None).contains("--block-length"));
}

#[test]
fn shifted_and_causal_decoding_need_a_first_token() {
    let empty = Request::new(vec![], 4);
    let mut engine = Engine::new(&DENSE, options(LabelAlignment::Shifted)).unwrap();
    assert_eq!(
        engine.generate(&empty, &mut |_| {}),
        Err(Error::EmptyPrompt)
    );
    assert_eq!(
        engine.generate(&causal(empty), &mut |_| {}),
        Err(Error::EmptyPrompt)
    );
}

#[test]
fn logits_that_are_not_numbers_fail_the_request() {
    let model = without_numbers();
    let warm = Sampling {
        temperature: 1.0,
        ..Sampling::default()
    };
    for sampling in [Sampling::default(), warm] {
        let request = Request {
            sampling,
            ..Request::new(prompt(5, 1), 8)
        };
        let mut engine = Engine::new(&model, options(LabelAlignment::Same)).unwrap();
        let error = engine.generate(&request, &mut |_| {}).unwrap_err();
        assert_eq!(error, Error::NotFinite { position: 5 });
        assert_eq!(engine.generate(&causal(request), &mut |_| {}), Err(error));
    }
}

#[test]
fn penalties_that_overflow_fail_the_request_under_every_policy() {
    let revise = Edit::Revise {
        above: 0.5,
        delete_token_id: 1,
        split_token_id: 2,
    };
    for edit in [Edit::Off, Edit::Above(0.5), revise] {
        let message = refusal(|request, _| {
            request.policy.edit = edit;
            request.sampling.repetition_penalty = 1e-40;
        });
        assert!(message.contains("penalties"), "{edit:?}: {message}");
    }
}

#[test]
fn a_block_that_is_not_what_shares_experts_is_refused() {
    let mut config = GOLDEN.config.clone();
    config.moe.as_mut().unwrap().block_routing = Some(BlockRouting {
        expert_capacity: 8,
        block_size: 8,
    });
    let routed = Model::new(config, GOLDEN.weights.clone());
    let mut engine = Engine::new(&routed, options(LabelAlignment::Same)).unwrap();
    let mut answer = |block_length| {
        let request = Request {
            block_length,
            ..Request::new(prompt(5, 1), 4)
        };
        let answer = engine.generate(&request, &mut |_| {});
        answer.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(answer(Some(8)), Ok(()));
    let expected = "`block_length` is 4; expected 8, the rows that share experts";
    assert_eq!(answer(Some(4)), Err(expected.to_owned()));
}

#[test]
fn insertions_and_deletions_need_a_token_besides_the_three_special_ones() {
    let mut config = DENSE.config.clone();
    config.vocab_size = 3;
    let weights = Weights::random(&config, 5, Precision::F32);
    let model = Model::new(config, weights);
    let options = Options {
        mask_token_id: Some(2),
        eos_token_ids: vec![0],
        ..options(LabelAlignment::Same)
    };
    let mut request = Request::new(vec![0], 4);
    request.policy.edit = Edit::Revise {
        above: 0.5,
        delete_token_id: 0,
        split_token_id: 1,
    };
    let error = Engine::new(&model, options).unwrap().submit(&request);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("vocabulary has 3")
    );
}

#[test]
fn pages_beyond_all_counting_are_refused_before_memory_is_asked_for() {
    for pages in [usize::MAX, 1 << 32] {
        let capacity = Capacity { pages, ..CAPACITY };
        let options = Options {
            capacity,
            ..options(LabelAlignment::Same)
        };
        let message = Engine::new(&DENSE, options).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("`pages` is {pages}; expected at most 536870911")
        );
    }
}

#[test]
fn bounds_without_end_bound_nothing() {
    let answer = |policy: Policy| {
        let request = Request {
            policy,
            ..Request::new(prompt(5, 1), 24)
        };
        let mut engine = Engine::new(&DENSE, options(LabelAlignment::Same)).unwrap();
        engine.generate(&request, &mut |_| {}).unwrap()
    };
    let window = |buffer_blocks| Policy {
        window: Window {
            buffer_blocks,
            admit_threshold: 0.2,
            ..Window::default()
        },
        ..Policy::default()
    };
    assert_eq!(answer(window(usize::MAX)), answer(window(4)));
    let revise = |most| Policy {
        edit: Edit::Revise {
            above: 0.5,
            delete_token_id: 1,
            split_token_id: 2,
        },
        quota: Quota::MinTransfer(most),
        max_post_edit_steps: most,
        ..Policy::default()
    };
    assert_eq!(answer(revise(usize::MAX)), answer(revise(1000)));
}
