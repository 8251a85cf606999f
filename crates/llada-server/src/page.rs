//! The page at `/`: a static bundle inside the binary. It asks for nothing but what is listed here and
//! the interface beside it, and its policy lets it ask for nothing else.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Text comes from models and clients. Should any of it ever be taken for HTML, it may still not run,
/// send a form or be framed.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, content type and content of each file.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("../page/index.html")),
    ("/page/page.css", CSS, include_str!("../page/page.css")),
    ("/page/icon.svg", SVG, include_str!("../page/icon.svg")),
    ("/page/api.js", JAVASCRIPT, include_str!("../page/api.js")),
    ("/page/main.js", JAVASCRIPT, include_str!("../page/main.js")),
    (
        "/page/replay.js",
        JAVASCRIPT,
        include_str!("../page/replay.js"),
    ),
    (
        "/page/state.js",
        JAVASCRIPT,
        include_str!("../page/state.js"),
    ),
    ("/page/view.js", JAVASCRIPT, include_str!("../page/view.js")),
];

/// Returns the routes of the page and its files.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let add = |router: Router<S>, (path, kind, text): (_, _, &'static str)| {
        let tag = format!("\"{:016x}\"", fingerprint(text));
        router.route(
            path,
            get(async move |asked: HeaderMap| answer(&asked, kind, text, &tag)),
        )
    };
    FILES.into_iter().fold(Router::new(), add)
}

/// Answers with a file, or with nothing if the browser has it. Browsers ask each time, so that a page
/// never mixes files of two versions.
fn answer(asked: &HeaderMap, kind: &'static str, text: &'static str, tag: &str) -> Response {
    let known = asked.get(header::IF_NONE_MATCH);
    let known = known
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let is_known = known
        .split(',')
        .any(|known| known.trim().trim_start_matches("W/") == tag);
    let headers: [(HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, tag),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => text.into_response(),
    };
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Returns a number that differs between versions of a file (FNV-1a).
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
