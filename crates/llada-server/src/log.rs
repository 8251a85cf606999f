//! What is said of every request: a name for it, a line in the log, a count. Never its text.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::ids;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest name that a client may give its request.
const MAX_ID_LEN: usize = 128;

/// Names a request, unless the client did, and logs and counts how it was answered. A stream is still
/// being written then.
pub(crate) async fn request(State(app): State<App>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or("other", MatchedPath::as_str).to_owned();
    let mut response = next.run(request).await;
    let (status, elapsed) = (response.status().as_u16(), start.elapsed());
    app.metrics().count_request(&path, status, elapsed);
    tracing::info!(
        request = id.to_str().unwrap_or_default(),
        %method,
        path,
        status,
        elapsed_ms = elapsed.as_secs_f64() * 1e3,
        "answered"
    );
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID);
    let is_plain = |id: &&HeaderValue| {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        (1..=MAX_ID_LEN).contains(&id.len()) && id.as_bytes().iter().all(is_word)
    };
    let new = || HeaderValue::try_from(ids::name("req")).expect("the name is plain ASCII");
    given.filter(is_plain).cloned().unwrap_or_else(new)
}
