//! Models and data sets by Hub id.
//!
//! ```text
//! HubId -> cached snapshot, if it is whole
//!       -> listing of the revision -> missing files, each resumed and checked -> snapshot
//! ```
//!
//! Files lie where other tools of the Hub keep them (`models--org--name/{blobs,refs,snapshots}`), so
//! that what one has fetched, all have. A revision is listed once and all its files are taken from
//! the commit that it then named; the revision gets its commit in the cache when all are there. A file
//! that has not been compared is marked and counts as missing. What is whole is never asked for again,
//! so a branch stays where it was.
//!
//! The transfers are those of `hf-hub`; this crate decides which files, tries again what broke off,
//! compares sizes and SHA-256, and says what went wrong. It draws no progress bars and reads no weights.

mod check;
mod download;
mod error;
mod id;
mod remote;
mod settings;
mod snapshot;

pub use download::{Action, Progress};
pub use error::{Error, Result};
pub use id::HubId;
pub use settings::{Hub, Token};
pub use snapshot::{Part, Snapshot};
