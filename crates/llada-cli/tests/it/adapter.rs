//! An adapter from its recipe to text: trained, killed, resumed, merged.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json as object;

use crate::clients::{Serving, ask};
use crate::{failure, json, root, stdout};

const RECIPE: &str = "recipes/lora-stories-2core.toml";
const BASE: &str = "assets/stories-child";
const STEPS: &str = "train.steps=12";
const FACTORS: &str = "final/adapter/adapter_model.safetensors";
const MODEL: &str = "final/model.safetensors";

/// A run of the recipe that is short but keeps its checkpoints.
fn args(run_dir: &Path) -> Vec<String> {
    let mut args = vec!["train".into(), RECIPE.into()];
    args.extend(["--run-dir".into(), run_dir.display().to_string()]);
    for set in [
        STEPS,
        "train.batch_documents=2",
        "train.checkpoint_every=3",
        "train.eval_every=0",
        "train.eval_documents=2",
    ] {
        args.extend(["--set".into(), set.into()]);
    }
    args
}

fn train(run_dir: &Path, more: &[&str]) {
    let args = args(run_dir);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    stdout(&[&args[..], more].concat());
}

/// Starts the run and kills it when its first checkpoint is there.
fn train_until_killed(run_dir: &Path) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_llada"))
        .current_dir(root())
        .args(args(run_dir))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (first, began) = (run_dir.join("checkpoints/step-000003"), Instant::now());
    while !first.exists() && began.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.exists(), "no checkpoint after two minutes");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_adapter_survives_a_kill_and_is_merged_into_what_generates() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    train(&path("whole"), &[]);
    train_until_killed(&path("killed"));
    train(&path("killed"), &["--resume"]);
    let same = |a: &str, b: &str| {
        assert!(
            std::fs::read(path(a)).unwrap() == std::fs::read(path(b)).unwrap(),
            "{a} and {b} differ"
        );
    };
    for file in [FACTORS, MODEL, "final/adapter/adapter_config.json"] {
        same(&format!("whole/{file}"), &format!("killed/{file}"));
    }

    let (adapter, merged) = (path("whole/final/adapter"), path("merged"));
    let (adapter, merged) = (text(&adapter), text(&merged));
    stdout(&["merge", BASE, "--adapter", adapter, "--out", merged]);
    for file in ["model.safetensors", "config.json"] {
        same(&format!("merged/{file}"), &format!("whole/final/{file}"));
    }

    let written = |model: &str| {
        let prompt = ["--prompt", "Once upon a time", "--max-new-tokens", "16"];
        stdout(&[&["generate", model][..], &prompt].concat())
    };
    assert_eq!(written(merged), written(text(&path("whole/final"))));
    assert_ne!(
        std::fs::read(path("whole").join(MODEL)).unwrap(),
        std::fs::read(root().join(BASE).join("model.safetensors")).unwrap()
    );
}

#[test]
fn an_adapter_is_served_by_name_beside_its_base() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), &["--set", "optimizer.lr=0.1"]);
    let adapter = dir.path().join("final/adapter");
    let lora = format!("tuned={}", adapter.display());
    let of_base = format!("tuned@base={}", adapter.display());
    let base = format!("{BASE}:base");
    let other = "assets/worked-sums/child:other";
    let serving = Serving::start(&[other, &base, "--lora", &of_base]);
    let prompt = "Once upon a time";
    let served = |model: &str| {
        let body = object!({ "model": model, "prompt": prompt, "max_tokens": 16 });
        let answer = ask(&serving.address, "POST /v1/completions", &body.to_string()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        let text = &json(body)["choices"][0]["text"];
        text.as_str().unwrap().trim().to_owned()
    };
    let generated = |model: &str| {
        let args = [
            "generate",
            model,
            "--prompt",
            prompt,
            "--max-new-tokens",
            "16",
        ];
        let text = stdout(&args);
        text.trim().strip_prefix(prompt).unwrap().trim().to_owned()
    };
    let merged = dir.path().join("final");
    assert_eq!(served("base"), generated(BASE));
    assert_eq!(served("tuned"), generated(text(&merged)));
    assert_ne!(served("tuned"), served("base"));
    let models = ask(&serving.address, "GET /v1/models", "").unwrap();
    assert!(models.contains("\"tuned\""), "{models}");

    for (args, word) in [
        (
            &["serve", "assets/worked-sums/child", "--lora", &lora][..],
            "of another base",
        ),
        (&["serve", BASE, &base, "--lora", &lora], "tuned@"),
        (&["serve", BASE, "--lora", "a@b=c"], "no MODEL is named `b`"),
        (&["serve", BASE, "--lora", "no-such-adapter"], "NAME=DIR"),
        (
            &["serve", BASE, "--lora", "a=no-such-adapter"],
            "no-such-adapter",
        ),
    ] {
        let (code, message) = failure(args);
        assert_eq!(code, 2, "{args:?}: {message}");
        assert!(message.contains(word), "{args:?}: {message}");
    }
}

#[test]
fn an_adapter_of_another_base_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (run, out) = (dir.path().join("run"), dir.path().join("out"));
    train(&run, &["--set", "train.steps=6"]);
    let adapter = run.join("final/adapter");
    let (adapter, out) = (text(&adapter), text(&out));
    let golden = "testdata/golden/model";
    let (code, message) = failure(&["merge", golden, "--adapter", adapter, "--out", out]);
    assert_eq!(code, 2);
    assert!(
        message.contains("`model.layers.0.mlp.gate_proj.weight` as [384, 128]"),
        "{message}"
    );
    assert!(!Path::new(out).exists());
    let (code, message) = failure(&["merge", BASE, BASE, "--adapter", adapter, "--out", out]);
    assert_eq!(code, 2);
    assert!(message.contains("takes one checkpoint"), "{message}");
}

#[test]
fn freezing_what_is_not_there_is_a_usage_error() {
    let set = "model.freeze=[\"router\"]";
    let changes = ["--set", "lora.rank=8", "--set", set];
    let recipe = "recipes/dpo-stories-2core.toml";
    let (code, message) = failure(&["train", recipe, "--plan", "--set", set]);
    assert_eq!(code, 2);
    assert!(message.contains("names `router`"), "{message}");
    let (code, message) = failure(&[&["train", recipe, "--plan"], &changes[..]].concat());
    assert_eq!(code, 2);
    assert!(message.contains("`model.freeze`"), "{message}");
}

#[test]
fn a_plan_says_how_little_an_adapter_trains() {
    let plan = json(&stdout(&["train", RECIPE, "--plan", "--json"]));
    // Attention, and three matrices of 128 by 384, in each of two layers.
    let trained = 2 * 8 * ((128 + 256) + (128 + 128) + 3 * (128 + 384));
    assert_eq!(plan["trained"], trained);
    assert_eq!(plan["bytes"]["optimizer"], 8 * trained);
}
