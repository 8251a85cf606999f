//! `chat` and `trace show`, without a terminal.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{failure, llada, root, stdout};

const STORIES: &str = "assets/stories-child";

/// Runs a chat on lines of input; returns stdout and stderr.
pub(crate) fn chat(args: &[&str], lines: impl AsRef<[u8]>) -> (String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_llada"))
        .current_dir(root())
        .arg("chat")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_ref())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{err}");
    (out, err)
}

/// Returns the numbers of cached tokens that a chat reported, turn by turn.
fn cached(report: &str) -> Vec<usize> {
    let turns = report
        .lines()
        .filter_map(|line| line.strip_suffix(" tokens cached]"));
    turns
        .map(|turn| turn.rsplit(' ').next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn a_second_turn_finds_the_first_one_in_the_cache() {
    let lines = "Once upon a time\nThen the dog\n/reset\nOne day\n/quit\nnever read\n";
    let (out, err) = chat(&[STORIES, "--max-new-tokens", "40"], lines);
    assert!(err.contains("no chat template"), "{err}");
    assert!(out.contains("little girl"), "{out}");
    let cached = cached(&err);
    assert_eq!(cached.len(), 3, "{err}");
    assert!(
        cached[0] == 0 && cached[1] >= 40 && cached[2] < 8,
        "{cached:?}"
    );
}

#[test]
fn a_first_answer_is_what_generate_writes() {
    let settings = ["--max-new-tokens", "24", "--threshold", "0.6"];
    let args = [&[STORIES][..], &settings].concat();
    let (out, _) = chat(&args, "Once upon a time");
    let prompt = ["generate", STORIES, "--prompt", "Once upon a time"];
    let text = stdout(&[&prompt[..], &settings].concat());
    assert_eq!(text, format!("Once upon a time{out}"));
}

#[test]
fn settings_change_between_lines_and_bad_lines_end_nothing() {
    let (_, err) = chat(
        &[
            "assets/worked-sums/child",
            "--max-new-tokens",
            "9",
            "--threshold",
            "1",
        ],
        "/help\n/set warp 9\n/set edit\n/system Be brief.\n/fly\n/set logprobs true\n\
         /set max-new-tokens 3\n12+34=\n/set threshold 0.0\n/reset\n12+34=\n",
    );
    for word in [
        "/reset",
        "warp",
        "NAME VALUE",
        "system message",
        "/fly",
        "logprobs",
    ] {
        assert!(err.contains(word), "{word}: {err}");
    }
    assert!(err.contains("[3 tokens, 1.00 tokens per forward"), "{err}");
    assert!(err.contains("[3 tokens, 3.00 tokens per forward"), "{err}");
}

#[test]
fn a_setting_without_a_value_is_refused() {
    let (out, err) = chat(&[STORIES, "--max-new-tokens", "4"], "/set threshold null\n");
    assert!(
        out.is_empty() && err.contains("`threshold` is null"),
        "{err}"
    );
}

#[test]
fn a_line_that_is_not_text_ends_nothing() {
    let lines = [b"One \xff\xfe day\n".to_vec(), b"One day\n".to_vec()].concat();
    let (out, err) = chat(&[STORIES, "--max-new-tokens", "4"], lines);
    assert!(err.contains("UTF-8"), "{err}");
    assert_eq!(cached(&err).len(), 1, "{err}");
    assert_eq!(out.lines().count(), 1, "{out}");
}

#[test]
fn a_chat_template_gives_every_turn_its_role() {
    let dir = tempfile::tempdir().unwrap();
    copy(&root().join("assets/worked-sums/child"), dir.path());
    // Digits and signs are all that this model knows, so they are its roles.
    let template = "{% for m in messages %}{{ '+' if m.role == 'user' else '-' }}{{ m.content }}\
                    {% endfor %}{{ '=' }}";
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let model = dir.path().to_str().unwrap();
    let args = [model, "--max-new-tokens", "8", "--system", "12"];
    let (out, err) = chat(&args, "34\n56\n");
    assert!(!err.contains("no chat template"), "{err}");
    let first = stdout(&[
        "generate",
        model,
        "--prompt=-12+34=",
        "--max-new-tokens",
        "8",
    ]);
    assert_eq!(out.lines().next(), first.trim_end().strip_prefix("-12+34="));
}

fn copy(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_chat_needs_a_tokenizer_and_a_template_for_a_system_message() {
    let (code, message) = failure(&["chat", "testdata/golden/model"]);
    assert!(code == 2 && message.contains("tokenizer"), "{message}");
    let (code, message) = failure(&["chat", STORIES, "--system", "Be brief."]);
    assert!(code == 2 && message.contains("chat template"), "{message}");
}

#[test]
fn a_recorded_answer_is_shown_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace.jsonl");
    let prompt = ["--prompt", "Once upon a time", "--max-new-tokens", "16"];
    let recorded = stdout(&[&["generate", STORIES, "--json", "--trace"][..], &prompt].concat());
    std::fs::write(&file, &recorded).unwrap();
    let shown = stdout(&["trace", "show", STORIES, file.to_str().unwrap()]);
    let steps = crate::json(&recorded)["trace"].as_array().unwrap().len();
    assert_eq!(shown.lines().count(), 1 + steps, "{shown}");
    assert!(shown.starts_with("prompt: "), "{shown}");
    let first = shown.lines().nth(1).unwrap();
    assert!(first.contains("step 0: ") && first.contains('░'), "{first}");
    assert!(!shown.contains('\x1b'), "{shown}");
    let filled: usize = counts(&shown, " filled").iter().sum();
    assert!(filled >= 16, "{shown}");
}

/// Returns the number before a word in every line that has one.
fn counts(shown: &str, word: &str) -> Vec<usize> {
    let before = shown.lines().filter_map(|line| line.split_once(word));
    before
        .map(|(text, _)| text.rsplit(' ').next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn blocks_whose_steps_alternate_are_each_compared_with_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace.jsonl");
    let model = "testdata/golden/model";
    let text = [
        "--ids",
        "5,6,7,8,9",
        "--max-new-tokens",
        "27",
        "--block-length",
        "8",
    ];
    let window = ["--buffer-blocks", "3", "--admit-threshold", "0.1"];
    let ids = ["--mask-id", "511", "--ignore-eos", "--json", "--trace"];
    let recorded = stdout(&[&["generate", model][..], &text, &window, &ids].concat());
    std::fs::write(&file, &recorded).unwrap();
    let file = file.to_str().unwrap();
    let shown = stdout(&["trace", "show", model, file, "--mask-id", "511"]);
    assert_eq!(counts(&shown, " filled").iter().sum::<usize>(), 27);
    assert_eq!(counts(&shown, " changed").iter().sum::<usize>(), 0);
}

#[test]
fn a_file_without_a_trace_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace.jsonl");
    let step = r#"{"block": 18446744073709551615, "step": 0, "ids": [1, 2]}"#;
    for (trace, word) in [
        ("[]".to_owned(), "--trace"),
        (format!("[{step}]"), "out of range"),
    ] {
        let line = format!(r#"{{"prompt_ids": [1], "output_ids": [2], "trace": {trace}}}"#);
        std::fs::write(&file, line).unwrap();
        let (code, message) = failure(&["trace", "show", STORIES, file.to_str().unwrap()]);
        assert!(
            code == 2 && message.contains("trace.jsonl:1: "),
            "{message}"
        );
        assert!(message.contains(word), "{message}");
    }
    std::fs::write(&file, "").unwrap();
    let (code, message) = failure(&["trace", "show", STORIES, file.to_str().unwrap()]);
    assert!(code == 2 && message.contains("found none"), "{message}");
}

#[test]
fn help_of_every_new_command_has_an_example() {
    for command in [&["chat"][..], &["generate"], &["trace", "show"]] {
        let help = llada(&[command, &["--help"]].concat()).stdout;
        let help = String::from_utf8(help).unwrap();
        assert!(
            help.contains(&format!("llada {} ", command.join(" "))),
            "{help}"
        );
    }
}
