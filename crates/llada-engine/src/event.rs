//! What the engine says while requests run.

use crate::{Alternative, Answer, Error, Placed, RequestId};

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Ids of the answer became final: in order, without gaps, each once.
    Committed {
        /// The request.
        request: RequestId,
        /// The next ids of the answer.
        ids: Vec<u32>,
        /// How each of them came to its place.
        placed: Vec<Placed>,
        /// The most probable tokens of each place, if [`Request::top_logprobs`](crate::Request) asks for any.
        alternatives: Vec<Vec<Alternative>>,
    },
    /// An active block after a step, sent if [`Request::draft`](crate::Request::draft) asks for it.
    /// Open positions hold MASK, and with editing placed tokens may still change.
    Draft {
        /// The request.
        request: RequestId,
        /// Block, counted from the prompt's first token.
        block: usize,
        /// Step within the block, from 0.
        step: usize,
        /// Position of the first id.
        start: usize,
        /// Ids of the block.
        ids: Vec<u32>,
        /// Positions still open.
        open: Vec<usize>,
        /// How each id came to its place; `None` for the prompt and open positions.
        placed: Vec<Option<Placed>>,
    },
    /// The text ended; the answer's ids have all been committed before.
    Finished {
        /// The request.
        request: RequestId,
        /// The whole text and what it cost.
        answer: Answer,
    },
    /// The request ended without an answer; others go on.
    Failed {
        /// The request.
        request: RequestId,
        /// Why.
        error: Error,
    },
}
