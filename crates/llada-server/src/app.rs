//! The application: what all handlers share, and the routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::OwnedSemaphorePermit;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::ApiKeys;
use crate::metrics::Metrics;
use crate::model::Place;
use crate::refusal::{Kind, Refusal};
use crate::{api, log, openapi, page};

/// Bounds and rules of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Keys that open the interface; everybody may ask if there are none.
    pub api_keys: ApiKeys,
    /// Requests per model that may run or wait; one more is told to come again.
    pub places: usize,
    /// A request that takes longer is ended.
    pub request_timeout: Duration,
    /// Largest body of a request.
    pub body_bytes: usize,
    /// Most answers to one request: prompts times `n`.
    pub choices: usize,
    /// Most connections at once; further ones wait to be accepted.
    pub connections: usize,
    /// How long a connection may take to send a head or a body, or to take what is sent to it.
    pub stall_timeout: Duration,
    /// How long requests may go on after the server was told to stop.
    pub shutdown_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api_keys: ApiKeys::default(),
            places: 64 + 256,
            request_timeout: Duration::from_secs(600),
            body_bytes: 4 << 20,
            choices: 16,
            connections: 16_384,
            stall_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// What all handlers share.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    models: Vec<Arc<Place>>,
    metrics: Metrics,
    is_draining: AtomicBool,
}

impl App {
    pub(crate) fn new(config: Config, models: Vec<Arc<Place>>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            config,
            models,
            metrics,
            is_draining: AtomicBool::new(false),
        }))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn models(&self) -> &[Arc<Place>] {
        &self.0.models
    }

    /// Returns the model of a name; the only one if none is given.
    pub(crate) fn model(&self, name: Option<&str>) -> Result<&Arc<Place>, Refusal> {
        let models = self.models();
        let found = match (name, models) {
            (Some(name), _) => models.iter().find(|place| place.name == name),
            (None, [only]) => Some(only),
            (None, _) => {
                return Err(Refusal::field(
                    "model",
                    "is missing; name one of the models",
                ));
            }
        };
        found.ok_or_else(|| {
            let known: Vec<_> = models.iter().map(|place| place.name.as_str()).collect();
            Refusal::no_model(name.unwrap_or_default(), &known)
        })
    }

    /// Takes places for `count` answers among those that wait or run.
    pub(crate) fn admit(
        &self,
        place: &Place,
        count: usize,
    ) -> Result<Vec<OwnedSemaphorePermit>, Refusal> {
        if self.is_draining() {
            return Err(Refusal::shutting_down());
        }
        let permit = |_| place.places.clone().try_acquire_owned();
        let permits: Result<_, _> = (0..count).map(permit).collect();
        permits.map_err(|_| Refusal::busy())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::Relaxed)
    }

    /// Takes no more requests.
    pub(crate) fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
        self.models().iter().for_each(|place| place.close());
    }

    /// Ends the requests that still run.
    pub(crate) fn give_up(&self) {
        self.models().iter().for_each(|place| place.give_up());
    }

    /// Returns all routes.
    pub(crate) fn router(&self) -> Router {
        let keyed = Router::new()
            .route("/v1/chat/completions", post(api::chat::complete))
            .route("/v1/completions", post(api::completions::complete))
            .route("/v1/models", get(api::models::list))
            .route("/v1/models/{name}", get(api::models::one))
            .route("/generate", post(api::generate::generate))
            .route("/tokenize", post(api::tokens::tokenize))
            .route("/detokenize", post(api::tokens::detokenize))
            .route("/metrics", get(api::health::metrics))
            .route_layer(from_fn_with_state(self.clone(), check_key));
        let open = Router::new()
            .route("/health", get(api::health::health))
            .route("/ready", get(api::health::ready))
            .route("/openapi.json", get(openapi::get))
            .merge(page::routes());
        keyed
            .merge(open)
            .fallback(async || Refusal::new(Kind::NotFound, "no such path; see /openapi.json"))
            .method_not_allowed_fallback(async || {
                Refusal::new(Kind::WrongMethod, "no such method here; see /openapi.json")
            })
            .layer(DefaultBodyLimit::max(self.config().body_bytes))
            .layer(CatchPanicLayer::custom(|_| {
                Refusal::fault().into_response()
            }))
            .layer(from_fn_with_state(self.clone(), log::request))
            .with_state(self.clone())
    }
}

async fn check_key(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.config().api_keys.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}
