//! Whatever cannot be honoured is refused, and the refusal names it.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::support::{model, post, server, server_with, story, story_request, with};

#[tokio::test]
async fn a_field_that_cannot_be_honoured_is_named() {
    let parent = model("parent", "assets/tinystories-656k");
    let server = server(vec![story(), parent]).await;
    let cases = [
        (json!({ "best_of": 2 }), "best_of"),
        (json!({ "echo": true }), "echo"),
        (json!({ "top_p": 1.5 }), "top_p"),
        (json!({ "top_p": "high" }), "top_p"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": 1000 }), "n"),
        (json!({ "max_tokens": 0 }), "max_new_tokens"),
        (json!({ "logprobs": 21 }), "logprobs"),
        (json!({ "logprobs": 1, "top_logprobs": 1 }), "top_logprobs"),
        (json!({ "stop": [""] }), ""),
        (json!({ "stop": 3 }), "stop"),
        (
            json!({ "stream_options": { "include_usage": true } }),
            "stream_options",
        ),
        (
            json!({ "stream": true, "stream_options": { "more": 1 } }),
            "stream_options.more",
        ),
        (json!({ "stream_draft": true }), "stream_draft"),
        (json!({ "edit_threshold": 0.5 }), "edit_threshold"),
        (json!({ "edit": "on" }), "edit"),
        (json!({ "edit": 0.5, "reopen_blocks": 1 }), "reopen_blocks"),
        (json!({ "block_length": 0 }), "block_length"),
        (json!({ "steps": 2, "min_transfer": 2 }), "steps"),
        (json!({ "trace": true }), "trace"),
        (json!({ "logit_bias": { "99999": 1 } }), "logit_bias"),
        (json!({ "regex": "(" }), ""),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": [1, 2048] }), ""),
        (json!({ "prompt": [1, 99999] }), "prompt"),
        (json!({ "prompt": { "a": 1 } }), "prompt"),
        (json!({ "model": 3 }), "model"),
        (json!({ "model": "parent", "threshold": 0.5 }), "threshold"),
        (json!({ "seed": -1 }), "seed"),
    ];
    for (more, param) in cases {
        let refused = server
            .ask("/v1/completions", with(story_request(8), more.clone()))
            .await;
        assert_eq!(refused.status, 400, "{more}: {}", refused.text);
        let error = &refused.json()["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(
            error["param"].as_str().unwrap_or_default(),
            param,
            "{}",
            refused.text
        );
    }
}

#[tokio::test]
async fn a_conversation_that_cannot_be_honoured_is_refused() {
    let server = server(vec![story()]).await;
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    let hello = json!([{ "role": "user", "content": "Hi" }]);
    let cases = [
        (json!({}), "messages"),
        (json!({ "messages": [] }), "messages"),
        (
            json!({ "messages": [{ "role": "king", "content": "a" }] }),
            "messages[0].role",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "a", "mood": 1 }] }),
            "messages[0].mood",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "messages[0].content",
        ),
        (
            json!({ "messages": [{ "role": "tool", "content": "a" }] }),
            "messages",
        ),
        (json!({ "messages": hello, "tools": [tool] }), "tools"),
        (
            json!({ "messages": hello, "tools": [{ "type": "function" }] }),
            "tools[0].function",
        ),
        (
            json!({ "messages": hello, "tool_choice": "required" }),
            "tool_choice",
        ),
        (
            json!({ "messages": hello, "tool_choice": "maybe" }),
            "tool_choice",
        ),
        (
            json!({ "messages": hello, "top_logprobs": 21, "logprobs": true }),
            "top_logprobs",
        ),
        (
            json!({ "messages": hello, "top_logprobs": 2 }),
            "top_logprobs",
        ),
        (
            json!({ "messages": hello, "parallel_tool_calls": false }),
            "parallel_tool_calls",
        ),
        (json!({ "messages": hello, "functions": [] }), "functions"),
        (
            json!({ "messages": hello, "response_format": { "type": "xml" } }),
            "response_format.type",
        ),
    ];
    for (request, param) in cases {
        let refused = server.ask("/v1/chat/completions", request.clone()).await;
        assert_eq!(refused.status, 400, "{request}: {}", refused.text);
        assert_eq!(refused.json()["error"]["param"], param, "{}", refused.text);
    }
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_refused() {
    let config = llada_server::Config {
        body_bytes: 200_000,
        ..llada_server::Config::default()
    };
    let server = server_with(config, vec![story()]).await;
    let deep = "[".repeat(100_000);
    let bomb = format!("{{\"prompt\": {deep}");
    let long = json!({ "prompt": "a".repeat(300_000) }).to_string();
    let cases: [(&str, &[u8], u16); 6] = [
        ("nothing", b"", 400),
        ("no object", b"[1]", 400),
        ("cut", b"{\"prompt\": \"Once", 400),
        ("not UTF-8", b"{\"prompt\": \"\xff\"}", 400),
        ("nested", bomb.as_bytes(), 400),
        ("long", long.as_bytes(), 413),
    ];
    for (what, body, status) in cases {
        let refused = server.post("/v1/completions", body.to_vec()).await;
        assert_eq!(refused.status, status, "{what}: {}", refused.text);
        assert!(refused.json()["error"]["message"].is_string());
    }
    let plain = Request::post("/v1/completions")
        .body(Body::from("{}"))
        .unwrap();
    assert_eq!(server.send(plain).await.status, 415);
    assert_eq!(server.get("/v1/completions").await.status, 405);
    assert_eq!(server.get("/v2").await.status, 404);
    let unknown = server
        .ask("/v1/completions", json!({ "model": "x", "prompt": "a" }))
        .await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn a_key_opens_what_is_locked() {
    let config = llada_server::Config {
        api_keys: llada_server::ApiKeys::parse("sesame"),
        ..llada_server::Config::default()
    };
    let server = server_with(config, vec![story()]).await;
    let request = || post("/v1/completions", story_request(4).to_string());
    assert_eq!(server.send(request()).await.status, 401);
    let mut opened = request();
    opened
        .headers_mut()
        .insert("authorization", "Bearer sesame".parse().unwrap());
    assert_eq!(server.send(opened).await.status, 200);
    for open in ["/health", "/ready", "/openapi.json", "/"] {
        assert_eq!(server.get(open).await.status, 200, "{open}");
    }
    for locked in ["/v1/models", "/metrics"] {
        assert_eq!(server.get(locked).await.status, 401, "{locked}");
    }
}

#[tokio::test]
async fn what_has_no_effect_is_taken_and_null_is_nothing() {
    let server = server(vec![story()]).await;
    let more = json!({
        "user": "me", "metadata": { "a": "b" }, "store": false, "service_tier": "auto",
        "eos_early_stop": true, "top_k": null, "stop": null, "seed": null, "stream": null,
    });
    let plain = server.ask("/v1/completions", story_request(8)).await.ok();
    let with_more = server
        .ask("/v1/completions", with(story_request(8), more))
        .await
        .ok();
    assert_eq!(plain["choices"][0]["text"], with_more["choices"][0]["text"]);
    let aliases: Value = json!({ "model": "story", "prompt": "Once upon a time", "gen_length": 8, "threshold": 0.6 });
    let aliased = server.ask("/v1/completions", aliases).await.ok();
    assert_eq!(plain["choices"][0]["text"], aliased["choices"][0]["text"]);
}
