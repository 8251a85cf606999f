//! Answers that must belong to a language.

use llada_engine::{
    Answer, Constraint, Engine, Event, FinishReason, Hooks, LabelAlignment, Method, Quota, Request,
    Sampling,
};

use crate::support::{DENSE, EOS, GOLDEN, endless, options, policy, prompt};

/// Ids that grow by at most 40, from below 40 on; it may end once they passed 200.
#[derive(Debug, Default)]
struct Growing {
    last: u32,
    is_ended: bool,
}

impl Growing {
    fn admits(last: u32, is_ended: bool, id: u32) -> bool {
        if id == EOS {
            return is_ended || last > 200;
        }
        !is_ended && id > last && id <= last + 40 && id < 400
    }
}

impl Constraint for Growing {
    fn allowed(&mut self) -> Result<Box<dyn Fn(u32) -> bool + '_>, String> {
        let (last, is_ended) = (self.last, self.is_ended);
        Ok(Box::new(move |id| Self::admits(last, is_ended, id)))
    }

    fn consume(&mut self, id: u32) -> bool {
        let admits = Self::admits(self.last, self.is_ended, id);
        if admits {
            self.is_ended |= id == EOS;
            self.last = if id == EOS { self.last } else { id };
        }
        admits
    }
}

fn growing() -> Hooks {
    Hooks {
        constraint: Some(Box::new(Growing::default())),
        ..Hooks::default()
    }
}

fn answer(model: &llada_model::Model, alignment: LabelAlignment, request: &Request) -> Answer {
    let mut engine = Engine::new(model, options(alignment)).unwrap();
    engine.submit_with(request, growing()).unwrap();
    loop {
        for event in engine.step() {
            match event {
                Event::Finished { answer, .. } => return answer,
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
}

fn assert_growing(answer: &Answer) {
    let mut language = Growing::default();
    for &id in &answer.output_ids {
        assert!(language.consume(id), "{:?}", answer.output_ids);
    }
    assert_eq!(
        language.is_ended,
        answer.finish_reason == FinishReason::Stop
    );
}

#[test]
fn answers_belong_to_the_language_whatever_the_model_wants() {
    for model in [&*GOLDEN, &*DENSE] {
        for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
            for seed in 0..6 {
                for threshold in [0.9, 0.01, -1.0] {
                    let request = Request {
                        ignore_eos: false,
                        policy: policy(threshold, Quota::MinTransfer(1)),
                        ..endless(prompt(5 + seed as usize, seed), 24, 8)
                    };
                    assert_growing(&answer(model, alignment, &request));
                }
            }
        }
    }
}

#[test]
fn causal_and_sampled_answers_belong_to_it_too() {
    for (method, temperature) in [
        (Method::Autoregression, 0.0),
        (Method::Autoregression, 1.0),
        (Method::BlockDiffusion, 1.0),
    ] {
        let request = Request {
            ignore_eos: false,
            method,
            sampling: Sampling {
                temperature,
                ..Sampling::default()
            },
            ..endless(prompt(9, 1), 30, 8)
        };
        assert_growing(&answer(&GOLDEN, LabelAlignment::Same, &request));
    }
}

#[test]
fn a_language_without_words_fails_the_request_and_no_other() {
    #[derive(Debug)]
    struct Nothing;
    impl Constraint for Nothing {
        fn allowed(&mut self) -> Result<Box<dyn Fn(u32) -> bool + '_>, String> {
            Err("it has no words".to_owned())
        }
        fn consume(&mut self, _: u32) -> bool {
            false
        }
    }
    let mut engine = Engine::new(&GOLDEN, options(LabelAlignment::Same)).unwrap();
    let request = endless(prompt(9, 1), 8, 8);
    let hooks = Hooks {
        constraint: Some(Box::new(Nothing)),
        ..Hooks::default()
    };
    let failing = engine.submit_with(&request, hooks).unwrap();
    let other = engine.submit(&request).unwrap();
    let mut ends = Vec::new();
    while !engine.is_idle() {
        for event in engine.step() {
            match event {
                Event::Failed { request, error } => ends.push((request, error.to_string())),
                Event::Finished { request, .. } => ends.push((request, "finished".to_owned())),
                _ => {}
            }
        }
    }
    let expected = "the answer cannot be constrained: it has no words".to_owned();
    assert_eq!(ends, [(failing, expected), (other, "finished".to_owned())]);
}
