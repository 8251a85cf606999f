//! Servers to ask, and ways to ask them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use llada_engine::{Capacity, Engine, Method, Options};
use llada_model::{Config, KeepDtype};
use llada_request::{Checkpoint, EditIds};
use llada_server::{Model, Seat, Served, Server};
use llada_tensor::Precision;
use llada_text::Tokenizer;
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Reads a model and serves it. `change` may damage it.
pub(crate) fn serve(
    seat: Seat,
    dir: &Path,
    change: fn(&mut llada_model::Model),
) -> Result<(), String> {
    let loaded = llada_model::load(dir, Precision::F32, KeepDtype::AsStored).unwrap();
    let mut model = llada_model::Model::new(loaded.config, loaded.weights);
    model.pack();
    change(&mut model);
    let options = options(&model.config);
    let served = Served {
        checkpoint: checkpoint(dir, &model.config),
        context: model.config.max_position_embeddings,
    };
    seat.serve(served, || Engine::new(&model, options.clone()))
}

fn options(config: &Config) -> Options {
    let options = Options::new(config);
    let capacity = Capacity {
        slots: 8,
        ..options.capacity
    };
    Options {
        capacity,
        ..options
    }
}

fn checkpoint(dir: &Path, config: &Config) -> Checkpoint {
    let method = match config.mask_token_id {
        Some(_) => Method::BlockDiffusion,
        None => Method::Autoregression,
    };
    let ids = EditIds {
        delete: config.delete_token_id,
        split: config.split_token_id,
    };
    let tokenizer = Tokenizer::load(dir).unwrap();
    let options = Options::new(config);
    Checkpoint::new(Some(tokenizer), options, method, ids, config.vocab_size)
}

/// Returns a model of a directory.
pub(crate) fn model(name: &str, dir: impl AsRef<Path>) -> Model {
    let dir = root().join(dir);
    Model {
        name: name.to_owned(),
        run: Box::new(move |seat| serve(seat, &dir, |_| {})),
    }
}

pub(crate) fn story() -> Model {
    model("story", "assets/stories-child")
}

/// A server without a socket.
pub(crate) struct Asked {
    pub(crate) router: Router,
    /// Ends the models' threads when it is dropped.
    _server: Server,
}

pub(crate) async fn server(models: Vec<Model>) -> Asked {
    server_with(llada_server::Config::default(), models).await
}

pub(crate) async fn server_with(config: llada_server::Config, models: Vec<Model>) -> Asked {
    let served = unready(Server::new(config, models).unwrap());
    served.until_ready().await;
    served
}

pub(crate) fn unready(server: Server) -> Asked {
    Asked {
        router: server.router(),
        _server: server,
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// Returns the JSON of an answer that has to be one.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }

    /// Returns the events of a stream that has to end well: their types and their data.
    pub(crate) fn events(&self) -> Vec<(String, Value)> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        let body = self.text.strip_suffix("data: [DONE]\n\n");
        let body = body.unwrap_or_else(|| panic!("no end: {}", self.text));
        let event = |event: &str| {
            let (kind, data) = match event.strip_prefix("event: ") {
                Some(rest) => rest.split_once('\n').unwrap(),
                None => ("", event),
            };
            let data = data.strip_prefix("data: ").unwrap();
            (kind.to_owned(), serde_json::from_str(data).unwrap())
        };
        let events = body.split("\n\n").filter(|event| !event.is_empty());
        events.map(event).collect()
    }
}

impl Asked {
    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Reply {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(post(path, body)).await
    }

    pub(crate) async fn ask(&self, path: &str, body: Value) -> Reply {
        self.post(path, body.to_string()).await
    }

    /// Returns a number of /metrics.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.trim().parse().unwrap()
    }

    pub(crate) async fn until_ready(&self) {
        eventually(async || self.get("/ready").await.status == StatusCode::OK).await;
    }
}

pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/json");
    request.body(body.into()).unwrap()
}

/// Waits for what has to happen; how long it takes is no matter of a test.
pub(crate) async fn eventually(mut happened: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(120);
    while !happened().await {
        assert!(Instant::now() < give_up, "it never happened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A greedy completion of a story.
pub(crate) fn story_request(tokens: usize) -> Value {
    json!({ "model": "story", "prompt": "Once upon a time", "max_tokens": tokens, "threshold": 0.6 })
}

/// Returns `object` with the fields of `more`.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut object, more) else {
        panic!("expected objects");
    };
    fields.extend(more);
    object
}
