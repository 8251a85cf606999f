//! Engines that break and models that never come.

use std::sync::mpsc::channel;

use llada_server::{Config, Model, Server};
use serde_json::json;

use crate::support::{root, serve, server, story, story_request};

/// A model that panics at ids beyond its embedding, which it claims to know.
fn fragile() -> Model {
    let dir = root().join("assets/stories-child");
    Model {
        name: "fragile".to_owned(),
        run: Box::new(move |seat| serve(seat, &dir, |model| model.config.vocab_size += 1000)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_engine_fails_its_requests_and_nothing_else() {
    let server = server(vec![story(), fragile()]).await;
    for round in 1..3 {
        let bomb = json!({ "model": "fragile", "prompt": [1, 2500], "max_tokens": 8 });
        let failed = server.ask("/v1/completions", bomb).await;
        assert_eq!(failed.status, 500);
        assert_eq!(failed.json()["error"]["code"], "engine_failed");
        server.until_ready().await;
        let good = json!({ "model": "fragile", "prompt": "Once upon", "max_tokens": 8 });
        server.ask("/v1/completions", good).await.ok();
        server.ask("/v1/completions", story_request(8)).await.ok();
        let faults = server
            .metric("llada_engine_faults_total{model=\"fragile\"}")
            .await;
        assert_eq!(faults, f64::from(round));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_told_how_far_a_model_is() {
    let (go, wait) = channel::<()>();
    let dir = root().join("assets/stories-child");
    let late = Model {
        name: "late".to_owned(),
        run: Box::new(move |seat| {
            seat.say("reading weights");
            wait.recv().unwrap();
            serve(seat, &dir, |_| {})
        }),
    };
    let lost = Model {
        name: "lost".to_owned(),
        run: Box::new(|_| Err("`model.safetensors` is gone".to_owned())),
    };
    let server = crate::support::unready(Server::new(Config::default(), vec![late, lost]).unwrap());
    let ask = |name: &str| json!({ "model": name, "prompt": "Once", "max_tokens": 4 });
    crate::support::eventually(async || {
        let waits = server.ask("/v1/completions", ask("late")).await;
        assert_eq!(waits.status, 503);
        assert!(waits.headers.contains_key("retry-after"));
        waits.text.contains("reading weights")
    })
    .await;
    crate::support::eventually(async || {
        let ready = server.get("/ready").await;
        assert_eq!(ready.status, 503);
        ready.text.contains("is gone")
    })
    .await;
    assert_eq!(server.get("/health").await.status, 200);
    go.send(()).unwrap();
    crate::support::eventually(async || {
        server.ask("/v1/completions", ask("late")).await.status == 200
    })
    .await;
    let lost = server.ask("/v1/completions", ask("lost")).await;
    assert_eq!(lost.status, 503);
    assert_eq!(lost.json()["error"]["code"], "model_failed");
}

#[test]
fn models_need_names_of_their_own() {
    let refused = Server::new(Config::default(), vec![story(), story()]);
    assert!(refused.unwrap_err().to_string().contains("`story`"));
    assert!(Server::new(Config::default(), Vec::new()).is_err());
}
