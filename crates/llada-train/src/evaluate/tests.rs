use super::*;
use llada_diffusion::LabelAlignment;
use llada_model::{BlockRouting, Weights};
use llada_tensor::Precision;

use crate::data::Span;
use crate::testing::{corpus, model, moe_config};

#[test]
fn a_shifted_model_with_blocks_of_one_token_has_the_likelihood_of_its_parent() {
    let model = model(LabelAlignment::Shifted);
    let parent = nll(&model, &corpus(), Mode::Ar, 1).unwrap();
    let child = nll(&model, &corpus(), Mode::Block(BlockSize::ONE), 8).unwrap();
    assert_eq!(child, parent);
    assert_eq!(child.tokens, 12 + 6 + 3 + 5);
}

#[test]
fn the_same_tokens_are_predicted_in_every_mode() {
    for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
        for size in [1, 2, 3, 8, 100] {
            let mode = Mode::Block(BlockSize::new(size).unwrap());
            let result = nll(&model(alignment), &corpus(), mode, 4).unwrap();
            assert_eq!(result.tokens, 26, "{alignment}, block {size}");
        }
    }
}

#[test]
fn as_many_draws_as_tokens_meet_every_count_once() {
    let supervised = [false, true, true, true, true, true, true, true];
    let size = BlockSize::new(4).unwrap();
    let copies = (0..4).map(|draw| fixed_noise(3, &supervised, size, draw, 4));
    let counts = |copy: &Corruption, rows: std::ops::Range<usize>| {
        copy.masked[rows].iter().filter(|&&masked| masked).count()
    };
    let copies: Vec<_> = copies.collect();
    let mut second: Vec<_> = copies.iter().map(|copy| counts(copy, 4..8)).collect();
    second.sort_unstable();
    assert_eq!(second, [1, 2, 3, 4]);
    assert!(
        copies
            .iter()
            .all(|copy| !copy.masked[0] && (1..=3).contains(&counts(copy, 0..4)))
    );
}

#[test]
fn counting_masked_tokens_estimates_the_integral_over_mask_ratios() {
    // A toy bound: the cost of a block is a function of how many of its 3 tokens are masked.
    let cost = |num_masked: usize| [0.0, 1.0, 5.0, 7.0][num_masked] * num_masked as f64;
    let counted: f64 = (1..=3).map(|k| cost(k) * 3.0 / k as f64 / 3.0).sum();
    let steps = 20_000;
    let binomial = |k: usize, t: f64| {
        [1.0, 3.0, 3.0, 1.0][k] * t.powi(k as i32) * (1.0 - t).powi(3 - k as i32)
    };
    let integrated: f64 = (0..steps)
        .map(|i| (f64::from(i) + 0.5) / f64::from(steps))
        .map(|t| (1..=3).map(|k| binomial(k, t) * cost(k) / t).sum::<f64>())
        .sum::<f64>()
        / f64::from(steps);
    assert!(
        (counted - integrated).abs() < 1e-6,
        "{counted} and {integrated}"
    );
}

#[test]
fn a_parent_has_no_bound() {
    let mut parent = model(LabelAlignment::Same);
    parent.config.mask_token_id = None;
    let error = nll(&parent, &corpus(), Mode::Block(BlockSize::ONE), 1).unwrap_err();
    assert!(error.to_string().contains("llada convert"), "{error}");
}

#[test]
fn a_model_that_routes_blocks_is_measured_in_no_others() {
    let mut config = moe_config(LabelAlignment::Same);
    config.moe.as_mut().unwrap().block_routing = Some(BlockRouting {
        expert_capacity: 3,
        block_size: 4,
    });
    let weights = Weights::random(&config, 1, Precision::F32);
    let model = Model::new(config, weights);
    let block = |size| Mode::Block(BlockSize::new(size).unwrap());
    for mode in [Mode::Ar, block(1), block(8)] {
        let message = nll(&model, &corpus(), mode, 1).unwrap_err().to_string();
        assert!(message.ends_with("measure with block:4"), "{message}");
    }
    nll(&model, &corpus(), block(4), 1).unwrap();
}

#[test]
fn the_standard_error_is_that_of_a_mean_when_documents_are_equally_long() {
    let totals = [1.0, 3.0, 5.0].map(|nll| Total { nll, tokens: 1 });
    let result = summarise(&totals).unwrap();
    assert_eq!((result.nll_per_token, result.tokens), (3.0, 3));
    assert!(
        (result.stderr - (4.0_f64 / 3.0).sqrt()).abs() < 1e-12,
        "sd 2 over sqrt(3)"
    );
}

#[test]
fn damaged_weights_are_an_error_and_not_a_number() {
    let mut model = model(LabelAlignment::Shifted);
    model.weights.norm.values_mut().f32s_mut()[0] = f32::NAN;
    let result = nll(&model, &corpus(), Mode::Ar, 1);
    assert!(
        matches!(result, Err(Error::NonFiniteLikelihood(_))),
        "{result:?}"
    );
}

#[test]
fn the_turns_of_a_conversation_are_measured_as_if_they_were_alone() {
    let ids: Vec<u32> = (0..22).map(|i| (i * 5 + 2) % 29).collect();
    let span = |range| Span {
        range,
        ends_turn: true,
    };
    let whole = Document::new(ids.clone(), vec![span(3..7), span(17..22)]);
    let first = Document::answer(ids[..7].to_vec(), 3);
    let second = Document::answer(ids, 17);
    let model = model(LabelAlignment::Same);
    let total = |document: &Document, mode| {
        // All draws of a block of 4 tokens: no noise is left to differ.
        let result = nll(&model, std::slice::from_ref(document), mode, 4).unwrap();
        (result.tokens, result.nll_per_token * result.tokens as f64)
    };
    for mode in [Mode::Ar, Mode::Block(BlockSize::new(4).unwrap())] {
        let (parts, whole) = (
            [total(&first, mode), total(&second, mode)],
            total(&whole, mode),
        );
        assert_eq!(whole.0, parts[0].0 + parts[1].0);
        let sum = parts[0].1 + parts[1].1;
        assert!(
            (whole.1 / sum - 1.0).abs() < 1e-5,
            "{mode:?}: {} and {sum}",
            whole.1
        );
    }
}
