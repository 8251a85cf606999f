//! Requests in company, and requests that nobody waits for any more.

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{eventually, post, server, server_with, story, story_request, with};

/// Requests of all sorts.
fn mixed(index: usize) -> Value {
    let more = match index % 4 {
        0 => json!({ "threshold": 0.5 }),
        1 => json!({ "temperature": 0.9, "seed": index, "top_k": 20 }),
        2 => json!({ "regex": "[a-z ]{5,40}" }),
        _ => json!({ "stop": ["."], "repetition_penalty": 1.2 }),
    };
    let prompts = ["Once upon a time", "Once upon a day", "Lily", "The dog ran"];
    let prompt = json!({ "prompt": prompts[index % 3] });
    with(with(story_request(8 + 5 * index), prompt), more)
}

/// Returns what company must not change.
fn essence(answer: &Value) -> (Value, Value, Value) {
    let choice = &answer["choices"][0];
    (
        choice["text"].clone(),
        choice["finish_reason"].clone(),
        answer["usage"]["completion_tokens"].clone(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_that_of_its_request_alone() {
    let server = server(vec![story()]).await;
    let mut alone = Vec::new();
    for index in 0..16 {
        let answer = server.ask("/v1/completions", mixed(index)).await.ok();
        alone.push(essence(&answer));
    }
    let together = (0..16).map(|index| server.ask("/v1/completions", mixed(index)));
    let together = futures_util::future::join_all(together).await;
    for (alone, answer) in alone.iter().zip(together) {
        assert_eq!(*alone, essence(&answer.ok()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_its_request_along() {
    let server = server(vec![story()]).await;
    let all_pages = server.metric("llada_free_pages{model=\"story\"}").await;
    let request = json!({ "stream": true, "ignore_eos": true, "threshold": 2.0, "n": 4 });
    let request = with(story_request(500), request);
    let response = server.router.clone();
    let response = response
        .oneshot(post("/v1/completions", request.to_string()))
        .await
        .unwrap();
    let mut body: Body = response.into_body();
    assert!(body.frame().await.is_some());
    drop(body);
    eventually(async || server.metric("llada_clients{model=\"story\"}").await == 0.0).await;
    assert_eq!(
        server.metric("llada_free_pages{model=\"story\"}").await,
        all_pages
    );
    let accepted = server
        .metric("llada_accepted_tokens_total{model=\"story\"}")
        .await;
    assert!(
        accepted < 4.0 * 500.0,
        "{accepted} tokens were written for nobody"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_no_place_is_told_to_come_again() {
    let config = llada_server::Config {
        places: 2,
        ..llada_server::Config::default()
    };
    let server = server_with(config, vec![story()]).await;
    let request = with(story_request(8), json!({ "n": 3 }));
    let refused = server.ask("/v1/completions", request).await;
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    // Places that were taken in vain are free again.
    let request = with(story_request(8), json!({ "n": 2 }));
    server.ask("/v1/completions", request).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_too_long_is_ended() {
    let config = llada_server::Config {
        request_timeout: std::time::Duration::ZERO,
        ..llada_server::Config::default()
    };
    let server = server_with(config, vec![story()]).await;
    let ended = server.ask("/v1/completions", story_request(500)).await;
    assert_eq!(ended.status, 504);
    let request = with(story_request(500), json!({ "stream": true }));
    let ended = server.ask("/v1/completions", request).await;
    assert!(ended.text.contains("timeout_error"), "{}", ended.text);
    assert!(!ended.text.contains("[DONE]"), "{}", ended.text);
}
