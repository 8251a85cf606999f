//! Bodies: JSON that is checked field by field.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::app::App;
use crate::refusal::{Kind, Refusal};

/// The object that a request brings.
#[derive(Debug)]
pub(crate) struct Body(pub(crate) Map<String, Value>);

impl FromRequest<App> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            let message = "expected a body of type `application/json`";
            return Err(Refusal::new(Kind::NotJson, message));
        }
        let bytes = Bytes::from_request(request, app);
        let bytes = tokio::time::timeout(app.config().stall_timeout, bytes).await;
        let Ok(bytes) = bytes else {
            let message = "the body did not come in time";
            return Err(Refusal::new(Kind::SlowBody, message));
        };
        let bytes = bytes.map_err(|rejection| match rejection.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let most = app.config().body_bytes;
                let message = format!("the body is longer than {most} bytes; shorten it");
                Refusal::new(Kind::TooLarge, message)
            }
            _ => Refusal::new(Kind::Invalid, "the body could not be read"),
        })?;
        let object = serde_json::from_slice(&bytes);
        object.map(Self).map_err(|error| {
            let message = format!("the body is not a JSON object: {error}");
            Refusal::new(Kind::Invalid, message)
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// Reads fields; a refusal names the one at fault. `place` is where the object stands in the body.
pub(crate) fn read<T: DeserializeOwned>(
    object: Map<String, Value>,
    place: Option<&str>,
) -> Result<T, Refusal> {
    let read = serde_path_to_error::deserialize(Value::Object(object));
    read.map_err(|error| {
        let problem = error.inner().to_string();
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        let within = |field: &str| joined([place.unwrap_or_default(), &path, field]);
        if let Some(field) = quoted_after(&problem, "missing field `") {
            return Refusal::field(within(field), "is missing");
        }
        if let Some(field) = quoted_after(&problem, "unknown field `") {
            // The path leads to the field itself.
            let field = if path.ends_with(field) { "" } else { field };
            let here = "is not a field of this request; /openapi.json lists them";
            return Refusal::field(within(field), here);
        }
        match within("") {
            whole if whole.is_empty() => Refusal::new(Kind::Invalid, problem),
            field => Refusal::field(field, format!("cannot be read: {problem}")),
        }
    })
}

/// Returns the name in backquotes that follows the beginning of a message.
fn quoted_after<'a>(message: &'a str, beginning: &str) -> Option<&'a str> {
    let (name, _) = message.strip_prefix(beginning)?.split_once('`')?;
    Some(name)
}

fn joined(parts: [&str; 3]) -> String {
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(".")
}

/// Refuses a field that nobody took.
pub(crate) fn refuse_rest(rest: &Map<String, Value>) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    read::<Nothing>(rest.clone(), None).map(|Nothing {}| ())
}
