//! `GET /openapi.json`: what can be asked, from the very types that read it.

use std::sync::LazyLock;

use axum::Json;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::api::chat::ChatRequest;
use crate::api::completions::CompletionRequest;
use crate::api::generate::GenerateRequest;
use crate::api::tokens::{DetokenizeRequest, TokenizeRequest};

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

pub(crate) async fn get() -> Json<&'static Value> {
    Json(&DOCUMENT)
}

/// Statuses of those that take a body, besides 200.
const POST_STATUSES: [&str; 11] = [
    "400", "401", "404", "405", "408", "413", "415", "429", "500", "503", "504",
];

fn document() -> Value {
    let mut schemas = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let posts = [
        post::<ChatRequest>(
            &mut schemas,
            "/v1/chat/completions",
            "Continues a conversation",
        ),
        post::<CompletionRequest>(&mut schemas, "/v1/completions", "Continues a text"),
        post::<GenerateRequest>(&mut schemas, "/generate", "Continues a text, as in SGLang"),
        post::<TokenizeRequest>(&mut schemas, "/tokenize", "Takes text apart into ids"),
        post::<DetokenizeRequest>(&mut schemas, "/detokenize", "Puts ids together to text"),
    ];
    let json = "application/json";
    let gets = [
        look("/v1/models", "Lists the models", json, &["200", "401"]),
        look("/health", "Says that the process lives", json, &["200"]),
        look(
            "/ready",
            "Says whether requests can be answered",
            json,
            &["200", "503"],
        ),
        look(
            "/metrics",
            "Metrics for Prometheus",
            "application/openmetrics-text",
            &["200", "401"],
        ),
        look("/openapi.json", "This document", json, &["200"]),
        look("/", "The page", "text/html", &["200"]),
        model(),
    ];
    let paths: Map<_, _> = posts.into_iter().chain(gets).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "llada",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Block-diffusion language models behind the interface of OpenAI.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{}, { "key": [] }],
    })
}

fn post<T: JsonSchema>(
    schemas: &mut SchemaGenerator,
    path: &str,
    summary: &str,
) -> (String, Value) {
    let schema = schemas.subschema_for::<T>();
    let mut responses = errors(&POST_STATUSES);
    let mut content = json!({ "application/json": { "schema": { "type": "object" } } });
    if path.contains("completions") || path == "/generate" {
        // The schema of an event.
        content["text/event-stream"] = json!({ "schema": {
            "type": "object",
            "properties": { "event": { "type": "string" }, "data": { "type": "string" } },
        }});
    }
    responses["200"] = json!({ "description": "The answer", "content": content });
    let operation = json!({
        "summary": summary,
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": schema } },
        },
        "responses": responses,
    });
    (path.to_owned(), json!({ "post": operation }))
}

fn look(path: &str, summary: &str, kind: &str, statuses: &[&str]) -> (String, Value) {
    let mut responses = errors(statuses);
    for status in statuses.iter().filter(|&&status| status != "401") {
        responses[*status] = json!({ "description": "The answer", "content": { kind: {} } });
    }
    let operation = json!({ "summary": summary, "responses": responses });
    (path.to_owned(), json!({ "get": operation }))
}

fn model() -> (String, Value) {
    let (path, mut item) = look(
        "/v1/models/{name}",
        "Describes a model",
        "application/json",
        &["200", "401"],
    );
    item["get"]["responses"]["404"] = errors(&["404"])["404"].take();
    item["get"]["parameters"] = json!([{
        "name": "name",
        "in": "path",
        "required": true,
        "schema": { "type": "string" },
    }]);
    (path, item)
}

/// Returns responses that carry an error.
fn errors(statuses: &[&str]) -> Value {
    let schema = json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": { "type": "string" },
                "type": { "type": "string" },
                "param": { "type": ["string", "null"] },
                "code": { "type": ["string", "null"] },
            },
        }},
    });
    let response = json!({
        "description": "Why there is no answer",
        "content": { "application/json": { "schema": schema } },
    });
    let entries = statuses
        .iter()
        .map(|status| ((*status).to_owned(), response.clone()));
    Value::Object(entries.collect())
}
