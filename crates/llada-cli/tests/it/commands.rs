//! What the commands print and write.

use crate::{json, llada, stdout};

const PARENT: &str = "assets/tinystories-656k";
const GOLDEN: &str = "testdata/golden/model";

#[test]
fn published_configurations_have_the_published_sizes() {
    let hub = "crates/llada-model/testdata/hub";
    for (file, total) in [
        ("llada2_mini.json", 16_255_643_392_u64),
        ("dfactory_flash.json", 102_889_705_216),
    ] {
        let description = json(&stdout(&["inspect", &format!("{hub}/{file}"), "--json"]));
        assert_eq!(description["parameters"]["total"], total, "{file}");
        assert_eq!(description["architecture"], "LLaDA2MoeModelLM");
    }
}

#[test]
fn golden_vectors_pass_through_the_program() {
    let report = json(&stdout(&["inspect", "parity", "testdata/golden", "--json"]));
    for (case, difference) in report["forward"].as_object().unwrap() {
        assert!(difference.as_f64().unwrap() < 5e-5, "{case}: {difference}");
    }
    assert_eq!(
        report["generate"],
        serde_json::json!({ "equal": 48, "of": 48 })
    );
    assert_eq!(report["train"].as_object().unwrap().len(), 8);
}

#[test]
fn logits_are_written_as_a_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits.safetensors");
    let out = out.to_str().unwrap();
    stdout(&[
        "inspect",
        "logits",
        PARENT,
        "--ids",
        "1,80,147",
        "--visibility",
        "causal",
        "--out",
        out,
    ]);
    let bytes = std::fs::read(out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("logits").unwrap().shape(), [3, 2048]);
}

#[test]
fn the_parent_writes_the_recorded_story() {
    let recorded =
        std::fs::read(crate::root().join("testdata/golden/tinystories-656k/expected.json"))
            .unwrap();
    let recorded: serde_json::Value = serde_json::from_slice(&recorded).unwrap();
    let answer = json(&stdout(&[
        "generate",
        PARENT,
        "--ar",
        "--prompt",
        recorded["prompt"].as_str().unwrap(),
        "--max-new-tokens",
        "256",
        "--json",
    ]));
    assert_eq!(answer["prompt_ids"], recorded["prompt_ids"]);
    let prompt_len = answer["prompt_ids"].as_array().unwrap().len();
    let ids = &recorded["greedy_ids"].as_array().unwrap()[prompt_len..];
    assert_eq!(answer["output_ids"].as_array().unwrap(), ids);
    assert_eq!(answer["finish_reason"], "stop");
}

#[test]
fn the_parents_likelihood_on_a_few_stories_is_the_recorded_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("three.jsonl");
    let all = std::fs::read_to_string(crate::root().join("assets/stories/valid.jsonl")).unwrap();
    let lines: Vec<&str> = all.lines().take(3).collect();
    std::fs::write(&data, lines.join("\n")).unwrap();
    let data = data.to_str().unwrap();
    let result = json(&stdout(&[
        "eval", "nll", PARENT, "--data", data, "--mode", "ar", "--json",
    ]));
    let expected = (658.682_495 + 369.416_095 + 866.757_020) / (193.0 + 149.0 + 248.0);
    assert_eq!(result["tokens"], 193 + 149 + 248);
    assert!((result["nll_per_token"].as_f64().unwrap() - expected).abs() < 1e-5);
}

#[test]
fn a_converted_child_starts_at_its_parents_likelihood() {
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("child");
    let child = child.to_str().unwrap();
    stdout(&[
        "convert",
        PARENT,
        child,
        "--block-size",
        "8",
        "--label-alignment",
        "shifted",
    ]);
    let data = dir.path().join("one.jsonl");
    std::fs::write(
        &data,
        r#"{"text": "Once upon a time there was a dog. He was big."}"#,
    )
    .unwrap();
    let data = data.to_str().unwrap();
    let nll = |model: &str, mode: &str| {
        let args = [
            "eval", "nll", model, "--data", data, "--mode", mode, "--json",
        ];
        json(&stdout(&args))["nll_per_token"].as_f64().unwrap()
    };
    assert!((nll(PARENT, "ar") - nll(child, "block:1")).abs() < 1e-4);
    let description = json(&stdout(&["inspect", child, "--json"]));
    assert_eq!(description["config"]["label_alignment"], "shifted");
    assert_eq!(description["config"]["block_size"], 8);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: &str| {
        stdout(&[
            "generate",
            GOLDEN,
            "--threads",
            threads,
            "--ids",
            "19,312,278",
            "--max-new-tokens",
            "40",
            "--mask-id",
            "511",
            "--block-length",
            "8",
            "--json",
        ])
    };
    assert_eq!(run("1"), run("2"));
}

#[test]
fn text_on_stdout_is_the_prompt_and_its_continuation() {
    let text = stdout(&[
        "generate",
        PARENT,
        "--ar",
        "--prompt",
        "Once upon a time",
        "--max-new-tokens",
        "8",
    ]);
    assert!(text.starts_with("Once upon a time"), "{text}");
    let help = llada(&["generate", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("--threshold"));
}

#[test]
fn a_reader_that_left_is_no_error() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_llada"))
        .current_dir(crate::root())
        .args(["generate", PARENT, "--ar", "--prompt", "Once upon a time"])
        .args(["--max-new-tokens", "100"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
}
