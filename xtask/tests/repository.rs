//! Invariants of the repository: dependency arrows, paths in the documentation, unsafe code.
#![expect(
    clippy::unwrap_used,
    reason = "in a test, what cannot be read is a failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Lists files with this extension below a directory, without build outputs.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !matches!(name, "target" | ".git" | "runs") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What each crate may depend on. `train` and `engine` meet only in `model` and `diffusion`, and
/// nothing depends on `cli`.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("diffusion", &[]),
    ("hub", &[]),
    ("text", &[]),
    ("model", &["tensor", "diffusion"]),
    ("train", &["tensor", "model", "diffusion", "text"]),
    ("engine", &["tensor", "model", "diffusion"]),
    ("eval", &["engine", "model", "diffusion", "text"]),
    ("request", &["engine", "text"]),
    ("server", &["engine", "text", "request"]),
    (
        "cli",
        &[
            "tensor",
            "diffusion",
            "text",
            "model",
            "train",
            "engine",
            "eval",
            "hub",
            "request",
            "server",
        ],
    ),
];

/// Reads each crate's dependencies inside the workspace, names without the `llada-` prefix.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let short = |value: &Value| Some(value["name"].as_str()?.strip_prefix("llada-")?.to_owned());
    let mut arrows = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let shipped = dependencies.filter(|dependency| dependency["kind"] != "dev");
        if let Some(name) = short(package) {
            arrows.insert(name, shipped.filter_map(short).collect());
        }
    }
    arrows
}

#[test]
fn crates_depend_only_on_what_the_house_plan_allows() {
    let allowed: BTreeMap<_, _> = MAY_DEPEND_ON.iter().copied().collect();
    let arrows = arrows();
    assert!(
        arrows.contains_key("cli"),
        "cargo metadata lists the workspace: {arrows:?}"
    );
    for (name, dependencies) in arrows {
        let allowed = allowed.get(name.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("`llada-{name}` is not in the house plan"));
        for dependency in dependencies {
            assert!(
                allowed.contains(&dependency.as_str()),
                "`llada-{name}` must not depend on `llada-{dependency}`"
            );
        }
    }
}

/// Directories of the root, as documentation spells paths below them.
const TOP_DIRECTORIES: [&str; 10] = [
    ".cargo/",
    ".ci/",
    "assets/",
    "benches/",
    "crates/",
    "docs/",
    "fuzz/",
    "recipes/",
    "testdata/",
    "xtask/",
];

/// Finds what a Markdown text names as a path: words that start with a top directory, and the
/// targets of relative links. Returns each with the directory it is relative to.
fn named_paths<'a>(text: &'a str, dir: &'a Path) -> Vec<(&'a Path, &'a str)> {
    let word_end = |c: char| c.is_whitespace() || "`()[]|,;\"'".contains(c);
    let from_root = text
        .split(word_end)
        .filter(|word| TOP_DIRECTORIES.iter().any(|top| word.starts_with(top)))
        .map(|word| {
            word.split("::")
                .next()
                .unwrap()
                .trim_end_matches(['.', ':'])
        })
        // A pattern, a placeholder or an ellipsis names no single file.
        .filter(|word| !word.contains(['*', '<', '{', '$', '…']) && !word.contains("..."))
        .map(|word| (root(), word));
    let links = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains(':'))
        .map(|target| (dir, target));
    from_root.chain(links).collect()
}

#[test]
fn every_path_that_the_documentation_names_exists() {
    let mut missing = Vec::new();
    for file in files(root(), "md") {
        let text = fs::read_to_string(&file).unwrap();
        for (base, path) in named_paths(&text, file.parent().unwrap()) {
            if !base.join(path).exists() {
                missing.push(format!("{} names `{path}`", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn paths_are_found_in_prose_code_and_links() {
    let text = "See `crates/a/b.rs::f`, docs/x.md. Run `cargo run -- train recipes/y.toml`.\n\
                [a](../c.md#part) [b](https://example.org/docs/) `docs/*.md`";
    let dir = Path::new("docs/algorithms");
    let expected = [
        (root(), "crates/a/b.rs"),
        (root(), "docs/x.md"),
        (root(), "recipes/y.toml"),
        (dir, "../c.md"),
    ];
    assert_eq!(named_paths(text, dir), expected);
}

/// Returns whether a line of Rust has the keyword outside a comment.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap();
    // A hyphen joins words in the names of flags.
    code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
        .any(|word| word == "unsafe")
}

#[test]
fn only_the_tensor_crate_has_unsafe_code() {
    let mut found = Vec::new();
    for top in ["crates", "fuzz", "xtask/src"] {
        let tensor = root().join("crates/llada-tensor");
        for file in files(&root().join(top), "rs")
            .iter()
            .filter(|file| !file.starts_with(&tensor))
        {
            let text = fs::read_to_string(file).unwrap();
            let lines = text.lines().enumerate().filter(|(_, line)| is_unsafe(line));
            found.extend(lines.map(|(i, line)| format!("{}:{}: {line}", file.display(), i + 1)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_text_has_the_marks_of_an_unfinished_merge() {
    let kinds = ["md", "rs", "toml", "sh", "py", "js", "html", "yml", "yaml"];
    let marks = ["<<<<<<< ", ">>>>>>> "];
    for file in kinds.iter().flat_map(|kind| files(root(), kind)) {
        let text = fs::read_to_string(&file).unwrap();
        let marked = text
            .lines()
            .position(|line| marks.iter().any(|mark| line.starts_with(mark)));
        assert_eq!(marked, None, "{}, a line counted from 0", file.display());
    }
}

#[test]
fn unsafe_code_is_told_from_words_like_it() {
    assert!(is_unsafe("let x = unsafe { f() };"));
    assert!(!is_unsafe("#![forbid(unsafe_code)] // no unsafe here"));
    assert!(!is_unsafe("`--unsafe-exec` runs programs"));
}
