//! `GET /v1/models`: what is served.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::app::App;
use crate::model::{Place, State as Stage};
use crate::refusal::Refusal;

pub(crate) async fn list(State(app): State<App>) -> Json<Value> {
    let models: Vec<_> = app.models().iter().map(|place| describe(place)).collect();
    Json(json!({ "object": "list", "data": models }))
}

pub(crate) async fn one(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(describe(app.model(Some(&name))?)))
}

fn describe(place: &Place) -> Value {
    let dllm = match place.state() {
        Stage::Loading(stage) => json!({ "state": "loading", "stage": stage }),
        Stage::Failed(reason) => json!({ "state": "failed", "reason": reason }),
        Stage::Ready(ready) => json!({
            "state": "ready",
            "method": match ready.checkpoint.is_autoregressive() {
                true => "autoregression",
                false => "diffusion",
            },
            "context": ready.context,
            "block_length": ready.checkpoint.block_length(),
            "chat_template": ready.template.is_some(),
        }),
    };
    json!({
        "id": place.name,
        "object": "model",
        "created": place.created,
        "owned_by": "llada",
        "dllm": dllm,
    })
}
