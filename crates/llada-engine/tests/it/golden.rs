//! `generate.json`: decodes of the public reference code, forward by forward.
//!
//! The reference does not exclude MASK from its choices, the engine does. In these runs MASK is the
//! maximum of none of the 12,600 open rows, so the two agree.

use llada_engine::{
    Answer, FinishReason, LabelAlignment, Quota, Request, Schedule, generate_parity, reference,
};
use serde_json::Value;

use crate::support::{EOS, GOLDEN, MASK, generate, ids, options, policy, read_json, root};

pub(crate) fn runs() -> Vec<Value> {
    read_json("testdata/golden/generate.json")
        .as_array()
        .unwrap()
        .clone()
}

pub(crate) fn request(run: &Value) -> Request {
    assert_eq!(
        (run["mask_id"].as_u64(), run["eos_id"].as_u64()),
        (Some(511), Some(510))
    );
    let number = |name: &str| run[name].as_u64().unwrap() as usize;
    Request {
        block_length: Some(number("block_length")),
        policy: policy(
            run["threshold"].as_f64().unwrap() as f32,
            Quota::Steps(number("steps")),
        ),
        schedule: Schedule::Reference {
            eos_early_stop: run["eos_early_stop"].as_bool().unwrap(),
        },
        trace: true,
        ..Request::new(ids(&run["prompt"]), number("gen_length"))
    }
}

pub(crate) fn assert_equals(answer: &Answer, run: &Value, case: usize) {
    assert_eq!(
        answer.output_ids,
        ids(&run["output"]),
        "output of run {case}"
    );
    assert_eq!(
        Some(answer.forwards.denoise as u64),
        run["forwards"].as_u64(),
        "run {case}"
    );
    let trace = run["trace"].as_array().unwrap();
    assert_eq!(answer.trace.len(), trace.len(), "steps of run {case}");
    for (step, expected) in answer.trace.iter().zip(trace) {
        assert_eq!(
            Some(step.block as u64),
            expected["block"].as_u64(),
            "run {case}"
        );
        assert_eq!(
            Some(step.step as u64),
            expected["step"].as_u64(),
            "run {case}"
        );
        assert_eq!(
            step.ids,
            ids(&expected["state"]),
            "run {case} block {}",
            step.block
        );
    }
}

#[test]
fn the_oracle_reproduces_every_reference_decode_step_by_step() {
    for (case, run) in runs().iter().enumerate() {
        let options = options(LabelAlignment::Same);
        let answer = reference::generate(&GOLDEN, &options, &request(run)).unwrap();
        assert_equals(&answer, run, case);
    }
}

#[test]
fn the_cached_engine_reproduces_every_reference_decode_step_by_step() {
    let runs = runs();
    assert_eq!(runs.len(), 48);
    for (case, run) in runs.iter().enumerate() {
        let answer = generate(&GOLDEN, &options(LabelAlignment::Same), &request(run));
        assert_equals(&answer, run, case);
        assert_eq!(answer.forwards.commit, 0);
    }
}

#[test]
fn early_stop_gives_the_reference_text_in_no_more_forwards() {
    let mut saved = 0;
    for run in runs() {
        let request = Request {
            schedule: Schedule::Exact,
            ..request(&run)
        };
        let answer = generate(&GOLDEN, &options(LabelAlignment::Same), &request);
        assert_eq!(answer.output_ids, ids(&run["output"]));
        saved += run["forwards"].as_u64().unwrap() - answer.forwards.denoise as u64;
        let reason = match answer.output_ids.last() {
            Some(&EOS) => FinishReason::Stop,
            _ => FinishReason::Length,
        };
        assert_eq!(answer.finish_reason, reason);
        assert!(!answer.output_ids.contains(&MASK));
    }
    assert!(saved > 0);
}

#[test]
fn the_parity_report_counts_only_decodes_that_are_equal_in_everything() {
    let golden = root().join("testdata/golden");
    let report = generate_parity(&golden).unwrap();
    assert_eq!((report.equal, report.of), (48, 48));

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("model")).unwrap();
    for file in golden.join("model").read_dir().unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), dir.path().join("model").join(file.file_name())).unwrap();
    }
    let mut runs = runs();
    runs.truncate(4);
    runs[0]["output"][3] = 7.into();
    runs[1]["forwards"] = 1.into();
    runs[2]["trace"][4]["state"][0] = 9.into();
    let file = dir.path().join("generate.json");
    std::fs::write(&file, Value::from(runs).to_string()).unwrap();
    let report = generate_parity(dir.path()).unwrap();
    assert_eq!((report.equal, report.of), (1, 4));

    std::fs::write(&file, "[").unwrap();
    let message = generate_parity(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("generate.json`: EOF while parsing"),
        "{message}"
    );
}
