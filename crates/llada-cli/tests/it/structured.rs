//! Answers that follow a JSON schema, from a model with random weights: it wants anything but JSON.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use self::schemas::Random;
use crate::{root, stdout};

#[path = "../../../llada-text/src/grammar/tests/schemas.rs"]
mod schemas;

/// Puts the golden model together with a byte-level tokenizer of fewer ids.
fn model(dir: &Path) {
    for from in [
        "testdata/golden/model",
        "crates/llada-text/testdata/tiny-bpe",
    ] {
        for file in fs::read_dir(root().join(from)).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), dir.join(file.file_name())).unwrap();
        }
    }
    let path = root().join("testdata/golden/model/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    config["eos_token_id"] = eos(dir).into();
    config["pad_token_id"] = eos(dir).into();
    config["max_position_embeddings"] = 4096.into();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

fn eos(dir: &Path) -> u32 {
    let tokenizer = llada_text::Tokenizer::load(dir).unwrap();
    tokenizer.specials().eos.unwrap()
}

/// Bounds what a schema leaves open: a model that never wants to stop would go on to the last token.
fn bounded(mut schema: Value) -> Value {
    match schema["type"].as_str() {
        Some("string") if schema["pattern"].is_string() => schema = json!({"enum": ["ab-12", "é"]}),
        Some("string") if schema["maxLength"].is_null() => schema["maxLength"] = 6.into(),
        Some("integer" | "number") => {
            schema["type"] = "integer".into();
            let low = ["minimum", "exclusiveMinimum"]
                .iter()
                .find_map(|key| schema[*key].as_i64());
            if schema["maximum"].is_null() {
                schema["maximum"] = (low.unwrap() + 900).into();
            }
        }
        Some("array") => schema["items"] = bounded(schema["items"].clone()),
        Some("object") => {
            for property in schema["properties"].as_object_mut().unwrap().values_mut() {
                *property = bounded(property.clone());
            }
        }
        _ => {}
    }
    if let Some(options) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        options
            .iter_mut()
            .for_each(|option| *option = bounded(option.clone()));
    }
    schema
}

#[test]
fn two_hundred_schemas_are_followed_by_a_model_that_knows_no_json() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    let mut random = Random(7);
    let schemas: Vec<Value> = (0..200)
        .map(|_| bounded(schemas::random(&mut random, 2)))
        .collect();
    let rows = schemas.iter().enumerate().map(|(i, schema)| {
        let threshold = [0.9, 0.3, -1.0][i % 3];
        json!({
            "prompt": format!("{i}. Answer in JSON: "),
            "max_new_tokens": 600,
            "threshold": threshold,
            "json_schema": schema,
        })
        .to_string()
    });
    let file = dir.path().join("requests.jsonl");
    fs::write(&file, rows.collect::<Vec<_>>().join("\n")).unwrap();
    let (dir, file) = (dir.path().to_str().unwrap(), file.to_str().unwrap());
    let requests = [
        "--requests",
        file,
        "--json",
        "--concurrency",
        "32",
        "--mask-id",
        "511",
        "--block-length",
        "16",
    ];
    let answers = stdout(&[&["generate", dir][..], &requests].concat());
    assert_eq!(answers.lines().count(), 200);
    for (answer, schema) in answers.lines().zip(&schemas) {
        let answer = crate::json(answer);
        assert_eq!(answer["finish_reason"], "stop", "{schema}: {answer}");
        let value: Value = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
        assert!(schemas::describes(schema, &value), "{schema}: {value}");
    }
}
