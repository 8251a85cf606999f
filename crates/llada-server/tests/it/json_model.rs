//! Structured answers and tool calls, from a model with random weights: it wants anything but JSON.

use std::fs;
use std::path::Path;

use llada_server::Model;
use serde_json::{Value, json};

use crate::support::{Asked, root, serve, server, with};

/// Puts the golden model together with a byte-level tokenizer and the template of LLaDA2.
fn put_together(dir: &Path) {
    let from = |path: &str| root().join(path);
    for part in [
        "testdata/golden/model",
        "crates/llada-text/testdata/tiny-bpe",
    ] {
        for file in fs::read_dir(from(part)).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), dir.join(file.file_name())).unwrap();
        }
    }
    let read =
        |path: &Path| serde_json::from_str::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
    let tokens = read(&from(
        "crates/llada-text/testdata/llada2-mini/tokenizer_config.json",
    ));
    let path = dir.join("tokenizer_config.json");
    let own = with(
        read(&path),
        json!({ "chat_template": tokens["chat_template"] }),
    );
    fs::write(&path, own.to_string()).unwrap();
    let eos = llada_text::Tokenizer::load(dir)
        .unwrap()
        .specials()
        .eos
        .unwrap();
    let config = with(
        read(&dir.join("config.json")),
        json!({
            "eos_token_id": eos, "pad_token_id": eos, "max_position_embeddings": 4096,
            "mask_token_id": 511, "block_size": 8,
        }),
    );
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

async fn json_server() -> Asked {
    let model = Model {
        name: "json".to_owned(),
        run: Box::new(|seat| {
            let dir = tempfile::tempdir().unwrap();
            put_together(dir.path());
            serve(seat, dir.path(), |_| {})
        }),
    };
    server(vec![model]).await
}

fn hello(more: Value) -> Value {
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    with(json!({ "messages": messages, "max_tokens": 300 }), more)
}

fn weather() -> Value {
    json!({ "type": "function", "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": { "city": { "enum": ["Bonn", "Köln"] }, "days": { "enum": [1, 2] } },
            "required": ["city", "days"],
            "additionalProperties": false,
        },
    }})
}

#[tokio::test]
async fn an_answer_follows_its_schema() {
    let server = json_server().await;
    let schema = json!({
        "type": "object",
        "properties": { "ok": { "type": "boolean" } },
        "required": ["ok"],
        "additionalProperties": false,
    });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "a", "schema": schema } });
    let answer = server
        .ask(
            "/v1/chat/completions",
            hello(json!({ "response_format": format })),
        )
        .await
        .ok();
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let value: Value = serde_json::from_str(content).unwrap();
    assert!(value["ok"].is_boolean(), "{content}");
}

#[tokio::test]
async fn a_call_that_has_to_be_made_is_made_and_fits_its_schema() {
    let server = json_server().await;
    let choices = [
        json!("required"),
        json!({ "type": "function", "function": { "name": "weather" } }),
    ];
    for choice in choices {
        let request = hello(json!({ "tools": [weather()], "tool_choice": choice }));
        let answer = server
            .ask("/v1/chat/completions", request.clone())
            .await
            .ok();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        assert_eq!(choice["message"]["content"], Value::Null);
        let call = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "weather");
        let arguments = call["arguments"].as_str().unwrap();
        let parsed: Value = serde_json::from_str(arguments).unwrap();
        assert!(["Bonn", "Köln"].contains(&parsed["city"].as_str().unwrap()));

        let events = server
            .ask(
                "/v1/chat/completions",
                with(request, json!({ "stream": true })),
            )
            .await;
        let events = events.events();
        let calls = events.iter().filter_map(|(_, chunk)| {
            chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str()
        });
        assert_eq!(calls.collect::<String>(), arguments);
    }
}

#[tokio::test]
async fn an_answer_to_a_tool_goes_back_into_the_conversation() {
    let server = json_server().await;
    let messages = json!([
        { "role": "user", "content": "Weather?" },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "c1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Bonn\"}" } },
        ]},
        { "role": "tool", "tool_call_id": "c1", "content": "rain" },
    ]);
    let tokens = server
        .ask("/tokenize", json!({ "messages": messages }))
        .await
        .ok();
    let text = server
        .ask("/detokenize", json!({ "tokens": tokens["tokens"] }))
        .await
        .ok();
    let text = text["prompt"].as_str().unwrap();
    assert!(
        text.contains("\"arguments\": {\"city\": \"Bonn\"}"),
        "{text}"
    );
    assert!(text.contains("<tool_response>\nrain"), "{text}");
}

#[tokio::test]
async fn characters_of_several_tokens_come_whole() {
    let server = json_server().await;
    for seed in 0..4 {
        let request = hello(
            json!({ "temperature": 1.5, "seed": seed, "max_tokens": 100, "ignore_eos": true }),
        );
        let whole = server
            .ask("/v1/chat/completions", request.clone())
            .await
            .ok();
        let events = server
            .ask(
                "/v1/chat/completions",
                with(request, json!({ "stream": true })),
            )
            .await;
        let events = events.events();
        let pieces = events
            .iter()
            .filter_map(|(_, chunk)| chunk["choices"][0]["delta"]["content"].as_str());
        let said: String = pieces.collect();
        assert_eq!(
            said,
            whole["choices"][0]["message"]["content"].as_str().unwrap()
        );
        assert!(
            said.contains(|c: char| !c.is_ascii()),
            "the text shows nothing: {said}"
        );
    }
}
