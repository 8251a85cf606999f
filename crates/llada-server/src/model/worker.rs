//! The thread of a model: everything that waits or runs goes through one loop around
//! [`Engine::step`].
//!
//! Before each forward the loop takes new requests and lets go of those whose client is gone or whose
//! time is up, so that their pages are free within one step. A panic of the engine ends the requests
//! that it ran, each with an error, and nothing else: the caller makes a new engine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use llada_engine::{Engine, Event, Hooks, Request, RequestId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;

use crate::metrics::EngineMetrics;
use crate::refusal::Refusal;

/// Where a client hears of its request. A channel that closes before an end means that the engine
/// failed.
///
/// The channel has room for all that may become final ([`room`]), so the loop never waits for a reader;
/// a reader who falls behind misses drafts.
pub(crate) type Voice = Sender<Result<Heard, Refusal>>;

/// Drafts that wait for a reader before others are left out.
const MAX_DRAFTS: usize = 64;

/// Returns the capacity of the channel for a request of up to `max_new_tokens`: each may be a message
/// of its own, and there are one at the start and one at the end.
pub(crate) fn room(max_new_tokens: usize) -> usize {
    max_new_tokens + 2 + MAX_DRAFTS
}

/// Something that happened to a request.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The engine took it.
    Accepted,
    /// See [`Event`].
    Event(Event),
}

/// A request on its way to the engine.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) request: Request,
    pub(crate) hooks: Hooks,
    pub(crate) deadline: Instant,
    pub(crate) voice: Voice,
    /// Its place among those that wait or run.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// A request that waits or runs in the engine.
#[derive(Debug)]
struct Client {
    voice: Voice,
    deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

/// The requests of an engine, kept outside so that they outlive its panic.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    tickets: &'a Receiver<Ticket>,
    clients: BTreeMap<RequestId, Client>,
    metrics: &'a EngineMetrics,
    is_stopping: &'a AtomicBool,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        tickets: &'a Receiver<Ticket>,
        metrics: &'a EngineMetrics,
        is_stopping: &'a AtomicBool,
    ) -> Self {
        Self {
            tickets,
            clients: BTreeMap::new(),
            metrics,
            is_stopping,
        }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(&mut self, engine: &mut Engine<'_>) {
        while self.take(engine) {
            self.let_go(engine);
            for event in engine.step() {
                self.deliver(event);
            }
            self.observe(engine);
        }
    }

    fn observe(&self, engine: &Engine<'_>) {
        self.metrics.clients.set(self.clients.len() as i64);
        self.metrics.observe(engine);
    }

    /// Forgets all requests; their channels close without an end.
    pub(super) fn fail_all(&mut self) {
        self.clients.clear();
    }

    /// Submits what has come in, and waits for something if the engine has nothing to do. Returns
    /// whether more can come.
    fn take(&mut self, engine: &mut Engine<'_>) -> bool {
        if engine.is_idle() {
            self.observe(engine);
            match self.tickets.recv() {
                Ok(ticket) => self.submit(engine, ticket),
                Err(_) => return false,
            }
        }
        loop {
            match self.tickets.try_recv() {
                Ok(ticket) => self.submit(engine, ticket),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !engine.is_idle(),
            }
        }
    }

    fn submit(&mut self, engine: &mut Engine<'_>, ticket: Ticket) {
        match engine.submit_with(&ticket.request, ticket.hooks) {
            Ok(id) => {
                // Nobody may listen any more; the next round notices.
                let _ = ticket.voice.try_send(Ok(Heard::Accepted));
                let client = Client {
                    voice: ticket.voice,
                    deadline: ticket.deadline,
                    _permit: ticket.permit,
                };
                self.clients.insert(id, client);
            }
            Err(error) => {
                let _ = ticket.voice.try_send(Err(error.into()));
            }
        }
    }

    /// Cancels the requests that nobody waits for or that may not go on.
    fn let_go(&mut self, engine: &mut Engine<'_>) {
        let (now, is_stopping) = (Instant::now(), self.is_stopping.load(Ordering::Relaxed));
        self.clients.retain(|&id, client| {
            let refusal = if client.voice.is_closed() {
                None
            } else if is_stopping {
                Some(Refusal::shutting_down())
            } else if client.deadline <= now {
                Some(Refusal::timeout())
            } else {
                return true;
            };
            engine.cancel(id);
            if let Some(refusal) = refusal {
                let _ = client.voice.try_send(Err(refusal));
            }
            false
        });
    }

    fn deliver(&mut self, event: Event) {
        let (id, is_end) = match &event {
            Event::Committed { request, .. } => (*request, false),
            Event::Draft { request, .. } => (*request, false),
            Event::Finished { request, .. } | Event::Failed { request, .. } => (*request, true),
        };
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let has_room = client.voice.capacity() > client.voice.max_capacity() - MAX_DRAFTS;
        if has_room || !matches!(event, Event::Draft { .. }) {
            let heard = match event {
                Event::Failed { error, .. } => Err(error.into()),
                event => Ok(Heard::Event(event)),
            };
            let _ = client.voice.try_send(heard); // fails only if nobody listens
        }
        if is_end {
            self.clients.remove(&id);
        }
    }
}
