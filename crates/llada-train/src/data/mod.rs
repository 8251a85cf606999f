//! From data files to documents, and the order in which they are trained on.
//!
//! One row is one document:
//!
//! ```text
//! {"text": "..."}                              every token is learned
//! {"input_ids": [...]}                         the same as ids
//! {"input_ids": [...], "prompt_lengths": n}    the first n are given, the rest is an answer
//! {"input_ids": [...], "loss_spans": [[a, b], ...]}    tokens a to b - 1 are an answer, and so on
//! {"prompt": "...", "response": "..."}         the response and its EOS are learned
//! {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}, ...]}
//! ```
//!
//! or, for preference training, a pair of documents ([`Unit::Pair`]):
//!
//! ```text
//! {"prompt": "...", "chosen": "...", "rejected": "..."}
//! {"messages": [...], "chosen": "...", "rejected": "..."}      the conversation before the answer
//! ```
//!
//! or, for recipes with `[trajectory]`, an answer as a decoder wrote it, with the step of its block in which
//! each token was placed (`llada data record` writes such rows):
//!
//! ```text
//! {"input_ids": [...], "prompt_lengths": n, "steps": [...], "block_size": 16}
//! ```
//!
//! Messages are rendered with the checkpoint's chat template. Every assistant message is learned, but
//! those with `"train": false`; `"tools"` beside the messages go to the template.
//!
//! Rows lie in JSONL files, plain or packed (`.gz`, `.zst`), in Parquet files (feature `parquet`), or
//! in directories of such files. Other keys of a row are left alone, except `chosen` and `rejected`
//! where documents are read. A malformed row ends the reading, by file and line. Rows that are
//! sound but teach nothing are left out and counted: those without a token to learn, and those that hold
//! the MASK id, which could not be told from noise.
//!
//! Documents are kept in memory. A document's number is its place in the files. Noise is drawn by that
//! number, order by (seed, epoch): neither depends on batches.

mod chat;
mod document;
mod files;
mod order;
#[cfg(feature = "parquet")]
mod parquet;
mod preference;
mod recorded;
mod rows;
#[cfg(test)]
mod tests;

pub use self::document::{Document, Span, Turn};
pub use self::files::read_rows;
pub use self::order::{Cursor, Drawn, Mix, Unit};
pub use self::rows::{Corpus, Overflow, Reader};
