//! Files of requests.

use crate::{json, stdout};

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("requests.jsonl");
    let lines = [
        r#"{"ids": [19, 312, 278], "max_new_tokens": 3}"#,
        r#"{"ids": [7], "max_new_tokens": 2, "threshold": 0.3, "block_length": 4, "trace": true}"#,
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let text = stdout(&[
        "generate",
        "testdata/golden/model",
        "--requests",
        file,
        "--mask-id",
        "511",
        "--block-length",
        "8",
        "--json",
    ]);
    let answers: Vec<_> = text.lines().map(json).collect();
    assert_eq!(answers[0]["prompt_ids"], serde_json::json!([19, 312, 278]));
    assert_eq!(answers[1]["prompt_ids"], serde_json::json!([7]));
    assert!(answers[0]["output_ids"].as_array().unwrap().len() <= 3);
    assert!(!answers[1]["trace"].as_array().unwrap().is_empty());
    assert!(answers[1]["trace"][0]["ids"].as_array().unwrap().len() == 4);
}
