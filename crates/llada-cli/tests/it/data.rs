//! Data and recipes before a run: `llada data check`, and recipes that do not fit their model.

use crate::{failure, llada, stdout};

const RECIPE: &str = "recipes/stories-sft-2core.toml";
/// The shipped child stands in for the checkpoint that the recipe starts from.
const CHILD: &str = "model.path=assets/stories-child";

#[test]
fn the_data_of_a_recipe_are_described_without_a_run() {
    let args = ["data", "check", RECIPE, "--set", CHILD];
    let json = stdout(&[&args[..], &["--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    for (set, rows) in [("train", 1500), ("valid", 150)] {
        let set = &report[set];
        assert_eq!(set["rows"], rows);
        assert_eq!(set["malformed_rows"], 0);
        let figure = |key: &str| set["lengths"][key].as_u64().unwrap();
        assert!(figure("min") < figure("p50") && figure("p50") < figure("p99"));
        assert!(figure("max") <= 512, "data.max_len");
        let share = set["supervised_share"].as_f64().unwrap();
        assert!((0.5..1.0).contains(&share), "{share}");
    }
    let table = stdout(&args);
    assert!(table.contains("rows cut at data.max_len"), "{table}");
}

#[test]
fn a_malformed_row_fails_the_check_and_is_still_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, "{\"text\": \"A cat.\"}\n{\"texts\": \"A dog.\"}\n").unwrap();
    let data = format!("data.train={}", path.display());
    let args = [
        "data", "check", RECIPE, "--set", CHILD, "--set", &data, "--json",
    ];
    let output = llada(&args);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["train"]["rows"], 2);
    assert_eq!(report["train"]["documents"], 1);
    let problem = report["train"]["problems"][0].as_str().unwrap();
    assert!(problem.contains("rows.jsonl` line 2"), "{problem}");
}

#[test]
fn a_recipe_that_mixes_weighted_and_plain_sources_is_refused() {
    let sources = r#"data.train=["a", {path = "b", weight = 2.0}]"#;
    let (code, message) = failure(&["data", "check", RECIPE, "--set", CHILD, "--set", sources]);
    assert_eq!(code, 2);
    assert!(
        message.contains("`data.train` must give all paths a weight"),
        "{message}"
    );
}

#[test]
fn a_setting_for_experts_is_refused_for_a_model_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let to = ["--run-dir", run_dir.to_str().unwrap()];
    let set = ["--set", CHILD, "--set", "optimizer.expert_bias_rate=0.001"];
    let (code, message) = failure(&[&["train", RECIPE], &to[..], &set].concat());
    assert_eq!(code, 2);
    assert!(message.contains("optimizer.expert_bias_rate"), "{message}");
    assert!(!run_dir.exists());
}

#[test]
fn right_answers_are_recorded_and_learned_in_fewer_steps() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (sums, recorded, run) = (path("sums.jsonl"), path("recorded.jsonl"), path("run"));
    stdout(&[
        "sums", "write", "--seed", "7", "--count", "12", "--out", &sums,
    ]);
    let child = "assets/worked-sums/child";
    let record = ["data", "record", child, "--task", "worked_sums", "--data"];
    let decoder = ["--threshold", "0.9", "--out", &recorded];
    stdout(&[&record[..], &[&sums], &decoder].concat());
    let text = std::fs::read_to_string(&recorded).unwrap();
    assert_eq!(
        text.lines().count(),
        12,
        "the shipped child solves all sums"
    );
    let generate = [
        "generate",
        child,
        "--json",
        "--return-steps",
        "--max-new-tokens",
        "96",
        "--threshold",
        "0.9",
    ];
    for (row, sum) in text
        .lines()
        .zip(std::fs::read_to_string(&sums).unwrap().lines())
    {
        let (row, sum) = (crate::json(row), crate::json(sum));
        let prompt = ["--prompt", sum["prompt"].as_str().unwrap()];
        let answer = crate::json(&stdout(&[&generate[..], &prompt].concat()));
        assert_eq!(row["steps"], answer["steps"]);
        let len = row["prompt_lengths"].as_u64().unwrap() as usize;
        let ids = row["input_ids"].as_array().unwrap();
        assert_eq!(ids[len..], answer["output_ids"].as_array().unwrap()[..]);
    }
    let settings = [
        format!("model.path={child}"),
        format!("data.train={recorded}"),
        "data.valid=[]".to_owned(),
        "train.steps=2".to_owned(),
        "train.batch_documents=4".to_owned(),
    ];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let train = [
        "train",
        "recipes/trajectory-sums-2core.toml",
        "--run-dir",
        &run,
    ];
    stdout(&train.into_iter().chain(settings).collect::<Vec<_>>());
    let (code, message) = failure(&[&record[..], &[&sums, "--trace"], &decoder].concat());
    assert!(code == 2 && message.contains("`trace`"), "{message}");
}
