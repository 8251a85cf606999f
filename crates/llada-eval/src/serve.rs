//! Requests through the engine together, answers back in order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use llada_engine::{Answer, Engine, Event, Hooks, Request, RequestId};

use crate::error::Result;

/// A request and the rules that need its text.
#[derive(Debug)]
pub struct Ask {
    /// The request.
    pub request: Request,
    /// Its rules.
    pub hooks: Hooks,
}

/// An answer with its place among the asks.
#[derive(Debug)]
pub struct Served {
    /// Index of its [`Ask`].
    pub index: usize,
    /// The answer.
    pub answer: Answer,
    /// Engine time since the previous answer in this order; their sum is the time of all.
    pub elapsed: Duration,
}

/// Serves all asks, as many together as the engine has slots, and gives the answers to `take` in the
/// order of the asks, each wave as soon as all before it are done. Time inside `take` is not counted.
///
/// # Errors
/// If a request is refused or fails, or `take` fails.
pub fn answer_in_order<E: From<crate::Error>>(
    engine: &mut Engine<'_>,
    asks: Vec<Ask>,
    mut take: impl FnMut(Vec<Served>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut order = submit(engine, asks)?;
    let mut ended: BTreeMap<RequestId, Answer> = BTreeMap::new();
    let (mut next, mut elapsed) = (0, Duration::ZERO);
    order.reverse();
    while let Some(&first) = order.last() {
        let start = Instant::now();
        for event in engine.step() {
            match event {
                Event::Finished { request, answer } => drop(ended.insert(request, answer)),
                Event::Failed { error, .. } => return Err(crate::Error::from(error).into()),
                Event::Committed { .. } | Event::Draft { .. } => {}
            }
        }
        elapsed += start.elapsed();
        if !ended.contains_key(&first) {
            continue;
        }
        let mut wave = Vec::new();
        while let Some(answer) = order.last().and_then(|id| ended.remove(id)) {
            order.pop();
            wave.push(Served {
                index: next,
                answer,
                elapsed: std::mem::take(&mut elapsed),
            });
            next += 1;
        }
        take(wave)?;
    }
    Ok(())
}

fn submit(engine: &mut Engine<'_>, asks: Vec<Ask>) -> Result<Vec<RequestId>> {
    let submitted = asks
        .into_iter()
        .map(|ask| engine.submit_with(&ask.request, ask.hooks));
    Ok(submitted.collect::<std::result::Result<_, _>>()?)
}
