//! HTTP: the OpenAI interface, event streams, metrics and the page.

mod page;

/// Returns the routes of the page.
pub fn routes() -> axum::Router {
    page::routes()
}
