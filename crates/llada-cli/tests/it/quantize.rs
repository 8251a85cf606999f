//! `quantize`, and GGUF files wherever a checkpoint is expected.

use std::path::Path;

use serde_json::Value;

use crate::{GENERATE_GOLDEN, failure, json, llada, llada_in, root, stdout};

const STORIES: &str = "assets/stories-child";
const PARENT: &str = "assets/tinystories-656k";
const GOLDEN: &str = "testdata/golden/model";
const TEXT: &str = "assets/stories/valid.jsonl";

/// Writes a checkpoint as a file in `dir`; returns its path and the report.
fn quantize(dir: &Path, input: &str, kind: &str, flags: &[&str]) -> (String, Value) {
    let path = dir.join(format!("{kind}.gguf"));
    let path = path.to_str().unwrap().to_owned();
    let args = ["quantize", input, &path, "--type", kind, "--json"];
    let report = json(&stdout(&[&args, flags].concat()));
    (path, report)
}

/// Returns the entry of a group.
fn group<'a>(report: &'a Value, name: &str) -> &'a Value {
    let groups = report["groups"].as_array().unwrap();
    groups.iter().find(|group| group["group"] == name).unwrap()
}

#[test]
fn a_report_tells_size_and_error_of_every_group() {
    let dir = tempfile::tempdir().unwrap();
    let (path, report) = quantize(dir.path(), GOLDEN, "q8_0", &[]);
    assert_eq!(report["file"], path.as_str());
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert_eq!(report["bytes"], bytes);
    let groups = report["groups"].as_array().unwrap();
    let sum = |key: &str| {
        groups
            .iter()
            .map(|group| group[key].as_u64().unwrap())
            .sum::<u64>()
    };
    let parameters = &json(&stdout(&["inspect", GOLDEN, "--json"]))["parameters"]["total"];
    assert_eq!(*parameters, sum("weights"));
    assert!(sum("bytes") < bytes);
    for (name, kind, least, most) in [
        ("experts", "q8_0", 1e-3, 1e-2),
        ("head", "q8_0", 1e-3, 1e-2),
        ("router", "f32", 0.0, 0.0),
        ("norms", "f32", 0.0, 0.0),
    ] {
        let group = group(&report, name);
        assert_eq!(group["type"], kind);
        let error = group["relative_error"].as_f64().unwrap();
        assert!((least..=most).contains(&error), "{name}: {error}");
    }
    assert_eq!(report["nll_per_token"], Value::Null);
}

#[test]
fn kept_groups_have_their_own_type() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [
        "--keep",
        "head=q8_0,router,attention=f16",
        "--keep",
        "embedding",
    ];
    let (path, report) = quantize(dir.path(), GOLDEN, "q4_0", &flags);
    for (name, kind) in [
        ("head", "q8_0"),
        ("router", "f32"),
        ("attention", "f16"),
        ("embedding", "bf16"), // the checkpoint's own
        ("experts", "q4_0"),
    ] {
        assert_eq!(group(&report, name)["type"], kind, "{name}");
    }
    let inspected = json(&stdout(&["inspect", &path, "--json"]));
    assert_eq!(inspected["tensors"]["output.weight"]["type"], "q8_0");
    assert_eq!(inspected["tensors"]["token_embd.weight"]["type"], "bf16");
    assert_eq!(inspected["keys"]["general.architecture"], "llada2");
    assert!(inspected["bytes_by_type"]["q4_0"].as_u64() > Some(0));
}

#[test]
fn likelihood_is_measured_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let text = root().join(TEXT);
    let text = std::fs::read_to_string(text).unwrap();
    let few: Vec<_> = text.lines().take(3).collect();
    let data = dir.path().join("few.jsonl");
    std::fs::write(&data, few.join("\n")).unwrap();
    let data = data.to_str().unwrap();
    let (path, report) = quantize(dir.path(), STORIES, "q8_0", &["--text", data]);
    let at = |key: &str| report["nll_per_token"][key].as_f64().unwrap();
    let (before, after) = (at("before"), at("after"));
    assert!(
        1.0 < before && before < 6.0 && (after - before).abs() < 0.05,
        "{report}"
    );
    let ar = |model: &str| {
        let args = [
            "eval", "nll", model, "--data", data, "--mode", "block:8", "--draws", "2", "--json",
        ];
        json(&stdout(&args))["nll_per_token"].as_f64().unwrap()
    };
    assert!((ar(STORIES) - ar(&path)).abs() < 0.05);
}

#[test]
fn a_file_of_exact_values_writes_what_its_checkpoint_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (golden, _) = quantize(dir.path(), GOLDEN, "bf16", &[]);
    let mut args = GENERATE_GOLDEN.to_vec();
    args.extend(["--block-length", "8"]);
    let expected = json(&stdout(&args));
    args[1] = &golden;
    assert_eq!(json(&stdout(&args))["ids"], expected["ids"]);
    let (parent, _) = quantize(dir.path(), PARENT, "f32", &[]);
    let generate = |model: &str| {
        stdout(&[
            "generate",
            model,
            "--ar",
            "--prompt",
            "One day",
            "--max-new-tokens",
            "40",
        ])
    };
    assert_eq!(generate(&parent), generate(PARENT));
}

#[test]
fn a_file_is_a_checkpoint_to_bench_and_chat() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = quantize(dir.path(), STORIES, "q8_0", &[]);
    let requests = dir.path().join("requests.jsonl");
    std::fs::write(&requests, r#"{"prompt": "One day", "max_new_tokens": 16}"#).unwrap();
    let requests = requests.to_str().unwrap();
    let report = json(&stdout(&[
        "bench",
        "--concurrency",
        "1",
        &model,
        "--requests",
        requests,
        "--json",
    ]));
    assert_eq!(report["requests"], 1);
    let (out, err) = crate::talk::chat(&[&model, "--max-new-tokens", "16"], "One day\n");
    assert!(out.trim().len() > 10, "{out}{err}");
}

#[test]
fn a_file_is_quantised_again() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = quantize(dir.path(), STORIES, "q8_0", &[]);
    let (second, report) = quantize(dir.path(), &first, "bf16", &[]);
    assert_eq!(group(&report, "attention")["type"], "bf16");
    let third = dir.path().join("third.gguf");
    let third = third.to_str().unwrap();
    stdout(&["quantize", &first, third, "--type", "q8_0"]);
    assert_eq!(
        std::fs::read(third).unwrap(),
        std::fs::read(&first).unwrap()
    );
    assert!(llada(&["inspect", &second]).status.success());
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let out = out.to_str().unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&[STORIES, out, "--type", "q3_k"], "q3_k"),
        (&[STORIES, out], "--type"),
        (&[STORIES, out, "--type", "q4_0", "--keep", "tail"], "tail"),
        (&[STORIES, out, "--type", "q4_0", "--keep", "head=q9"], "q9"),
        (
            &[STORIES, out, "--type", "q4_0", "--keep", "norms=q4_0"],
            "norms",
        ),
        (&["no/such/model", out, "--type", "q4_0"], "no/such/model"),
        (&["Cargo.toml", out, "--type", "q4_0"], "not a GGUF file"),
        (
            &["testdata/hub/LLaDA2.0-mini", out, "--type", "q4_0"],
            "no weights",
        ),
    ];
    for (args, word) in cases {
        let (code, message) = failure(&[&["quantize"], args].concat());
        assert_eq!(code, 2, "{args:?}: {message}");
        assert!(message.contains(word), "{args:?}: {message}");
    }
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    std::fs::write(out, "mine").unwrap();
    let (code, message) = failure(&["quantize", STORIES, out, "--type", "q4_0"]);
    assert!(code == 2 && message.contains("already exists"), "{message}");
    assert_eq!(std::fs::read(out).unwrap(), b"mine");
}

#[test]
fn values_that_a_type_cannot_hold_leave_no_half_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in root().join(STORIES).read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).unwrap();
    let output = llada_in(
        dir.path(),
        &["quantize", "model", "out.gguf", "--type", "q8_0"],
    );
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("not finite"), "{message}");
    let left = dir
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["model"]);
}

/// Asserts that no command takes the file, each with exit code 2 and a message with `word`.
fn assert_refused_by_all(file: &str, dir: &Path, word: &str) {
    let out = dir.join("out.gguf");
    let out = out.to_str().unwrap();
    let requests = dir.join("requests.jsonl");
    std::fs::write(&requests, r#"{"prompt": "One day"}"#).unwrap();
    let commands: [&[&str]; 8] = [
        &["inspect", file],
        &[
            "inspect",
            "logits",
            file,
            "--visibility",
            "causal",
            "--ids",
            "1",
            "--out",
            out,
        ],
        &["generate", file, "--prompt", "One day"],
        &["generate", file, "--ids", "1,2", "--ar"],
        &["chat", file],
        &["eval", "nll", file, "--data", TEXT, "--mode", "ar"],
        &["bench", file, "--requests", requests.to_str().unwrap()],
        &["quantize", file, out, "--type", "q8_0"],
    ];
    for command in commands {
        let (code, message) = failure(command);
        assert_eq!(code, 2, "{command:?}: {message}");
        assert!(message.contains(word), "{command:?}: {message}");
    }
    assert!(!Path::new(out).exists());
}

#[test]
fn damaged_files_are_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, _) = quantize(dir.path(), STORIES, "q8_0", &[]);
    let whole = std::fs::read(whole).unwrap();
    let key = b"llama.block_count";
    let at = whole.windows(key.len()).position(|w| w == key).unwrap();
    let mut nameless = whole.clone();
    nameless[at] = b'X';
    let mut other = whole.clone();
    other[4] = 9;
    let cases: [(&str, &[u8], &str); 6] = [
        ("half", &whole[..whole.len() / 2], "truncated"),
        ("header", &whole[..100], "truncated"),
        ("empty", b"", "truncated"),
        ("text", b"{\"architectures\": []}", "not a GGUF file"),
        ("version", &other, "version 9"),
        ("key", &nameless, "block_count"),
    ];
    for (name, bytes, word) in cases {
        let file = dir.path().join(format!("{name}.gguf"));
        std::fs::write(&file, bytes).unwrap();
        assert_refused_by_all(file.to_str().unwrap(), dir.path(), word);
    }
}

#[test]
fn files_that_are_not_there_are_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    assert_refused_by_all("no/such/file.gguf", dir.path(), "no/such/file.gguf");
}
