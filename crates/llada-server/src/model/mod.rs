//! The models of a server: how each comes to be, what is known of it, and the way to its engine.

mod seat;
mod worker;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use llada_request::Checkpoint;
use llada_text::ChatTemplate;
use tokio::sync::Semaphore;

pub use self::seat::{Seat, Served};
pub(crate) use self::worker::{Heard, Ticket, room};
use crate::metrics::EngineMetrics;
use crate::refusal::Refusal;

/// A model to serve.
pub struct Model {
    /// What requests call it.
    pub name: String,
    /// Loads it and serves it, on a thread of its own: ends with [`Seat::serve`], which returns when
    /// the server stops. An error says why the model cannot be served.
    pub run: Box<dyn FnOnce(Seat) -> Result<(), String> + Send>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A model as the handlers see it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// When its thread was started.
    pub(crate) since: Instant,
    /// The same in seconds since 1970.
    pub(crate) created: u64,
    state: RwLock<State>,
    /// Places among those that wait or run.
    pub(crate) places: Arc<Semaphore>,
    /// Taken away when the server stops, so that the model's thread ends.
    tickets: Mutex<Option<Sender<Ticket>>>,
    /// Whether running requests are to be given up.
    is_stopping: AtomicBool,
    metrics: EngineMetrics,
}

/// How far a model is.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Not usable yet, for the reason given.
    Loading(String),
    Ready(Arc<Ready>),
    /// It never will be.
    Failed(String),
}

/// What the handlers need of a model that is loaded.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) template: Option<ChatTemplate>,
    /// Longest text in tokens.
    pub(crate) context: usize,
}

impl Place {
    fn new(name: String, tickets: Sender<Ticket>, places: usize, metrics: EngineMetrics) -> Self {
        Self {
            name,
            since: Instant::now(),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            state: RwLock::new(State::Loading("starting".to_owned())),
            places: Arc::new(Semaphore::new(places)),
            tickets: Mutex::new(Some(tickets)),
            is_stopping: AtomicBool::new(false),
            metrics,
        }
    }

    pub(crate) fn state(&self) -> State {
        let state = self.state.read();
        state.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_state(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Returns the model if requests can be made for it.
    pub(crate) fn ready(&self) -> Result<Arc<Ready>, Refusal> {
        match self.state() {
            State::Ready(ready) => Ok(ready),
            State::Loading(stage) => Err(Refusal::loading(&self.name, &stage)),
            State::Failed(reason) => Err(Refusal::lost(&self.name, &reason)),
        }
    }

    /// Sends a request to the engine.
    pub(crate) fn submit(&self, ticket: Ticket) -> Result<(), Refusal> {
        let tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        match tickets.as_ref() {
            Some(tickets) => tickets.send(ticket).map_err(|_| Refusal::fault()),
            None => Err(Refusal::shutting_down()),
        }
    }

    /// Lets the model's thread end once it has answered what it has.
    pub(crate) fn close(&self) {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        *tickets = None;
    }

    /// Gives up what is running.
    pub(crate) fn give_up(&self) {
        self.is_stopping
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Starts the threads of the models; each has `places` for requests that wait or run.
pub(crate) fn start(
    models: Vec<Model>,
    places: usize,
    metrics: &crate::metrics::Metrics,
) -> std::io::Result<Vec<Arc<Place>>> {
    let start = |model: Model| {
        let (sender, tickets) = std::sync::mpsc::channel();
        let metrics = metrics.engine(&model.name);
        let place = Arc::new(Place::new(model.name, sender, places, metrics));
        seat::spawn(place.clone(), tickets, model.run)?;
        Ok(place)
    };
    models.into_iter().map(start).collect()
}
