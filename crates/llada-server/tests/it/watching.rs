//! What tells of the server.

use serde_json::{Value, json};

use crate::support::{model, server, story, story_request};

#[tokio::test]
async fn models_say_what_they_can_do() {
    let server = server(vec![story(), model("parent", "assets/tinystories-656k")]).await;
    let list = server.get("/v1/models").await.ok();
    let methods: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["dllm"]["method"])
        .collect();
    assert_eq!(methods, ["diffusion", "autoregression"]);
    let one = server.get("/v1/models/story").await.ok();
    assert_eq!(one["dllm"]["block_length"], 8);
    assert_eq!(one["dllm"]["chat_template"], false);
    assert_eq!(server.get("/v1/models/none").await.status, 404);
}

#[tokio::test]
async fn every_answer_has_a_name_and_a_sensible_one_is_kept() {
    let server = server(vec![story()]).await;
    let ask = |id: &str| {
        let request = axum::http::Request::get("/health").header("x-request-id", id);
        server.send(request.body(axum::body::Body::empty()).unwrap())
    };
    assert_eq!(ask("mine-1").await.headers["x-request-id"], "mine-1");
    let long = "a".repeat(500);
    for odd in ["", "a b", long.as_str()] {
        let named = ask(odd).await;
        assert!(
            named.headers["x-request-id"]
                .to_str()
                .unwrap()
                .starts_with("req-")
        );
    }
}

#[tokio::test]
async fn the_metrics_count_what_was_done() {
    let server = server(vec![story()]).await;
    server.ask("/v1/completions", story_request(24)).await.ok();
    server
        .ask("/v1/completions", json!({ "prompt": "a", "nonsense": 1 }))
        .await;
    let done = server
        .metric("llada_tokens_total{model=\"story\",kind=\"completion\"}")
        .await;
    assert_eq!(done, 24.0);
    let refused = "llada_requests_total{path=\"/v1/completions\",status=\"400\"}";
    assert_eq!(server.metric(refused).await, 1.0);
    let forwards = server.metric("llada_forwards_total{model=\"story\"}").await;
    assert!(forwards > 0.0, "{forwards}");
}

#[tokio::test]
async fn the_description_covers_every_route_and_resolves() {
    let server = server(vec![story()]).await;
    let document = server.get("/openapi.json").await.ok();
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/generate",
        "/tokenize",
        "/metrics",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(
            document.pointer(pointer).is_some_and(Value::is_object),
            "{pointer}"
        );
    }
    let completion = &document["components"]["schemas"]["CompletionRequest"]["properties"];
    assert_eq!(completion["logprobs"]["type"][0], "integer");
    for field in [
        "stream_draft",
        "threshold",
        "block_length",
        "response_format",
        "tool_choice",
    ] {
        assert!(text.contains(&format!("\"{field}\":")), "{field}");
    }
}
