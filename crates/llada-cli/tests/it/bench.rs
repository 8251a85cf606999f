//! `llada bench`: what is counted, and what is refused. Nothing here depends on how fast the machine is.

use std::path::Path;

use serde_json::Value;

use crate::{failure, json, stdout};

const PARENT: &str = "assets/worked-sums/parent";
const CHILD: &str = "assets/worked-sums/child";

/// Writes the rows to a file in `dir`.
fn requests(dir: &Path, rows: &[&str]) -> String {
    let file = dir.join("requests.jsonl");
    std::fs::write(&file, rows.join("\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

fn sums(dir: &Path) -> String {
    let prompts = ["123+456=", "90-81=", "7+8=", "555+5=", "61-60="];
    let rows = prompts.map(|prompt| format!(r#"{{"prompt": "{prompt}", "max_new_tokens": 40}}"#));
    requests(dir, &rows.each_ref().map(String::as_str))
}

/// Runs `llada bench --json` and returns one object per setting.
fn bench(model: &str, requests: &str, args: &[&str]) -> Vec<Value> {
    let command = ["bench", model, "--requests", requests, "--json"];
    stdout(&[&command[..], args].concat())
        .lines()
        .map(json)
        .collect()
}

fn number(value: &Value) -> f64 {
    let number = value.as_f64();
    number.unwrap_or_else(|| panic!("a number was expected, found {value}"))
}

/// Returns what requests have cost, which no clock has a part in.
fn counts(report: &Value) -> [&Value; 4] {
    ["tokens", "tpf", "accepted_per_step", "steps_per_block"].map(|key| &report[key])
}

#[test]
fn every_concurrency_writes_the_same_tokens_in_fewer_batched_forwards() {
    let dir = tempfile::tempdir().unwrap();
    let reports = bench(CHILD, &sums(dir.path()), &["--concurrency", "1,4"]);
    let [alone, together] = &reports[..] else {
        panic!("two settings were asked for: {reports:?}");
    };
    assert_eq!(
        (&alone["concurrency"], &together["concurrency"]),
        (&1.into(), &4.into())
    );
    assert_eq!(counts(alone), counts(together));
    let forwards = |report: &Value| number(&report["batched_forwards"]);
    assert!(forwards(together) < forwards(alone));
    assert!(number(&together["rows_per_forward"]) > number(&alone["rows_per_forward"]));
}

#[test]
fn a_report_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--concurrency", "4", "--repeat", "2", "--warmup"];
    let report = &bench(CHILD, &sums(dir.path()), &args)[0];
    assert_eq!(report["requests"], 5);
    assert_eq!(report["seconds_per_run"].as_array().unwrap().len(), 2);
    let tokens = number(&report["tokens"]);
    let count = |key| number(&report["forwards"][key]);
    let all = count("prefill") + count("denoise") + count("commit");
    assert!((number(&report["tpf"]) - tokens / count("denoise")).abs() < 1e-9);
    assert!((number(&report["tpf_all"]) - tokens / all).abs() < 1e-9);
    assert!(
        (number(&report["tokens_per_second"]) * number(&report["seconds"]) / tokens - 1.0).abs()
            < 1e-9
    );
    for key in ["ttft_ms", "token_latency_ms"] {
        let at = |percentile| number(&report[key][percentile]);
        assert!(
            0.0 <= at("p50") && at("p50") <= at("p95") && at("p95") <= at("p99"),
            "{key}"
        );
    }
    let shares = ["forward", "head", "other"].map(|part| number(&report["time_share"][part]));
    assert!(
        (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9,
        "{shares:?}"
    );
    assert!(number(&report["overhead_share"]) > 0.0);
    assert_eq!(report["experts_per_layer"], serde_json::json!([]));
    assert!(report.get("baseline").is_none() && report.get("speedup").is_none());
}

#[test]
fn the_limit_is_the_higher_of_two_floors() {
    let dir = tempfile::tempdir().unwrap();
    let report = &bench(CHILD, &sums(dir.path()), &["--concurrency", "1"])[0];
    let limit = |key: &str| number(&report["limit"][key]);
    let reads = limit("bytes_per_forward") / limit("bytes_per_second");
    let arithmetic = limit("flops_per_forward") / limit("flops_per_second");
    let floor = limit("seconds_per_forward_floor");
    assert!((floor / reads.max(arithmetic) - 1.0).abs() < 1e-9);
    let bound = if reads > arithmetic {
        "reads"
    } else {
        "arithmetic"
    };
    assert_eq!(report["limit"]["bound"], bound);
    assert!((limit("share") * limit("seconds_per_forward") / floor - 1.0).abs() < 1e-9);
    // The matrices of the four layers in f32, but not twice.
    let layers = f64::from(4 * 4 * (4 * 128 * 128 + 3 * 128 * 384));
    assert!((0.7 * layers..1.5 * layers).contains(&limit("bytes_per_forward")));
}

#[test]
fn keys_and_values_are_read_in_bf16_where_weights_are_quantised_and_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (requests, codes) = (sums(dir.path()), dir.path().join("codes.gguf"));
    let codes = codes.to_str().unwrap();
    stdout(&["quantize", CHILD, codes, "--type", "q8_0"]);
    let bytes = |model: &str, args: &[&str]| {
        let report = &bench(model, &requests, &[&["--concurrency", "1"], args].concat())[0];
        number(&report["limit"]["bytes_per_forward"])
    };
    for (model, default) in [(CHILD, "f32"), (codes, "bf16")] {
        let [f32, bf16] = ["f32", "bf16"].map(|kind| bytes(model, &["--kv-precision", kind]));
        assert!(bf16 < f32, "{bf16} of {f32}");
        let expected = if default == "f32" { f32 } else { bf16 };
        assert_eq!(bytes(model, &[]), expected, "{model}");
    }
}

#[test]
fn the_baseline_writes_one_token_per_forward() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--concurrency", "4", "--baseline", PARENT];
    let report = &bench(CHILD, &sums(dir.path()), &args)[0];
    let baseline = &report["baseline"];
    assert_eq!(baseline["requests"], report["requests"]);
    assert!(number(&baseline["tpf"]) <= 1.5, "{baseline}");
    assert!(number(&report["tpf"]) > number(&baseline["tpf"]));
    let ratio = number(&report["tokens_per_second"]) / number(&baseline["tokens_per_second"]);
    assert!((number(&report["speedup"]) / ratio - 1.0).abs() < 1e-9);
}

#[test]
fn a_mixture_of_experts_counts_the_experts_of_every_layer() {
    let dir = tempfile::tempdir().unwrap();
    let file = requests(
        dir.path(),
        &[r#"{"ids": [19, 312, 278], "max_new_tokens": 8}"#],
    );
    let args = [
        "--concurrency",
        "1",
        "--mask-id",
        "511",
        "--block-length",
        "8",
    ];
    let report = &bench("testdata/golden/model", &file, &args)[0];
    let experts = report["experts_per_layer"].as_array().unwrap();
    assert!(!experts.is_empty());
    assert!(
        experts.iter().all(|experts| number(experts) >= 1.0),
        "{experts:?}"
    );
}

#[test]
fn savings_that_are_off_cost_forwards_and_change_no_token() {
    let dir = tempfile::tempdir().unwrap();
    // Longer than a page and the last row before the answer, so that there is something to find.
    let row = r#"{"prompt": "123+456=579;12+34=46;7+8=15;1+2=3;4+4=", "max_new_tokens": 40}"#;
    let file = requests(dir.path(), &[row; 3]);
    let run =
        |args: &[&str]| bench(CHILD, &file, &[&["--concurrency", "1"], args].concat()).remove(0);
    let plain = run(&[]);
    let commits = run(&["--no-fused-commit"]);
    assert_eq!(counts(&plain), counts(&commits));
    let forwards = |report: &Value| number(&report["batched_forwards"]);
    assert!(forwards(&commits) > forwards(&plain));
    assert!(number(&plain["cached_rows"]) > 0.0);
    let forgetful = run(&["--no-prefix-cache"]);
    assert_eq!(counts(&plain), counts(&forgetful));
    assert_eq!(forgetful["cached_rows"], 0);
}

#[test]
fn the_table_has_a_row_per_model_and_setting() {
    let dir = tempfile::tempdir().unwrap();
    let file = sums(dir.path());
    let args = [
        "bench",
        CHILD,
        "--requests",
        &file,
        "--concurrency",
        "1,4",
        "--baseline",
        PARENT,
    ];
    let text = stdout(&args);
    let first = |line: &str| line.split("  ").next().unwrap().to_owned();
    let rows: Vec<_> = text.lines().skip(1).map(first).collect();
    assert_eq!(rows, ["parent x1", "model x1", "parent x4", "model x4"]);
}

#[test]
fn bad_settings_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = sums(dir.path());
    let cases: [(&[&str], &str); 6] = [
        (&["--concurrency", "0"], "--concurrency"),
        (&["--repeat", "0"], "--repeat"),
        (&["--random-weights"], "--random-weights"),
        (&["--config", "config.json"], "--config"),
        (&["--threshold", "nan"], "threshold"),
        (&["--logprobs"], "`logprobs`"),
    ];
    for (args, word) in cases {
        let (code, message) = failure(&[&["bench", CHILD, "--requests", &file], args].concat());
        assert_eq!(code, 2, "{message}");
        assert!(message.contains(word), "{args:?}: {message}");
    }
}

#[test]
fn files_without_a_usable_request_are_refused_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    for row in ["", "{", r#"{"ids": [1], "speed": 9}"#, r#"{"ids": []}"#] {
        let file = requests(dir.path(), &[row]);
        let (code, message) = failure(&["bench", CHILD, "--requests", &file]);
        assert_eq!(code, 2, "{message}");
        assert!(message.contains("requests.jsonl"), "{message}");
    }
}
