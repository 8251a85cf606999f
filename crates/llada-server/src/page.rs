//! The page at `/`: a static bundle inside the binary.

use axum::Router;
use axum::response::Html;
use axum::routing::get;

/// Returns the routes of the page and its files.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/", get(async || Html(include_str!("../page/index.html"))))
}
