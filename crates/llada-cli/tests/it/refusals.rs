//! Bad input: a clear message, exit code 1 or 2, nothing lost.

use std::path::Path;

use crate::{failure, root};

const PARENT: &str = "assets/tinystories-656k";
const GOLDEN: &str = "testdata/golden/model";

/// A copy of the real parent in which one file is replaced.
fn damaged(dir: &Path, file: &str, content: &[u8]) -> String {
    for entry in root().join(PARENT).read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    std::fs::write(dir.join(file), content).unwrap();
    dir.to_str().unwrap().to_owned()
}

#[test]
fn a_flag_or_a_value_that_does_not_exist_is_refused_by_the_name_of_the_flag() {
    for flag in ["--edit", "--mode", "--quant"] {
        let (code, message) = failure(&["generate", PARENT, "--prompt", "a", flag, "x"]);
        assert_eq!(code, 2);
        assert!(message.contains(flag), "{message}");
    }
}

#[test]
fn an_unknown_architecture_is_named_with_the_known_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, r#"{"architectures": ["GPT5"]}"#).unwrap();
    let (code, message) = failure(&["inspect", path.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(
        message.contains("GPT5") && message.contains("LLaDA2MoeModelLM"),
        "{message}"
    );
}

#[test]
fn truncated_weights_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(root().join(PARENT).join("model.safetensors")).unwrap();
    let model = damaged(dir.path(), "model.safetensors", &whole[..whole.len() / 2]);
    let (_, message) = failure(&["generate", &model, "--ar", "--prompt", "a"]);
    assert!(message.contains("model.safetensors"), "{message}");
}

#[test]
fn a_tokenizer_larger_than_the_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = std::fs::read_to_string(root().join(PARENT).join("tokenizer.json")).unwrap();
    let larger = tokenizer.replacen(
        "\"<|end_story|>\": 2",
        "\"<|end_story|>\": 2, \"qzqz\": 4000",
        1,
    );
    assert_ne!(tokenizer, larger);
    let model = damaged(dir.path(), "tokenizer.json", larger.as_bytes());
    let data = root().join("assets/stories/valid.jsonl");
    let args = [
        "eval",
        "nll",
        &model,
        "--data",
        data.to_str().unwrap(),
        "--mode",
        "ar",
    ];
    let (_, message) = failure(&args);
    assert!(message.contains("4000"), "{message}");
}

#[test]
fn data_that_is_empty_or_not_utf8_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for content in [&b""[..], b"{\"text\": \"\xff\"}"] {
        let path = dir.path().join("data.jsonl");
        std::fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap();
        let (_, message) = failure(&["eval", "nll", PARENT, "--data", path, "--mode", "ar"]);
        assert!(message.contains("data.jsonl"), "{message}");
    }
}

#[test]
fn requests_that_do_not_fit_the_model_are_refused_by_field() {
    let base = [
        "generate",
        GOLDEN,
        "--mask-id",
        "511",
        "--block-length",
        "8",
    ];
    let cases: [(&[&str], &str); 5] = [
        (&["--ids", "1,511"], "511"),
        (&["--ids", "1,600"], "600"),
        (&["--ids", "1", "--max-new-tokens", "100000"], "context"),
        (&["--ids", "1", "--top-p", "1.5"], "top_p"),
        (&["--ids", "1", "--threshold", "nan"], "threshold"),
    ];
    for (extra, word) in cases {
        let (code, message) = failure(&[&base[..], extra].concat());
        assert_eq!(code, 2, "{message}");
        assert!(message.contains(word), "{extra:?}: {message}");
    }
}

#[test]
fn a_checkpoint_without_a_mask_token_asks_for_one() {
    let (code, message) = failure(&["generate", GOLDEN, "--ids", "1", "--block-length", "8"]);
    assert_eq!(code, 2);
    assert!(message.contains("--mask-id"), "{message}");
}

#[test]
fn an_unknown_recipe_key_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = std::fs::read_to_string(root().join("recipes/stories-demo-2core.toml")).unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, recipe + "warp = 9\n").unwrap();
    let run_dir = dir.path().join("run");
    let args = [
        "train",
        path.to_str().unwrap(),
        "--run-dir",
        run_dir.to_str().unwrap(),
    ];
    let (code, message) = failure(&args);
    assert_eq!(code, 2);
    assert!(message.contains("warp"), "{message}");
    assert!(!run_dir.exists());
}

#[test]
fn convert_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine"), "kept").unwrap();
    failure(&["convert", PARENT, dir.path().to_str().unwrap()]);
    assert_eq!(
        std::fs::read_to_string(dir.path().join("mine")).unwrap(),
        "kept"
    );
}
