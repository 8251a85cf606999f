//! `GET /health`, `/ready` and `/metrics`: for those who watch the server.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::model::State as Stage;

/// Says that the process lives.
pub(crate) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Says whether requests can be answered, and how far each model is.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let mut is_ready = !app.is_draining();
    let models = app.models().iter().map(|place| {
        let (state, detail) = match place.state() {
            Stage::Ready(_) => ("ready", None),
            Stage::Loading(stage) => ("loading", Some(stage)),
            Stage::Failed(reason) => ("failed", Some(reason)),
        };
        is_ready &= state == "ready";
        json!({
            "name": place.name,
            "state": state,
            "detail": detail,
            "elapsed_seconds": place.since.elapsed().as_secs_f64(),
        })
    });
    let models: Vec<_> = models.collect();
    let (code, status) = match (is_ready, app.is_draining()) {
        (true, _) => (StatusCode::OK, "ready"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
    };
    (code, Json(json!({ "status": status, "models": models }))).into_response()
}

/// Returns the metrics as Prometheus reads them.
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics().text()).into_response()
}
