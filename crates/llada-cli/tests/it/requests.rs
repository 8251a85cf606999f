//! Files of requests, and every setting of a request.

use std::path::Path;

use serde_json::{Value, json};

use crate::{failure, json, llada, stdout};

const GOLDEN: [&str; 6] = [
    "generate",
    "testdata/golden/model",
    "--mask-id",
    "511",
    "--block-length",
    "8",
];
const CHILD: &str = "assets/worked-sums/child";

/// Writes a file of requests and returns its path.
fn write(dir: &Path, lines: &[&str]) -> String {
    let file = dir.join("requests.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Answers one prompt of ids with the golden model, whose labels are not shifted.
fn golden(extra: &[&str]) -> Value {
    let base = ["--ids", "19,312,278", "--max-new-tokens", "20", "--json"];
    json(&stdout(&[&GOLDEN[..], &base, extra].concat()))
}

/// Returns stderr of a usage error.
fn refusal(args: &[&str]) -> String {
    let (code, message) = failure(args);
    assert_eq!(code, 2, "{message}");
    message
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"ids": [19, 312, 278], "max_new_tokens": 3}"#,
        r#"{"ids": [7], "max_new_tokens": 2, "threshold": 0.3, "block_length": 4, "trace": true}"#,
    ];
    let file = write(dir.path(), &lines);
    let text = stdout(&[&GOLDEN[..], &["--requests", &file, "--json"]].concat());
    let answers: Vec<_> = text.lines().map(json).collect();
    assert_eq!(answers[0]["prompt_ids"], json!([19, 312, 278]));
    assert_eq!(answers[1]["prompt_ids"], json!([7]));
    assert!(answers[0]["output_ids"].as_array().unwrap().len() <= 3);
    assert!(!answers[1]["trace"].as_array().unwrap().is_empty());
    assert!(answers[1]["trace"][0]["ids"].as_array().unwrap().len() == 4);
}

#[test]
fn answers_do_not_depend_on_what_runs_together_nor_on_the_pages_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        "",
        r#", "threshold": 0.4"#,
        r#", "mode": "s", "penalty_lambda": 0.5, "max_post_edit_steps": 3"#,
        r#", "edit": "revise:0.3""#,
        r#", "acceptance": "bacd", "low": 0.3, "high": 0.9, "block_length": 16"#,
        r#", "acceptance": "hierarchy", "threshold": 0.9, "low": 0.3"#,
        r#", "acceptance": "credit", "threshold": 0.7"#,
        r#", "temperature": 1, "seed": 3, "top_k": 50, "min_p": 0.001, "logprobs": true"#,
        r#", "repetition_penalty": 1.5, "steps": 3, "return_steps": true, "trace": true"#,
        r#", "reference_schedule": true, "stop_token_ids": [3, 4, 5], "logit_bias": {"4": 2}"#,
    ];
    let lines: Vec<String> = (0..30)
        .map(|i| {
            let (new, setting) = (1 + 7 * i % 40, settings[i % settings.len()]);
            format!(
                r#"{{"ids": [{}, 312, 278, 5, 6, 7, 8, 9, 10], "max_new_tokens": {new}{setting}}}"#,
                i / 4
            )
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let file = write(dir.path(), &lines);
    let run = |extra: &[&str]| {
        let base = [
            "--requests",
            &file,
            "--json",
            "--delete-id",
            "1",
            "--split-id",
            "2",
        ];
        let text = stdout(&[&GOLDEN[..], &base, extra].concat());
        let answers = text.lines().map(|line| {
            let mut answer = json(line);
            // What the cache saved is the one thing that may differ.
            for key in ["cached_tokens", "forwards", "tpf_all"] {
                answer.as_object_mut().unwrap().remove(key).unwrap();
            }
            answer
        });
        answers.collect::<Vec<_>>()
    };
    let alone = run(&["--concurrency", "1"]);
    assert_eq!(alone.len(), lines.len());
    assert_eq!(run(&["--concurrency", "4"]), alone);
    assert_eq!(run(&["--concurrency", "64"]), alone);
    assert_eq!(run(&["--concurrency", "64", "--page-budget", "4"]), alone);
    let edits = alone.iter().map(|answer| answer["edits"].as_u64().unwrap());
    assert!(edits.sum::<u64>() > 0, "nothing was edited");
}

#[test]
fn a_request_that_fits_no_page_budget_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        &[r#"{"ids": [1]}"#, r#"{"ids": [1], "max_new_tokens": 99}"#],
    );
    let base = [
        "--requests",
        &file,
        "--json",
        "--page-budget",
        "2",
        "--max-new-tokens",
        "8",
    ];
    let message = refusal(&[&GOLDEN[..], &base].concat());
    assert!(
        message.contains("requests.jsonl:2: ") && message.contains("pages"),
        "{message}"
    );
}

#[test]
fn pages_that_no_memory_holds_are_refused() {
    for pages in ["18446744073709551615", "100000000000"] {
        let message = refusal(&[&GOLDEN[..], &["--ids", "1", "--page-budget", pages]].concat());
        assert!(
            message.contains("`pages`") && message.contains(pages),
            "{message}"
        );
    }
}

#[test]
fn every_line_that_cannot_be_read_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (r#"{"ids": [1], "warp": 9}"#, "warp"),
        (r#"{"ids": [1], "prompt": "a"}"#, "either `prompt` or `ids`"),
        (r#"{"max_new_tokens": 3}"#, "either `prompt` or `ids`"),
        (r#"{"ids": "1"}"#, "`ids`"),
        (r#"{"ids": [1], "edit": "perhaps"}"#, "perhaps"),
        (
            r#"{"ids": [1], "steps": 2, "min_transfer": 2}"#,
            "exclude each other",
        ),
        (r#"{"ids": [1], "high": 0.5}"#, "`high`"),
        (r#"{"ids": [1], "stop": ""}"#, "tokenizer"),
        (
            r#"{"ids": [1], "regex": "a", "json_schema": {}}"#,
            "exclude each other",
        ),
        (r#"{"ids": [1]"#, "EOF"),
    ];
    for (line, word) in cases {
        let file = write(dir.path(), &["", line]);
        let message = refusal(&[&GOLDEN[..], &["--requests", &file, "--json"]].concat());
        assert!(
            message.contains("requests.jsonl:2: ") && message.contains(word),
            "{message}"
        );
    }
}

#[test]
fn every_setting_of_acceptance_and_sampling_changes_what_is_done() {
    let plain = golden(&[]);
    let cases: [&[&str]; 15] = [
        &["--mode", "s"],
        &["--threshold", "0.5"],
        &["--min-transfer", "3"],
        &["--acceptance", "bacd", "--low", "0.3", "--high", "0.6"],
        &["--acceptance", "hierarchy", "--low", "0.3"],
        &["--acceptance", "credit", "--threshold", "0.95"],
        &["--temperature", "2"],
        &["--temperature", "2", "--top-k", "5"],
        &["--temperature", "2", "--top-p", "0.5"],
        &["--temperature", "2", "--min-p", "0.1"],
        &["--temperature", "2", "--seed", "9"],
        &["--repetition-penalty", "50"],
        &["--presence-penalty", "-3"],
        &["--frequency-penalty", "1.5"],
        &["--logit-bias", "77=100"],
    ];
    let mut answers = vec![plain];
    for extra in cases {
        let answer = golden(extra);
        assert!(!answers.contains(&answer), "{extra:?} changes nothing");
        answers.push(answer);
    }
}

#[test]
fn editing_changes_tokens_and_is_bounded() {
    let edits = |extra: &[&str]| {
        let base = ["--edit", "0", "--threshold", "0.001"];
        golden(&[&base[..], extra].concat())["edits"]
            .as_u64()
            .unwrap()
    };
    assert!(edits(&[]) > 0);
    assert!(edits(&["--max-post-edit-steps", "0"]) < edits(&[]));
    let revised = golden(&["--edit", "revise:0", "--delete-id", "1", "--split-id", "2"]);
    for id in revised["output_ids"].as_array().unwrap() {
        assert!(![1, 2, 511].contains(&id.as_u64().unwrap()), "{revised}");
    }
    assert_eq!(golden(&["--mode", "q", "--edit", "off"])["edits"], 0);
}

#[test]
fn settings_that_would_have_no_effect_are_refused() {
    let parent = [
        "generate",
        "assets/worked-sums/parent",
        "--ar",
        "--prompt",
        "1+1=",
    ];
    let cases: [(&[&str], &str); 10] = [
        (&["--low", "0.5"], "`low`"),
        (&["--eos-early-stop"], "`reference_schedule`"),
        (
            &["--acceptance", "bacd", "--threshold", "0.5"],
            "`threshold`",
        ),
        (&["--penalty-lambda", "1"], "`edit`"),
        (&["--edit", "revise:0.5"], "--delete-id"),
        (&["--edit", "0.5", "--reference-schedule"], "edit"),
        (&["--logprobs"], "--json"),
        (&["--json", "--top-logprobs", "2"], "`logprobs`"),
        (&["--trace"], "--json"),
        (&["--concurrency", "4"], "--json"),
    ];
    for (extra, word) in cases {
        let message = refusal(&[&GOLDEN[..], &["--ids", "1"], extra].concat());
        assert!(message.contains(word), "{extra:?}: {message}");
    }
    let of_blocks: [&[&str]; 7] = [
        &["--mode", "s"],
        &["--edit", "0.5"],
        &["--acceptance", "credit"],
        &["--threshold", "0.5"],
        &["--block-length", "4"],
        &["--steps", "2"],
        &["--reference-schedule"],
    ];
    for extra in of_blocks {
        let message = refusal(&[&parent[..], extra].concat());
        assert!(message.contains("--ar"), "{extra:?}: {message}");
    }
    for extra in [["--edit", "0.5"], ["--mode", "q"]] {
        let child = ["generate", CHILD, "--prompt", "1+1=", "--regex", "1"];
        let message = refusal(&[&child[..], &extra].concat());
        assert!(message.contains("`edit` to off"), "{extra:?}: {message}");
    }
}

#[test]
fn a_probability_and_a_step_are_told_of_every_token() {
    let answer = golden(&["--logprobs", "--return-steps"]);
    let list = |key: &str| answer[key].as_array().unwrap().clone();
    assert_eq!(list("logprobs").len(), list("output_ids").len());
    assert_eq!(list("steps").len(), list("output_ids").len());
    assert!(list("logprobs").iter().all(|p| p.as_f64().unwrap() < 0.0));
    assert!(list("steps").iter().any(|step| step.as_u64().unwrap() > 0));
    assert_eq!(golden(&[])["logprobs"], Value::Null);
}

#[test]
fn the_most_probable_tokens_of_every_place_are_told() {
    let answer = golden(&["--logprobs", "--top-logprobs", "3"]);
    assert_eq!(answer["output_ids"], golden(&[])["output_ids"]);
    let places = answer["top_logprobs"].as_array().unwrap();
    for (place, id) in places.iter().zip(answer["output_ids"].as_array().unwrap()) {
        assert_eq!(place.as_array().unwrap().len(), 3);
        assert_eq!(place[0]["id"], *id);
    }
    assert_eq!(golden(&["--logprobs"])["top_logprobs"], Value::Null);
}

/// Returns the answer of a worked-sums model.
fn sum(model: &str, extra: &[&str]) -> Value {
    let base = ["generate", model, "--prompt", "12+34=", "--json"];
    let base = [&base[..], &["--max-new-tokens", "60"]].concat();
    json(&stdout(&[&base[..], extra].concat()))
}

#[test]
fn a_text_ends_before_a_stop_string_or_a_stop_token() {
    let whole = sum(CHILD, &[]);
    assert_eq!(whole["text"], "2+4+0=06,1+3+0=04;46");
    assert_eq!(whole["finish_reason"], "stop");
    let ids = whole["output_ids"].as_array().unwrap();
    for (extra, text, num_ids) in [
        (["--stop", "04;"], "2+4+0=06,1+3+0=", 18),
        (["--stop-token-ids", "12"], "2+4+0", 6),
    ] {
        let answer = sum(CHILD, &extra);
        assert_eq!(answer["text"], text);
        assert_eq!(answer["output_ids"].as_array().unwrap(), &ids[..num_ids]);
        assert_eq!(answer["finish_reason"], "stop");
    }
    let several = sum(CHILD, &["--stop", "xyz", "--stop", ",1", "--stop", "6,"]);
    assert_eq!(several["text"], "2+4+0=0");
    let on = sum(CHILD, &["--ignore-eos"]);
    assert_eq!(on["output_ids"].as_array().unwrap().len(), 60);
    assert_eq!(on["finish_reason"], "length");
}

#[test]
fn streamed_text_ends_before_a_stop_string_too() {
    let base = ["generate", CHILD, "--prompt", "12+34=", "--stop", "04;"];
    let args = [&base[..], &["--max-new-tokens", "60"]].concat();
    assert_eq!(stdout(&args), "12+34=2+4+0=06,1+3+0=\n");
}

#[test]
fn an_answer_follows_a_regex_in_blocks_and_token_by_token() {
    let regex = ["--regex", "[0-9]{3};[0-9]{2,4}"];
    for (model, ar) in [(CHILD, None), ("assets/worked-sums/parent", Some("--ar"))] {
        let extra: Vec<&str> = regex.into_iter().chain(ar).collect();
        let text = sum(model, &extra)["text"].as_str().unwrap().to_owned();
        let (left, right) = text.split_once(';').unwrap();
        assert!(left.len() == 3 && (2..=4).contains(&right.len()), "{text}");
        assert!(
            text.chars().all(|c| c == ';' || c.is_ascii_digit()),
            "{text}"
        );
    }
}

#[test]
fn an_answer_follows_a_json_schema_from_a_file_or_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let schema = r#"{"type": "integer", "minimum": 100, "maximum": 999}"#;
    let path = dir.path().join("schema.json");
    std::fs::write(&path, schema).unwrap();
    let line = format!(r#"{{"prompt": "12+34=", "max_new_tokens": 60, "json_schema": {schema}}}"#);
    let file = write(dir.path(), &[&line]);
    let from_file = sum(CHILD, &["--json-schema", path.to_str().unwrap()]);
    let from_row = json(&stdout(&["generate", CHILD, "--requests", &file, "--json"]));
    assert_eq!(from_file["text"], from_row["text"]);
    let number: u32 = from_file["text"].as_str().unwrap().parse().unwrap();
    assert!((100..=999).contains(&number));
    assert_eq!(from_file["finish_reason"], "stop");
    let missing = refusal(&[
        "generate",
        CHILD,
        "--prompt",
        "1",
        "--json-schema",
        "none.json",
    ]);
    assert!(missing.contains("none.json"), "{missing}");
    let malformed = refusal(&["generate", CHILD, "--prompt", "1", "--regex", "("]);
    assert!(malformed.contains("regex"), "{malformed}");
}

#[test]
fn a_request_that_fails_leaves_the_others_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("requests.jsonl");
    let rows = [
        r#"{"prompt": "641-179=", "max_new_tokens": 40}"#,
        r#"{"prompt": "641-179=", "max_new_tokens": 40, "repetition_penalty": 1e-40}"#,
        r#"{"prompt": "12+34=", "max_new_tokens": 40}"#,
    ];
    std::fs::write(&file, rows.join("\n")).unwrap();
    let requests = ["--requests", file.to_str().unwrap(), "--concurrency", "3"];
    let output = llada(
        &[
            &["generate", "assets/worked-sums/child", "--json"],
            &requests[..],
        ]
        .concat(),
    );
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("1 of 3 requests failed"), "{message}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<_> = lines.lines().map(json).collect();
    assert_eq!(answers[0]["finish_reason"], "stop");
    let error = answers[1]["error"].as_str().unwrap();
    assert!(error.contains("requests.jsonl:2"), "{error}");
    assert_eq!(answers[2]["finish_reason"], "stop");
}
