//! The endpoints: what each takes and how it words its answers.

mod body;
pub(crate) mod chat;
pub(crate) mod completions;
mod cost;
pub(crate) mod fields;
pub(crate) mod generate;
pub(crate) mod health;
pub(crate) mod models;
mod run;
mod stream;
pub(crate) mod tokens;
