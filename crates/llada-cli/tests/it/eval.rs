//! `llada eval run`, `score` and `tasks`: what is scored, what survives a kill, what is refused.

use std::path::Path;

use serde_json::{Value, json};

use crate::{failure, json as parse, stdout};

const CHILD: &str = "assets/worked-sums/child";
const PARENT: &str = "assets/worked-sums/parent";
const STORIES_PARENT: &str = "assets/tinystories-656k";

/// Writes rows as JSON lines to a file in `dir` and returns its path.
fn write(dir: &Path, name: &str, rows: &[Value]) -> String {
    let path = dir.join(name);
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn sums(dir: &Path) -> String {
    let path = dir.join("sums.jsonl").to_str().unwrap().to_owned();
    stdout(&[
        "sums", "write", "--seed", "2", "--count", "8", "--out", &path,
    ]);
    path
}

/// Runs `llada eval score` and returns its score and how many answers it counted.
fn score(task: &str, data: &[Value], answers: &[Value]) -> (f64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let data = write(dir.path(), "data.jsonl", data);
    let answers = write(dir.path(), "answers.jsonl", answers);
    let out = dir.path().join("out");
    let command = [
        "eval",
        "score",
        "--task",
        task,
        "--data",
        &data,
        "--answers",
        &answers,
    ];
    let score = parse(&stdout(
        &[&command[..], &["--out", out.to_str().unwrap(), "--json"]].concat(),
    ));
    let saved = std::fs::read_to_string(out.join("score.json")).unwrap();
    assert_eq!(parse(&saved), score);
    (
        score["score"].as_f64().unwrap(),
        score["n"].as_u64().unwrap(),
    )
}

fn answer(id: impl Into<Value>, text: &str) -> Value {
    json!({"id": id.into(), "answer": text})
}

#[test]
fn gold_answers_of_word_problems_are_right_and_others_are_not() {
    let data = [
        json!({"question": "2 + 3?", "answer": "2 and 3 make <<2+3=5>>5.\n#### 5"}),
        json!({"question": "500 times 3?", "answer": "#### 1,500"}),
    ];
    let gold = [
        answer(0, "2 and 3 make <<2+3=5>>5.\n#### 5"),
        answer("1", "#### 1,500"),
    ];
    assert_eq!(score("gsm8k", &data, &gold), (1.0, 2));
    assert_eq!(
        score("gsm8k", &data, &[answer(1, "It is 1,501.")]),
        (0.0, 1)
    );
}

#[test]
fn programs_pass_their_tests_in_the_sandbox_or_fail() {
    let data = [
        json!({"task_id": "T/0", "entry_point": "twice", "prompt": "def twice(x):\n    \"\"\"Doubles.\"\"\"\n",
               "test": "def check(candidate):\n    assert candidate(3) == 6\n"}),
        json!({"task_id": "T/1", "entry_point": "half", "prompt": "def half(x):\n    \"\"\"Halves.\"\"\"\n",
               "test": "def check(candidate):\n    assert candidate(6) == 3\n"}),
    ];
    let right = [
        answer("T/0", "    return 2 * x\n"),
        answer("T/1", "```python\ndef half(x):\n    return x / 2\n```"),
    ];
    assert_eq!(score("humaneval", &data, &right), (1.0, 2));
    let wrong = [
        answer("T/0", "    return x\n"),
        answer("T/1", "    return open('/etc/passwd')\n"),
    ];
    assert_eq!(score("humaneval", &data, &wrong), (0.0, 2));
}

/// Runs the worked sums under two settings and beside the parent.
fn run_sums(data: &str, out: &Path, more: &[&str]) -> Vec<Value> {
    let command = [
        "eval",
        "run",
        CHILD,
        "--tasks",
        "worked_sums",
        "--data",
        data,
        "--json",
    ];
    let sweep = [
        "--sweep",
        "threshold=0.5,0.95",
        "--baseline",
        PARENT,
        "--out",
        out.to_str().unwrap(),
    ];
    stdout(&[&command[..], &sweep, more].concat())
        .lines()
        .map(parse)
        .collect()
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_results() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (sums(dir.path()), dir.path().join("out"));
    let rows = run_sums(&data, &out, &[]);
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["setting"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["threshold=0.5", "threshold=0.95", "baseline"]);
    let path = out.join("results.jsonl");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let resumed = run_sums(&data, &out, &["--concurrency", "2"]);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    for (row, before) in resumed.iter().zip(&rows) {
        let same = [
            "n",
            "score",
            "tokens",
            "denoise_forwards",
            "tpf",
            "against_baseline",
        ];
        same.iter()
            .for_each(|name| assert_eq!(row[*name], before[*name], "{name}"));
    }
    assert_eq!(rows[2]["tpf"], 1.0, "a parent writes one token per forward");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(page.matches("<circle").count(), 3);
}

#[test]
fn another_runs_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (sums(dir.path()), dir.path().join("out"));
    run_sums(&data, &out, &["--limit", "1"]);
    let out = out.to_str().unwrap();
    let (code, message) = failure(&[
        "eval",
        "run",
        CHILD,
        "--tasks",
        "worked_sums",
        "--data",
        &data,
        "--out",
        out,
    ]);
    assert_eq!(code, 2);
    assert!(message.contains("another run"), "{message}");
}

/// Runs the worked sums with several answers per item.
fn run_samples(data: &str, out: &Path, more: &[&str]) -> Value {
    let command = [
        "eval",
        "run",
        CHILD,
        "--tasks",
        "worked_sums",
        "--data",
        data,
        "--json",
    ];
    let samples = [
        "--samples",
        "3",
        "--temperature",
        "1.5",
        "--block-length",
        "32", // unlike the training, so that the model is unsure
        "--threshold",
        "0.1",
    ];
    let out = ["--out", out.to_str().unwrap()];
    parse(&stdout(&[&command[..], &samples, &out, more].concat()))
}

#[test]
fn several_answers_per_item_differ_and_resume() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (sums(dir.path()), dir.path().join("out"));
    let row = run_samples(&data, &out, &[]);
    assert_eq!((&row["n"], &row["samples"]), (&json!(8), &json!(3)));
    assert!(row["pass_at"]["3"].as_f64() >= row["pass_at"]["1"].as_f64());
    let path = out.join("results.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    let records: Vec<Value> = whole.lines().map(parse).collect();
    let is_different = |three: &[Value]| three[0]["answer"] != three[1]["answer"];
    assert_eq!(records.len(), 24);
    assert!(
        records.chunks(3).any(is_different),
        "each answer has a seed of its own"
    );
    let kept: Vec<&str> = whole.split_inclusive('\n').take(10).collect();
    std::fs::write(&path, kept.concat()).unwrap();
    run_samples(&data, &out, &["--concurrency", "2"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
}

#[test]
fn a_run_whose_data_has_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (sums(dir.path()), dir.path().join("out"));
    run_sums(&data, &out, &["--limit", "1"]);
    let text = std::fs::read_to_string(&data).unwrap();
    std::fs::write(&data, format!("{text}\n")).unwrap();
    let command = [
        "eval",
        "run",
        CHILD,
        "--tasks",
        "worked_sums",
        "--data",
        &data,
        "--json",
    ];
    let rest = [
        "--sweep",
        "threshold=0.5,0.95",
        "--baseline",
        PARENT,
        "--limit",
        "1",
    ];
    let out = ["--out", out.to_str().unwrap()];
    let (code, message) =
        failure(&[&command[..], &rest[..2], &rest[2..4], &out, &rest[4..]].concat());
    assert_eq!(code, 2);
    assert!(message.contains("sums.jsonl` was ["), "{message}");
}

#[test]
fn runs_of_several_directories_share_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let (data, outs) = (
        sums(dir.path()),
        ["one", "two"].map(|name| dir.path().join(name)),
    );
    run_sums(&data, &outs[0], &["--limit", "4"]);
    run_sums(&data, &outs[1], &["--limit", "5"]);
    let [one, two] = outs.each_ref().map(|out| out.to_str().unwrap());
    let page = dir.path().join("page.html");
    stdout(&["eval", "report", one, two, "--out", page.to_str().unwrap()]);
    let html = std::fs::read_to_string(page).unwrap();
    assert_eq!(
        (
            html.matches("<svg").count(),
            html.matches("<polyline").count()
        ),
        (1, 2)
    );
    assert_eq!(html.matches("<circle").count(), 6);
    let (code, message) = failure(&["eval", "report", dir.path().to_str().unwrap(), "--out", "x"]);
    assert_eq!(code, 2);
    assert!(message.contains("run.json"), "{message}");
}

#[test]
fn a_plain_model_sees_solved_examples_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let row =
        |n: u32| json!({"question": format!("{n} + 1?"), "answer": format!("#### {}", n + 1)});
    let data = write(dir.path(), "test.jsonl", &[row(100)]);
    let run = |out: &str, more: &[&str]| {
        let out = dir.path().join(out).to_str().unwrap().to_owned();
        let command = [
            "eval",
            "run",
            STORIES_PARENT,
            "--ar",
            "--tasks",
            "gsm8k",
            "--data",
            &data,
        ];
        let rest = ["--max-new-tokens", "2", "--out", &out];
        let command: Vec<String> = [&command[..], &rest, more]
            .concat()
            .iter()
            .map(|it| (*it).to_owned())
            .collect();
        (command, out)
    };
    let (command, _) = run("none", &[]);
    let (code, message) = failure(&command.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(code, 2);
    assert!(message.contains("gsm8k/train.jsonl"), "{message}");
    write(dir.path(), "train.jsonl", &[row(1), row(2), row(3)]);
    for (shots, expected) in [
        (
            "2",
            "Question: 1 + 1?\nAnswer: #### 2\n\nQuestion: 2 + 1?\nAnswer: #### 3\n\nQuestion: 100 + 1?\nAnswer:",
        ),
        ("0", "Question: 100 + 1?\nAnswer:"),
    ] {
        let (command, out) = run(shots, &["--shots", shots]);
        stdout(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let record =
            parse(&std::fs::read_to_string(Path::new(&out).join("results.jsonl")).unwrap());
        assert_eq!(record["prompt"], expected);
    }
}

/// Computes the negative log-likelihood of `ids` after `prompt_len` of them, from whole logits.
fn nll_from_logits(dir: &Path, ids: &[u32], prompt_len: usize) -> f64 {
    let list: Vec<String> = ids.iter().map(u32::to_string).collect();
    let path = dir.join("logits.safetensors");
    let (list, out) = (list.join(","), path.to_str().unwrap());
    stdout(&[
        "inspect",
        "logits",
        STORIES_PARENT,
        "--ids",
        &list,
        "--visibility",
        "causal",
        "--out",
        out,
    ]);
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    let values: Vec<f64> = logits
        .data()
        .chunks_exact(4)
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    let rows: Vec<&[f64]> = values.chunks_exact(logits.shape()[1]).collect();
    let log_sum_exp = |row: &[f64]| {
        let most = row.iter().copied().fold(f64::MIN, f64::max);
        most + row.iter().map(|z| (z - most).exp()).sum::<f64>().ln()
    };
    (prompt_len..ids.len())
        .map(|i| log_sum_exp(rows[i - 1]) - rows[i - 1][ids[i] as usize])
        .sum()
}

#[test]
fn likelihoods_of_choices_agree_with_whole_logits() {
    let dir = tempfile::tempdir().unwrap();
    let (context, endings) = (
        "Once upon a time, there was a",
        ["little girl named Lily.", "table of stone"],
    );
    let row = json!({"ctx": context, "endings": endings, "label": 0});
    let data = write(dir.path(), "hellaswag.jsonl", &[row]);
    let out = dir.path().join("out");
    let command = [
        "eval",
        "run",
        STORIES_PARENT,
        "--ar",
        "--tasks",
        "hellaswag",
        "--data",
        &data,
    ];
    let summary = parse(&stdout(
        &[&command[..], &["--out", out.to_str().unwrap(), "--json"]].concat(),
    ));
    assert_eq!(summary["score"], 1.0);
    let record = parse(&std::fs::read_to_string(out.join("results.jsonl")).unwrap());
    let root = crate::root();
    let tokenizer = llada_text::Tokenizer::load(root.join(STORIES_PARENT)).unwrap();
    let alone = tokenizer.encode(context).unwrap();
    let whole = endings.map(|ending| tokenizer.encode(&format!("{context} {ending}")).unwrap());
    // This tokenizer joins words: both endings are scored from where one of them changes the context.
    let common = |ids: &Vec<u32>| alone.iter().zip(ids).take_while(|(a, b)| a == b).count();
    let prompt_len = whole.iter().map(common).min().unwrap();
    assert!(prompt_len < alone.len());
    let nlls = record["nll"].as_array().unwrap();
    for ((ending, ids), nll) in endings.iter().zip(whole).zip(nlls) {
        let expected = nll_from_logits(dir.path(), &ids, prompt_len);
        let found = nll.as_f64().unwrap();
        assert!(
            (found - expected).abs() < 1e-4,
            "{ending}: {found}, expected {expected}"
        );
    }
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (sums(dir.path()), dir.path().join("out"));
    let out = out.to_str().unwrap();
    let run = [
        "eval", "run", CHILD, "--data", &data, "--out", out, "--tasks",
    ];
    for (more, says) in [
        (&["sums"][..], "there is no task `sums`"),
        (&["gsm8k"], "`question`"),
        (&["worked_sums,worked_sums"], "asked for twice"),
        (&["worked_sums", "--sweep", "hurdle=0.5"], "hurdle"),
        (&["worked_sums", "--sweep", "threshold"], "NAME=VALUE"),
        (&["worked_sums", "--trace"], "trace"),
        (&["worked_sums", "--samples", "2"], "--temperature"),
        (&["worked_sums", "--likelihood", "block:0"], "block"),
    ] {
        let (code, message) = failure(&[&run[..], more].concat());
        assert_eq!(code, 2, "{message}");
        assert!(message.contains(says), "{message}");
    }
    let (code, message) = failure(&[
        "eval",
        "score",
        "--task",
        "ppl",
        "--data",
        &data,
        "--answers",
        &data,
        "--out",
        out,
    ]);
    assert_eq!(code, 2, "{message}");
}

#[test]
fn every_task_says_what_data_it_needs() {
    let tasks = parse(&stdout(&["eval", "tasks", "--json"]));
    let tasks = tasks.as_array().unwrap();
    assert!(tasks.len() >= 21);
    for task in tasks {
        assert!(!task["files"].as_array().unwrap().is_empty(), "{task}");
        assert!(!task["fields"].as_array().unwrap().is_empty(), "{task}");
    }
}

#[test]
fn a_task_of_ones_own_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let task = "name = \"capitals\"\nabout = \"a\"\nsource = \"s\"\n[data]\nfiles = [\"c.jsonl\"]\n\
        needs = [\"country\", \"capital\"]\n[prompt]\ntemplate = \"{{ country }}?\"\nmax_new_tokens = 8\n\
        [score]\nby = \"exact\"\ngold = \"{{ capital }}\"\nextract = \"word\"\nignore_case = true\n";
    let path = dir.path().join("capitals.toml");
    std::fs::write(&path, task).unwrap();
    let data = [json!({"country": "France", "capital": "Paris"})];
    assert_eq!(
        score(
            path.to_str().unwrap(),
            &data,
            &[answer(0, "paris, of course")]
        ),
        (1.0, 1)
    );
}
