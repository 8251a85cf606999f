//! Data of tasks by Hub id.

use super::Scene;
use crate::json;

/// Returns a Parquet file with rows of `question` and `answer`.
#[cfg(feature = "parquet")]
fn parquet(rows: &[(&str, &str)]) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    let schema = "message rows { required binary question (UTF8); required binary answer (UTF8); }";
    let schema = parse_message_type(schema).unwrap().into();
    let properties = WriterProperties::builder().build().into();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let questions: Vec<ByteArray> = rows.iter().map(|row| row.0.into()).collect();
    let answers: Vec<ByteArray> = rows.iter().map(|row| row.1.into()).collect();
    for values in [questions, answers] {
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, None, None)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

/// Adds word problems as the Hub has them, in two parts, and writes the same rows as local files.
#[cfg(feature = "parquet")]
fn problems(scene: &Scene, repo: &str) -> String {
    let test = [
        ("2 + 3?", "#### 5"),
        ("Half of 8?", "#### 4"),
        ("7 - 1?", "#### 6"),
    ];
    let train = [("1 + 1?", "#### 2"), ("2 + 2?", "#### 4")];
    scene.mock.add(
        repo,
        "main/test-00000-of-00002.parquet",
        parquet(&test[..2]),
    );
    scene.mock.add(
        repo,
        "main/test-00001-of-00002.parquet",
        parquet(&test[2..]),
    );
    scene
        .mock
        .add(repo, "main/train-00000-of-00001.parquet", parquet(&train));
    scene.mock.add(
        repo,
        "socratic/test-00000-of-00001.parquet",
        "never asked for",
    );
    let dir = scene.dir.path().join("local/gsm8k");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, rows) in [("test.jsonl", &test[..]), ("train.jsonl", &train)] {
        let line =
            |(q, a): &(&str, &str)| serde_json::json!({ "question": q, "answer": a }).to_string();
        let lines: Vec<_> = rows.iter().map(line).collect();
        std::fs::write(dir.join(name), lines.join("\n")).unwrap();
    }
    scene.dir.path().join("local").to_str().unwrap().to_owned()
}

#[cfg(feature = "parquet")]
#[test]
fn tasks_find_on_the_hub_what_local_files_say() {
    let scene = Scene::new();
    let local = problems(&scene, "datasets/openai/gsm8k");
    problems(&scene, "datasets/org/mirror");
    let out = |name: &str| scene.dir.path().join(name);
    let run = |name: &str, data: &[&str]| {
        let out = out(name);
        let run = [
            "eval",
            "run",
            "assets/stories-child",
            "--tasks",
            "gsm8k",
            "--shots",
            "2",
        ];
        let rest = ["--max-new-tokens", "4", "--out", out.to_str().unwrap()];
        let (_, log) = scene.succeeds(&[&run, data, &rest].concat());
        (
            std::fs::read_to_string(out.join("results.jsonl")).unwrap(),
            log,
        )
    };
    let (rows, log) = run("hub", &[]);
    assert!(
        log.contains("openai/gsm8k") && log.contains("main/test-*.parquet"),
        "{log}"
    );
    assert!(
        rows.lines().count() == 3 && rows.contains("#### 2"),
        "{rows}"
    );
    assert_eq!(run("local", &["--data", &local]).0, rows);
    assert_eq!(run("mirror", &["--data", "org/mirror"]).0, rows);
    let requests = scene.mock.requests();
    assert!(!requests.iter().any(|request| request.contains("socratic")));
    assert_eq!(run("again", &[]).0, rows);
    run("hub", &[]); // which is finished
    assert!(scene.mock.requests().is_empty());
    let answers = scene.dir.path().join("answers.jsonl");
    std::fs::write(&answers, r#"{"id": 0, "answer": "so 5"}"#).unwrap();
    let (answers, scored) = (answers.to_str().unwrap(), out("scored"));
    let score = [
        "eval",
        "score",
        "--task",
        "gsm8k",
        "--answers",
        answers,
        "--out",
    ];
    let score = [&score[..], &[scored.to_str().unwrap(), "--json"]].concat();
    assert_eq!(json(&scene.succeeds(&score).0)["score"], 1.0);
}

#[test]
fn tasks_without_data_say_what_they_need() {
    let scene = Scene::new();
    let run = |task, data: &[&str]| {
        let run = [
            "eval",
            "run",
            "assets/stories-child",
            "--tasks",
            task,
            "--out",
            "never",
        ];
        let (code, message) = scene.fails(&[&run, data].concat());
        assert_eq!(code, 2, "{message}");
        message
    };
    let message = run("sudoku", &[]);
    assert!(
        message.contains("--data must have its file: sudoku/test.jsonl"),
        "{message}"
    );
    let message = run("sudoku", &["--data", "my/typo"]);
    assert!(
        message.contains("`my/typo` is no file or directory here"),
        "{message}"
    );
    let message = run("gsm8k", &["--data", "my/typo"]);
    assert!(
        message.contains("`my/typo` is no file") && message.contains("404"),
        "{message}"
    );
    let message = run("gsm8k", &[]);
    assert!(
        message.contains("task `gsm8k`") && message.contains("openai/gsm8k"),
        "{message}"
    );
    let tasks = json(&scene.succeeds(&["eval", "tasks", "--json"]).0);
    let hub = |name: &str| {
        let mut tasks = tasks.as_array().unwrap().iter();
        tasks.find(|task| task["name"] == name).unwrap()["hub"].clone()
    };
    assert_eq!(hub("gsm8k")["id"], "openai/gsm8k");
    assert!(hub("sudoku").is_null());
}
