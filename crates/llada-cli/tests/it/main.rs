//! The program as a user runs it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod adapter;
mod bench;
mod clients;
mod commands;
mod data;
mod eval;
mod hub;
mod killed;
mod pipeline;
mod policy;
mod quantize;
mod readme;
mod refusals;
mod reopen;
mod requests;
mod serve;
mod structured;
mod talk;
mod training;
mod window;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs `llada` from the root of the repository.
fn llada(args: &[&str]) -> Output {
    llada_in(&root(), args)
}

fn llada_in(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llada"))
        .current_dir(dir)
        .args(args)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap()
}

/// Returns stdout of a command that must succeed.
fn stdout(args: &[&str]) -> String {
    let output = llada(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the exit code and stderr of a command that must fail.
fn failure(args: &[&str]) -> (i32, String) {
    let output = llada(args);
    let message = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().expect("the program ends by itself");
    assert!(
        code == 1 || code == 2,
        "{args:?} ended with {code}: {message}"
    );
    assert!(!message.contains("panicked"), "{message}");
    (code, message)
}

/// Forty tokens of the golden model, as JSON; the flags that a test adds follow.
const GENERATE_GOLDEN: [&str; 11] = [
    "generate",
    "testdata/golden/model",
    "--ids",
    "5,6,7,8,9",
    "--max-new-tokens",
    "40",
    "--json",
    "--mask-id",
    "511",
    "--eos-id",
    "510",
];

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}
