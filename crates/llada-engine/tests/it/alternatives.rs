//! The most probable tokens of a place, told beside the one that was placed.

use llada_engine::{
    Alternative, Edit, Engine, Error, LabelAlignment, Method, Policy, Request, Sampling,
};
use llada_model::Input;

use crate::support::{DENSE, EOS, GOLDEN, MASK, endless, generate, options, prompt};

fn telling(request: Request, top_logprobs: usize) -> Request {
    Request {
        top_logprobs,
        ..request
    }
}

#[test]
fn an_answer_stays_the_same_and_its_tokens_are_the_most_probable() {
    let options = options(LabelAlignment::Same);
    let edits = Policy {
        edit: Edit::Above(0.3),
        ..endless(Vec::new(), 1, 8).policy
    };
    for (seed, policy) in [(1, endless(Vec::new(), 1, 8).policy), (2, edits)] {
        let plain = Request {
            policy,
            ..endless(prompt(13, seed), 40, 8)
        };
        let told = generate(&GOLDEN, &options, &telling(plain.clone(), 5));
        let untold = generate(&GOLDEN, &options, &plain);
        assert_eq!(told.output_ids, untold.output_ids);
        assert_eq!(told.trace, untold.trace);
        assert!(untold.alternatives.is_empty());
        assert_eq!(told.alternatives.len(), 40);
        for (place, alternatives) in told.alternatives.iter().enumerate() {
            assert_eq!(alternatives.len(), 5);
            assert!(alternatives.is_sorted_by(|a, b| a.logprob >= b.logprob));
            assert!(alternatives.iter().all(|a| a.token != MASK));
            assert_eq!(alternatives[0].token, told.output_ids[place]);
            let confidence = told.placed[place].confidence;
            assert!((alternatives[0].logprob.exp() - confidence).abs() < 1e-5);
        }
    }
}

#[test]
fn token_by_token_they_are_those_of_a_plain_forward() {
    let request = Request {
        method: Method::Autoregression,
        sampling: Sampling {
            temperature: 1.5,
            seed: 3,
            ..Sampling::default()
        },
        ..endless(prompt(9, 4), 20, 8)
    };
    let answer = generate(
        &DENSE,
        &options(LabelAlignment::Shifted),
        &telling(request.clone(), 3),
    );
    let ids = [request.prompt, answer.output_ids].concat();
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let hidden = DENSE.forward(&Input {
        ids: &ids,
        positions: &positions,
        ranges: &llada_diffusion::block_causal_ranges(ids.len(), llada_diffusion::BlockSize::ONE),
        outputs: &positions,
        dropout: None,
    });
    let logits = DENSE.logits(&hidden);
    for (place, told) in answer.alternatives.iter().enumerate() {
        let row = logits.row(9 + place - 1);
        let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
        let mut all: Vec<_> = row
            .iter()
            .zip(0..)
            .map(|(&z, token)| (f64::from(z) - sum.ln(), token))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (Alternative { token, logprob }, expected) in told.iter().zip(all) {
            assert_eq!(*token, expected.1);
            assert!((f64::from(*logprob) - expected.0).abs() < 1e-4);
        }
    }
}

#[test]
fn too_many_are_refused_and_any_where_positions_move() {
    let mut engine = Engine::new(&GOLDEN, options(LabelAlignment::Same)).unwrap();
    let field = |error| match error {
        Error::Field { field, found, .. } => (field, found),
        other => panic!("{other}"),
    };
    let many = telling(endless(prompt(9, 1), 8, 8), 21);
    let error = engine.submit(&many).unwrap_err();
    assert_eq!(field(error), ("top_logprobs", "21".to_owned()));
    let mut moving = telling(endless(prompt(9, 1), 8, 8), 1);
    moving.policy.edit = Edit::Revise {
        above: 0.5,
        delete_token_id: EOS - 1,
        split_token_id: EOS - 2,
    };
    let error = engine.submit(&moving).unwrap_err();
    assert_eq!(field(error), ("top_logprobs", "1".to_owned()));
}
