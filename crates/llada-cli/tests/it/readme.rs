//! The commands of the README, run as it prints them.

use std::path::Path;

use crate::{llada_in, root};

/// A directory in which the README's relative paths work and runs go to a place of their own.
fn checkout() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["assets", "recipes"] {
        std::os::unix::fs::symlink(
            root().join(name).canonicalize().unwrap(),
            dir.path().join(name),
        )
        .unwrap();
    }
    dir
}

fn run(dir: &Path, words: &[&str]) -> String {
    let output = llada_in(dir, words);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "llada {words:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr
}

/// Splits a line as a shell does, for the quotes that the README uses.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().expect("starts with one word").push(c),
        }
    }
    words
}

#[test]
fn every_command_of_the_tour_works() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let commands: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("llada "))
        .collect();
    assert!(commands.len() >= 7, "{commands:?}");
    let dir = checkout();
    for command in commands {
        let words = words(command);
        run(
            dir.path(),
            &words.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn the_quick_demo_tells_the_whole_story() {
    let dir = checkout();
    let text = run(dir.path(), &["demo", "--quick"]);
    for command in [
        "llada generate",
        "llada eval nll",
        "llada convert",
        "llada train",
    ] {
        assert!(text.contains(&format!("$ {command}")), "{command}: {text}");
    }
    for file in ["config.toml", "metrics.jsonl", "final/model.safetensors"] {
        assert!(
            dir.path().join("runs/demo/stories").join(file).exists(),
            "{file}"
        );
    }
}
