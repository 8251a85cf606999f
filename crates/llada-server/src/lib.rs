//! HTTP: the OpenAI interface, event streams, metrics and the page.
//!
//! ```text
//! body -> validation -> text to ids -> ticket ~~> engine thread: Engine::step
//! response <- wire words <- text <- events  <~~
//! ```
//!
//! A [`Server`] listens at once. Each [`Model`] loads on a thread of its own and then runs its engine
//! there ([`Seat::serve`]); until then its requests are answered with 503. Requests reach the engine
//! through a channel and answers come back through one each: a client that goes away closes its
//! channel, and the engine lets go of the request before its next forward. An engine that panics
//! fails its requests and is made anew.
//!
//! The crate knows neither weights nor how a checkpoint is read: whoever starts the server brings
//! engines along. Status codes are in `refusal`, the wire words in `api`.

mod answer;
mod api;
mod app;
mod auth;
mod ids;
mod listen;
mod log;
mod metrics;
mod model;
mod openapi;
mod page;
mod refusal;
mod tools;

use tokio::net::TcpListener;

pub use app::Config;
pub use auth::ApiKeys;
pub use model::{Model, Seat, Served};

use crate::app::App;
use crate::metrics::Metrics;

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to serve.
    #[error("no model to serve; expected at least one")]
    NoModel,
    /// Two models have the same name.
    #[error("two models are named `{name}`; give one another name, as DIRECTORY:NAME")]
    SameName {
        /// The name.
        name: String,
    },
    /// The system gives no thread for a model.
    #[error("cannot start a thread for a model")]
    Thread(#[from] std::io::Error),
}

/// Models behind an HTTP interface.
#[derive(Debug)]
pub struct Server(App);

impl Server {
    /// Starts loading the models.
    ///
    /// # Errors
    /// If there is no model, two have the same name, or the system gives no threads.
    pub fn new(config: Config, models: Vec<Model>) -> Result<Self, Error> {
        if models.is_empty() {
            return Err(Error::NoModel);
        }
        for (i, model) in models.iter().enumerate() {
            if models[..i].iter().any(|other| other.name == model.name) {
                let name = model.name.clone();
                return Err(Error::SameName { name });
            }
        }
        let metrics = Metrics::new();
        let models = model::start(models, config.places, &metrics)?;
        Ok(Self(App::new(config, models, metrics)))
    }

    /// Returns the routes, for requests that do not come from a socket.
    pub fn router(&self) -> axum::Router {
        self.0.router()
    }

    /// Answers what comes to the listener until `stop` is ready. Requests that run then may go on for
    /// [`Config::shutdown_grace`].
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        listen::serve(self.0.clone(), listener, stop).await;
    }
}

impl Drop for Server {
    /// Lets the threads of the models end.
    fn drop(&mut self) {
        self.0.drain();
        self.0.give_up();
    }
}
