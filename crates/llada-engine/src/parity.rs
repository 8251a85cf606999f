//! Comparison with recorded decodes of the public reference code (`testdata/golden`).

use std::path::Path;

use llada_diffusion::{Acceptance, Policy, Quota};
use llada_model::{KeepDtype, Model, load};
use llada_tensor::Precision;
use serde::{Deserialize, Serialize};

use crate::{Answer, Engine, Error, Options, Request, Schedule, TraceStep};

/// How many recorded decodes are reproduced in all they record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GenerateParity {
    /// Decodes with the same output, number of forwards and block states.
    pub equal: usize,
    /// Decodes recorded.
    pub of: usize,
}

/// A recorded decode.
#[derive(Deserialize)]
struct Run {
    prompt: Vec<u32>,
    block_length: usize,
    steps: usize,
    threshold: f32,
    gen_length: usize,
    eos_early_stop: bool,
    eos_id: u32,
    mask_id: u32,
    output: Vec<u32>,
    forwards: usize,
    trace: Vec<State>,
}

/// A block after a forward.
#[derive(Deserialize)]
struct State {
    block: usize,
    step: usize,
    state: Vec<u32>,
}

/// Runs every decode of `generate.json` with the model beside it, in f32.
///
/// # Errors
/// If a file is missing or malformed, or the model cannot serve a request.
pub fn generate_parity(golden: &Path) -> Result<GenerateParity, Error> {
    let model = load(&golden.join("model"), Precision::F32, KeepDtype::F32)
        .map_err(|error| recorded(&golden.join("model"), &error))?;
    let model = Model::new(model.config, model.weights);
    let path = golden.join("generate.json");
    let text = std::fs::read_to_string(&path).map_err(|error| recorded(&path, &error))?;
    let runs: Vec<Run> = serde_json::from_str(&text).map_err(|error| recorded(&path, &error))?;
    let mut equal = 0;
    for run in &runs {
        equal += usize::from(run.equals(&run.decode(&model)?));
    }
    Ok(GenerateParity {
        equal,
        of: runs.len(),
    })
}

fn recorded(path: &Path, problem: &dyn std::error::Error) -> Error {
    Error::Recorded {
        path: path.into(),
        problem: problem.to_string(),
    }
}

impl Run {
    fn decode(&self, model: &Model) -> Result<Answer, Error> {
        let options = Options {
            mask_token_id: Some(self.mask_id),
            eos_token_ids: vec![self.eos_id],
            ..Options::new(&model.config)
        };
        let request = Request {
            block_length: Some(self.block_length),
            policy: Policy {
                acceptance: Acceptance::Threshold(self.threshold),
                quota: Quota::Steps(self.steps),
                ..Policy::default()
            },
            schedule: Schedule::Reference {
                eos_early_stop: self.eos_early_stop,
            },
            trace: true,
            ..Request::new(self.prompt.clone(), self.gen_length)
        };
        Engine::new(model, options)?.generate(&request, &mut |_| {})
    }

    fn equals(&self, answer: &Answer) -> bool {
        answer.output_ids == self.output
            && answer.forwards.denoise == self.forwards
            && answer.trace.len() == self.trace.len()
            && answer
                .trace
                .iter()
                .zip(&self.trace)
                .all(|(step, state)| state.equals(step))
    }
}

impl State {
    fn equals(&self, step: &TraceStep) -> bool {
        (self.block, self.step, &self.state) == (step.block, step.step, &step.ids)
    }
}
