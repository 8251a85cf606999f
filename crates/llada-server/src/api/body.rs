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
        let within = |field: &str| match place {
            Some(place) => format!("{place}.{field}"),
            None => field.to_owned(),
        };
        let quoted = |rest: &str| Some(rest.split_once('`')?.0.to_owned());
        let path = error.path().to_string();
        let parent = path
            .rsplit_once('.')
            .map(|(parent, _)| format!("{parent}."));
        let inside = |field: String| within(&(parent.clone().unwrap_or_default() + &field));
        if let Some(field) = problem.strip_prefix("unknown field `").and_then(quoted) {
            let here = "is not a field of this request; /openapi.json lists them";
            return Refusal::field(inside(field), here);
        }
        if let Some(field) = problem.strip_prefix("missing field `").and_then(quoted) {
            return Refusal::field(inside(field), "is missing");
        }
        match path.as_str() {
            "." => Refusal::new(Kind::Invalid, problem),
            path => Refusal::field(within(path), format!("cannot be read: {problem}")),
        }
    })
}

/// Refuses a field that nobody took.
pub(crate) fn refuse_rest(rest: &Map<String, Value>) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    read::<Nothing>(rest.clone(), None).map(|Nothing {}| ())
}
