//! Evaluation of models: how good answers are, and what they cost.
//!
//! ```text
//! Task (TOML) + data (jsonl) -> Item -> prompt -> answer -> extraction -> verdict -> Record
//!                                          Records -> Summary (score, interval, TPF) -> report
//! ```
//!
//! * [`Task`] is one small file: prompt, extraction and score. The built-in ones lie in `tasks/`.
//! * [`read_items`] reads the published forms of the data.
//! * [`extract`] finds the part of an answer that counts, [`Judge`] decides whether it is right.
//! * [`sandbox`] runs programs that a model wrote, and turns verdicts into pass@k.
//! * [`answer_in_order`] puts requests through the engine together; [`Results`] keeps what was
//!   finished, so that a run can be killed and resumed.
//! * [`stats`] has the intervals, [`report`] the page.
//!
//! Likelihood comes in as a function, because the one chain and bound of this workspace belong to
//! the trainer, which this crate does not know. It speaks no HTTP and loads no model.

pub mod extract;
pub mod report;
pub mod sandbox;
pub mod stats;

mod choices;
mod cloze;
mod data;
mod error;
mod results;
mod score;
mod serve;
mod shots;
mod summary;
mod task;
mod template;

pub use choices::{Choice, MultipleChoice, scored_text};
pub use data::{Item, data_files, read_answers, read_items};
pub use error::{Error, Result};
pub use results::{Cost, Record, Results, read_run, replace, write_records};
pub use score::{Judge, Judgement};
pub use serve::{Ask, Served, answer_in_order};
pub use shots::{add_shots, shots_file};
pub use summary::{Quality, Summary, score_so_far, shares_right};
pub use task::{DataSpec, Extraction, HubSpec, Normalisation, PromptSpec, Scorer, ShotsSpec, Task};
