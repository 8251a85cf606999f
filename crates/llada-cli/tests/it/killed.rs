//! Trainings that are killed at random moments: nothing is lost but the time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use llada_diffusion::{Rng, Stream};
use serde_json::Value;

use crate::{root, stdout};

/// Kills in all: a handful, or with `LLADA_SLOW_TESTS=1` enough to meet rare moments.
fn num_kills() -> u32 {
    let is_slow = std::env::var("LLADA_SLOW_TESTS").is_ok_and(|value| value == "1");
    if is_slow { 50 } else { 6 }
}

/// A training that validates, saves, removes and chooses checkpoints all the time.
fn training(run: &Path, resume: bool) -> Command {
    let settings = [
        "model.path=assets/stories-child",
        "data.train=assets/stories/valid.jsonl",
        "train.steps=12",
        "optimizer.warmup_steps=2",
        "train.batch_documents=1",
        "train.eval_every=1",
        "train.eval_documents=1",
        "train.eval_draws=1",
        "train.checkpoint_every=1",
        "train.keep_last=1",
        "train.keep_best=1",
        "train.keep_best_metric=block_8",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_llada"));
    command
        .current_dir(root())
        .args(["train", "recipes/t2t-stories-2core.toml", "--run-dir"])
        .arg(run)
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .args(resume.then_some("--resume"))
        .stderr(Stdio::piped());
    command
}

fn finish(run: &Path, resume: bool) {
    let output = training(run, resume).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
}

/// Starts or goes on with a training and kills it `after` a while, unless it is done by then.
fn kill(run: &Path, resume: bool, after: Duration) {
    let mut child = training(run, resume).spawn().unwrap();
    std::thread::sleep(after);
    child.kill().unwrap(); // SIGKILL
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    let is_killed = output.status.code().is_none();
    assert!(is_killed || output.status.success(), "{message}");
}

fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = run.join("checkpoints").read_dir();
    let paths = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let is_complete = |path: &PathBuf| path.extension().is_none();
    let mut complete: Vec<_> = paths.filter(is_complete).collect();
    complete.sort();
    complete
}

/// Whether there is something to go on with; a run killed before that begins.
fn has_begun(run: &Path) -> bool {
    run.join("checkpoints").is_dir()
}

/// Reads all that a killed run left as complete.
fn assert_readable(run: &Path) {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let models = checkpoints(run).into_iter().chain([run.join("final")]);
    for model in models.filter(|path| path.exists()) {
        let out = text(&run.with_extension("logits"));
        let model = text(&model);
        let ids = ["--ids", "1,2", "--visibility", "block:8", "--out", &out];
        stdout(&[&["inspect", "logits", &model], &ids[..]].concat());
    }
    if run.join("config.toml").exists() {
        stdout(&["data", "check", &text(&run.join("config.toml"))]);
    }
    if run.join("metrics.jsonl").exists() {
        let page = text(&run.with_extension("html"));
        stdout(&["report", &text(run), "--out", &page]);
    }
}

/// The files of a finished run, without times.
fn result(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let dirs = checkpoints(run).into_iter().chain([run.join("final")]);
    for path in dirs.flat_map(|dir| dir.read_dir().unwrap()) {
        let path = path.unwrap().path();
        let name = path.strip_prefix(run).unwrap().to_str().unwrap().to_owned();
        let bytes = match name.ends_with("state.json") {
            true => without_times(&std::fs::read_to_string(&path).unwrap()).into(),
            false => std::fs::read(&path).unwrap(),
        };
        files.push((name, bytes));
    }
    files.sort();
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rows: Vec<String> = log.lines().map(without_times).collect();
    files.push(("metrics.jsonl".into(), rows.join("\n").into()));
    files
}

fn without_times(row: &str) -> String {
    let mut row: Value = serde_json::from_str(row).unwrap();
    let fields = row.as_object_mut().unwrap();
    for key in ["seconds", "elapsed_seconds", "tokens_per_second"] {
        fields.remove(key);
    }
    row.to_string()
}

#[test]
fn a_run_killed_at_random_moments_ends_as_if_nothing_had_happened() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let began = Instant::now();
    finish(&whole, false);
    let duration = began.elapsed();
    let expected = result(&whole);
    let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    let moments = Rng::new(1, Stream::Data);
    let moment = |number| duration.mul_f32(moments.uniform(0, 0, number));
    for number in (0..num_kills()).step_by(2) {
        let run = dir.path().join(format!("run-{number}"));
        let after = [moment(number), moment(number + 1)];
        for after in after {
            kill(&run, has_begun(&run), after);
            assert_readable(&run);
        }
        finish(&run, has_begun(&run));
        assert_readable(&run);
        let found = result(&run);
        assert_eq!(names(&found), names(&expected), "killed after {after:?}");
        assert!(found == expected, "killed after {after:?}");
        std::fs::remove_dir_all(&run).unwrap();
    }
}
