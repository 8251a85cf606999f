//! Policy optimisation on worked sums: prompts, the engine's answers, rewards and updates together.

use std::path::Path;

use crate::{failure, json, llada, root, stdout};

const RECIPE: &str = "recipes/ebpo-sums-2core.toml";

/// Writes sums into a directory and returns the arguments of a short run on them. The child that is shipped
/// solves all sums, so it is made to err by a high temperature.
fn short_run(dir: &Path) -> Vec<String> {
    let sums = |name: &str, seed: &str, count: &str| {
        let path = dir.join(name).to_str().unwrap().to_owned();
        let stream = ["--seed", seed, "--count", count, "--out", &path];
        stdout(&[&["sums", "write"], &stream[..]].concat());
        path
    };
    let settings = [
        "model.path=assets/worked-sums/child".to_owned(),
        format!("data.train={}", sums("train.jsonl", "7", "20")),
        format!("data.valid={}", sums("valid.jsonl", "3", "4")),
        "ebpo.temperature=4".to_owned(),
        "ebpo.group_size=4".to_owned(),
        "train.batch_documents=3".to_owned(),
        "train.eval_every=2".to_owned(),
        "optimizer.schedule=constant".to_owned(), // the others know where they end
    ];
    let mut args = vec!["train".to_owned(), RECIPE.to_owned()];
    args.extend(settings.into_iter().flat_map(|one| ["--set".into(), one]));
    args
}

/// Runs the steps up to `steps` in a directory.
fn train(args: &[String], run: &Path, steps: u32, more: &[&str]) {
    let steps = format!("train.steps={steps}");
    let place = ["--run-dir", run.to_str().unwrap(), "--set", &steps];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    stdout(&[&args[..], &place, more].concat());
}

#[test]
fn a_run_is_the_same_in_one_piece_or_two_and_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let args = short_run(dir.path());
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    train(&args, &whole, 4, &["--threads", "1"]);
    train(&args, &parts, 2, &["--threads", "2"]);
    train(&args, &parts, 4, &["--threads", "2", "--resume"]);
    let weights = |run: &Path| std::fs::read(run.join("final/model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&parts));
    let rows = |run: &Path| {
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let rows = text.lines().map(json).map(|mut row| {
            for timed in ["tokens_per_second", "elapsed_seconds"] {
                row.as_object_mut().unwrap().remove(timed);
            }
            row
        });
        rows.collect::<Vec<_>>()
    };
    assert_eq!(rows(&whole), rows(&parts));
    let [first, second, ..] = &rows(&whole)[..] else {
        panic!("four steps")
    };
    for key in [
        "ebpo_reward",
        "ebpo_compared",
        "ebpo_ratio",
        "ebpo_clipped",
        "ebpo_tpf",
    ] {
        assert!(first[key].as_f64().is_some_and(f64::is_finite), "{key}");
    }
    assert!(first["ebpo_compared"].as_f64().unwrap() > 0.0, "{first}");
    assert_ne!(
        first["ebpo_ratio"], 1.0,
        "the second update sees another policy"
    );
    assert_eq!(
        second["valid"]["ebpo_reward"], 1.0,
        "held-out sums are answered greedily"
    );
    let report = std::fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(report.contains("<h2>Reward"));
}

#[test]
fn an_adapter_practises_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = short_run(dir.path());
    for setting in ["lora.rank=4", "lora.dropout=0", "optimizer.lr=1e-3"] {
        args.extend(["--set".to_owned(), setting.to_owned()]);
    }
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    train(&args, &whole, 4, &[]);
    train(&args, &parts, 2, &[]);
    train(&args, &parts, 4, &["--resume"]);
    for file in ["model.safetensors", "adapter/adapter_model.safetensors"] {
        let bytes = |run: &Path| std::fs::read(run.join("final").join(file)).unwrap();
        assert!(bytes(&whole) == bytes(&parts), "{file}");
    }
    let text = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let rows: Vec<_> = text.lines().map(json).collect();
    let compared = |row: &serde_json::Value| row["ebpo_compared"].as_f64() > Some(0.0);
    let learned: Vec<_> = rows.iter().filter(|row| compared(row)).collect();
    assert!(!learned.is_empty());
    for row in learned {
        assert!(row["grad_norm"].as_f64() > Some(0.0), "{row}");
        assert_ne!(
            row["ebpo_ratio"], 1.0,
            "the second update sees another policy"
        );
    }
}

#[test]
fn a_prompt_with_mask_is_refused_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let (child, run) = (dir.path().join("child"), dir.path().join("run"));
    std::fs::create_dir(&child).unwrap();
    for file in std::fs::read_dir(root().join("assets/worked-sums/child")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), child.join(file.file_name())).unwrap();
    }
    let path = child.join("tokenizer_config.json");
    let mut config = json(&std::fs::read_to_string(&path).unwrap());
    config["chat_template"] = "{{ messages[0].content }}<|mask|>".into();
    std::fs::write(&path, config.to_string()).unwrap();
    let mut args = short_run(dir.path());
    let model = format!("model.path={}", child.display());
    args.extend(["--set".to_owned(), model, "--run-dir".to_owned()]);
    args.push(run.to_str().unwrap().to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (code, message) = failure(&args);
    assert_eq!(code, 2, "{message}");
    for words in ["train.jsonl`, item 0", "holds the MASK id 16"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(!run.exists());
}

#[test]
fn a_plan_counts_answers_and_levels_and_needs_no_data() {
    let child = "model.path=assets/worked-sums/child";
    let plan = |more: &[&str]| {
        let args = ["train", RECIPE, "--plan", "--json", "--set", child];
        json(&stdout(&[&args[..], more].concat()))
    };
    assert_eq!(plan(&[])["tokens_per_step"], 32 * 8 * 128);
    let fewer = plan(&["--set", "ebpo.group_size=2", "--set", "ebpo.levels=[0.5]"]);
    assert_eq!(fewer["tokens_per_step"], 32 * 2 * 128);
    assert!(fewer["bytes"]["activations"].as_u64() < plan(&[])["bytes"]["activations"].as_u64());
}

#[test]
fn what_cannot_be_practised_is_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let args = short_run(dir.path());
    let run = dir.path().join("run");
    for (setting, words) in [
        ("ebpo.task=sum", ["ebpo.task", "worked_sums"]),
        ("ebpo.task=ppl", ["ebpo.task", "likelihoods"]),
        ("ebpo.task=gsm8k", ["train.jsonl", "`question`"]),
        ("ebpo.decoder={warmth=1}", ["ebpo.decoder", "warmth"]),
        ("ebpo.decoder={trace=true}", ["ebpo.decoder", "trace"]),
        ("ebpo.decoder={low=0.1}", ["low", "acceptance"]),
        ("data.max_len=64", ["data.max_len", "max_new_tokens"]),
        ("ebpo.group_size=1", ["ebpo.group_size", "at least 2"]),
        (
            "model.path=assets/worked-sums/parent",
            ["mask_token_id", "llada convert"],
        ),
        (
            "train.keep_best=1",
            ["train.keep_best_metric", "must be given"],
        ),
    ] {
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(["--run-dir", run.to_str().unwrap(), "--set", setting]);
        let (_, message) = failure(&args);
        for word in words {
            assert!(message.contains(word), "{setting}: {message}");
        }
        let code = llada(&args).status.code();
        assert_eq!(code, Some(2), "{setting}: {message}");
    }
    assert!(!run.exists());
    let (code, message) = failure(&["data", "check", RECIPE]);
    assert!(code == 2 && message.contains("rows of a task"), "{message}");
}

#[test]
fn countdown_rows_are_solved_by_their_responses() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("plain_countdown.jsonl");
    let rows = rows.to_str().unwrap();
    stdout(&[
        "sums",
        "write",
        "--countdown",
        "--seed",
        "3",
        "--count",
        "5",
        "--out",
        rows,
    ]);
    let text = std::fs::read_to_string(rows).unwrap();
    let answers = (0..).zip(text.lines().map(json));
    let answers = answers.map(|(id, row)| {
        serde_json::json!({ "id": id, "answer": row["response"] }).to_string() + "\n"
    });
    let answered = dir.path().join("answers.jsonl");
    std::fs::write(&answered, answers.collect::<String>()).unwrap();
    let out = dir.path().join("scored");
    let task = ["--task", "plain_countdown", "--data", rows, "--json"];
    let files = [
        "--answers",
        answered.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let score = json(&stdout(&[&["eval", "score"], &task[..], &files].concat()));
    assert_eq!((&score["n"], &score["correct"]), (&5.into(), &5.into()));
}
