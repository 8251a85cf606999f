//! What surrounds a training run: its plan, import, report and merge.

use std::path::Path;

use crate::{failure, json, stdout};

const RECIPE: &str = "recipes/stories-sft-2core.toml";
/// The shipped child stands in for the checkpoint that the recipe starts from.
const CHILD: &str = "model.path=assets/stories-child";

const DFACTORY: &str = "model:\n  model_path: ./mini\ndata:\n  train_path: rows.jsonl\n  \
    noise_range_low: 0.3\n  noise_range_high: 0.8\ntrain:\n  lr: 1.0e-5\n  max_steps: 200\n  \
    global_batch_size: 8\n  block_diffusion_mode: true\n  same_token_labels: true\n";

/// Trains the shipped child for a few steps on pairs, every one validated and kept, and returns the
/// run directory.
fn short_run(dir: &Path) -> String {
    let run = dir.join("run").to_str().unwrap().to_owned();
    let settings = [
        "train.steps=3",
        "train.batch_documents=2",
        "train.eval_every=1",
        "train.eval_documents=4",
        "train.eval_draws=1",
        "train.checkpoint_every=1",
        "train.keep_last=3",
        "train.keep_best=1",
        "train.keep_best_metric=dpo_accuracy",
    ];
    let mut args = vec!["train", "recipes/dpo-stories-2core.toml", "--run-dir", &run];
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    stdout(&args);
    run
}

/// Writes metrics in which step 2 is best by every measure.
fn write_metrics(run: &str) {
    let row = |step: u64, bound: f64, accuracy: f64| {
        let valid = serde_json::json!({ "block_8": bound, "dpo_accuracy": accuracy });
        serde_json::json!({ "step": step, "loss": bound, "valid": valid }).to_string() + "\n"
    };
    let rows = row(1, 4.2, 0.6) + &row(2, 4.0, 0.9) + &row(3, 4.1, 0.7);
    std::fs::write(Path::new(run).join("metrics.jsonl"), rows).unwrap();
}

#[test]
fn the_best_checkpoints_of_a_run_are_merged_whichever_way_its_metric_points() {
    let dir = tempfile::tempdir().unwrap();
    let run = short_run(dir.path());
    write_metrics(&run);
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    let best = Path::new(&run).join("checkpoints/step-000002");
    for metric in ["block_8", "dpo_accuracy"] {
        let out = dir.path().join(metric);
        let place = ["--out", out.to_str().unwrap(), "--dtype", "f32"];
        let choice = ["--run", &run, "--metric", metric, "--best", "1"];
        stdout(&[&["merge"], &choice[..], &place].concat());
        assert_eq!(weights(&out), weights(&best), "{metric}");
        assert!(out.join("tokenizer.json").exists());
    }
    let out = dir.path().join("mean");
    let by_name = ["step-000001", "step-000003"].map(|step| format!("{run}/checkpoints/{step}"));
    let place = ["--out", out.to_str().unwrap()];
    stdout(&[&["merge", &by_name[0], &by_name[1]], &place[..]].concat());
    assert!(weights(&out).len() < weights(&best).len() * 6 / 10, "bf16");
}

#[test]
fn a_merge_by_what_is_no_measure_or_was_not_measured_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = short_run(dir.path());
    write_metrics(&run);
    let out = dir.path().join("merged");
    let merge = |metric: &str, best: &str| {
        let out = out.to_str().unwrap();
        failure(&[
            "merge", "--run", &run, "--metric", metric, "--best", best, "--out", out,
        ])
    };
    for metric in ["dpo_rejected_elbo", "score"] {
        let (code, message) = merge(metric, "1");
        assert_eq!(code, 2);
        for known in [metric, "`block_N`", "`dpo_accuracy`"] {
            assert!(message.contains(known), "{message}");
        }
    }
    let (_, message) = merge("block_32", "1");
    assert!(
        message.contains("it has `block_8`, `dpo_accuracy`"),
        "{message}"
    );
    let (_, message) = merge("block_8", "4");
    assert!(message.contains("has 3 checkpoints"), "{message}");
    assert!(!out.exists());
}

#[test]
fn a_report_holds_the_curves_of_every_run() {
    let dir = tempfile::tempdir().unwrap();
    let run = short_run(dir.path());
    let page = dir.path().join("page.html");
    stdout(&["report", &run, &run, "--out", page.to_str().unwrap()]);
    let html = std::fs::read_to_string(&page).unwrap();
    for title in ["Loss", "DPO margin", "Validation bound dpo_accuracy"] {
        assert!(html.contains(&format!("<h2>{title}")), "{title}");
    }
    let missing = dir.path().to_str().unwrap();
    let (code, message) = failure(&["report", missing]);
    assert_eq!(code, 1);
    assert!(message.contains("metrics.jsonl"), "{message}");
}

#[test]
fn a_plan_adds_up_and_needs_neither_data_nor_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let data = "data.train=missing.jsonl";
    let args = ["train", RECIPE, "--set", CHILD, "--set", data, "--plan"];
    let args = [&args[..], &["--run-dir", run.to_str().unwrap()]].concat();
    let plan = json(&stdout(&[&args[..], &["--json"]].concat()));
    let config = json(&stdout(&["inspect", "assets/stories-child", "--json"]));
    assert_eq!(plan["parameters"], config["parameters"]["total"]);
    let bytes = |key: &str| plan["bytes"][key].as_u64().unwrap();
    assert_eq!(bytes("weights"), 4 * plan["parameters"].as_u64().unwrap());
    let counted = bytes("weights") + bytes("gradients") + bytes("optimizer") + bytes("activations");
    assert!(bytes("total") > counted);
    assert!(stdout(&args).contains("rows per forward"));
    assert!(!run.exists());
}

#[test]
fn a_dfactory_file_becomes_a_recipe_that_can_be_planned() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = dir.path().join("sft.yaml");
    std::fs::write(&yaml, DFACTORY).unwrap();
    let recipe = stdout(&["train", "--import-dfactory", yaml.to_str().unwrap()]);
    assert!(recipe.contains("mask_ratio_band = [0.3, 0.8]"), "{recipe}");
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, recipe).unwrap();
    let args = ["train", path.to_str().unwrap(), "--set", CHILD, "--plan"];
    let plan = json(&stdout(&[&args[..], &["--json"]].concat()));
    assert_eq!(plan["steps"], 200);
}

#[test]
fn a_dfactory_key_without_a_counterpart_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = dir.path().join("sft.yaml");
    std::fs::write(&yaml, DFACTORY.to_owned() + "  log_steps: 5\n").unwrap();
    let yaml = yaml.to_str().unwrap();
    let (code, message) = failure(&["train", "--import-dfactory", yaml]);
    assert_eq!(code, 2);
    assert!(
        message.contains(yaml) && message.contains("train.log_steps"),
        "{message}"
    );
}
