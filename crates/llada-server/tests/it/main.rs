//! The server as clients see it, with the shipped models.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod answers;
mod company;
mod faults;
mod json_model;
mod page;
mod refusals;
mod sockets;
mod support;
mod watching;
