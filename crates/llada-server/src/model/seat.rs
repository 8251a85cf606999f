//! A model's own thread: where it loads, says how far it is, and serves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use llada_engine::Engine;
use llada_request::Checkpoint;

use super::worker::{Ticket, Worker};
use super::{Place, Ready, State};

/// A model's place in the server, while its thread loads and serves it.
#[derive(Debug)]
pub struct Seat {
    place: Arc<Place>,
    tickets: Receiver<Ticket>,
}

/// What the server must know of a loaded model besides its engine.
#[derive(Debug)]
pub struct Served {
    /// What it says about its tokens. It needs a tokenizer.
    pub checkpoint: Checkpoint,
    /// Longest text, prompt and answer together, in tokens.
    pub context: usize,
}

impl Seat {
    /// Says what the model is busy with, to those who ask before it is ready.
    pub fn say(&self, stage: impl Into<String>) {
        self.place.set_state(State::Loading(stage.into()));
    }

    /// Serves until the server stops. `new_engine` is asked again for an engine after one panicked.
    ///
    /// # Errors
    /// If there is no tokenizer, its chat template is malformed, or no engine can be made.
    pub fn serve<'m>(
        self,
        served: Served,
        mut new_engine: impl FnMut() -> Result<Engine<'m>, llada_engine::Error>,
    ) -> Result<(), String> {
        let ready = State::Ready(Arc::new(ready(served)?));
        let place = &self.place;
        let mut worker = Worker::new(&self.tickets, &place.metrics, &place.is_stopping);
        loop {
            let mut engine = new_engine().map_err(|error| error.to_string())?;
            place.set_state(ready.clone());
            tracing::info!(model = place.name, "ready");
            // Nothing that a panic may have left half done is looked at again.
            if catch_unwind(AssertUnwindSafe(|| worker.run(&mut engine))).is_ok() {
                return Ok(());
            }
            tracing::error!(model = place.name, "the engine panicked and starts anew");
            let stage = "the engine starts anew after a fault";
            place.set_state(State::Loading(stage.to_owned()));
            place.metrics.count_fault();
            worker.fail_all();
        }
    }
}

fn ready(served: Served) -> Result<Ready, String> {
    let tokenizer = served.checkpoint.tokenizer_for("a server");
    let tokenizer = tokenizer.map_err(|error| error.to_string())?;
    let template = tokenizer.own_chat_template();
    Ok(Ready {
        template: template.map_err(|error| error.to_string())?,
        checkpoint: served.checkpoint,
        context: served.context,
    })
}

/// Starts the thread of a model.
pub(super) fn spawn(
    place: Arc<Place>,
    tickets: Receiver<Ticket>,
    run: Box<dyn FnOnce(Seat) -> Result<(), String> + Send>,
) -> std::io::Result<()> {
    let name = format!("model {}", place.name);
    let run = move || {
        let seat = Seat {
            place: place.clone(),
            tickets,
        };
        let ended = catch_unwind(AssertUnwindSafe(|| run(seat)));
        if let Err(reason) = ended.unwrap_or_else(|_| Err("it panicked".to_owned())) {
            tracing::error!(model = place.name, reason, "cannot be served");
            place.set_state(State::Failed(reason));
        }
    };
    std::thread::Builder::new().name(name).spawn(run).map(drop)
}
