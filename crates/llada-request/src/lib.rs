//! Requests as people write them, and answers as they read them.
//!
//! [`Settings`] are the same words everywhere: flags of `llada generate`, fields of a request file,
//! `/set` in a chat, fields of an HTTP body. A [`Checkpoint`] turns them into what the engine takes
//! ([`Checkpoint::job`]) and the engine's ids back into text ([`Checkpoint::text`]). A setting that
//! would have no effect is refused.
//!
//! This crate knows neither weights nor HTTP, and runs nothing.

mod checkpoint;
mod error;
mod hooks;
mod policy;
mod settings;
mod text;

pub use checkpoint::{Checkpoint, Job};
pub use error::{Error, Result};
pub use policy::EditIds;
pub use settings::{AcceptanceArg, Bias, EditArg, JsonSchema, Settings};
pub use text::{AnswerText, joint, spell};
