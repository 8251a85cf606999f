//! Names of requests and seeds nobody asked for.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Returns a number that is hard to guess and does not come twice: each state has new keys.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Returns a new name that begins with `prefix`.
pub(crate) fn name(prefix: &str) -> String {
    format!("{prefix}-{:016x}", random())
}
