//! What can go wrong between an id and its files.

use std::io;
use std::path::PathBuf;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Error of a download or of the cache. Messages say what was expected, what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is no id.
    #[error("`{given}` is no Hub id; expected org/name or org/name@revision")]
    Id {
        /// The text.
        given: String,
    },
    /// There is neither a cache directory nor a home directory to put one in.
    #[error("there is no home directory for the files of the Hub; set HF_HOME to a directory")]
    NoHome,
    /// The network may not be used, and the cache lacks files.
    #[error(
        "the files of `{id}` are not all in `{}`, and HF_HUB_OFFLINE forbids to fetch them; unset it",
        cache.display()
    )]
    Offline {
        /// What was asked for.
        id: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The Hub does not know the repository, the revision or the file.
    #[error("{endpoint} has no `{id}` (404); check organisation, name and revision")]
    NotFound {
        /// What was asked for.
        id: String,
        /// Who was asked.
        endpoint: String,
    },
    /// The Hub does not give the files to whoever asks.
    #[error("{endpoint} refuses `{id}` ({status}): {}", advice(*has_token))]
    Refused {
        /// What was asked for.
        id: String,
        /// Who was asked.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// No answer came, or it broke off more often than it was tried again.
    #[error("cannot reach {endpoint} for `{id}`; check the network, or HF_ENDPOINT if it is set")]
    Unreachable {
        /// What was asked for.
        id: String,
        /// Who was asked.
        endpoint: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The Hub answered otherwise than its interface says.
    #[error("{endpoint} gave an answer for `{id}` that cannot be used; try again later")]
    Answer {
        /// What was asked for.
        id: String,
        /// Who was asked.
        endpoint: String,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The repository has not the files that were wanted.
    #[error("`{id}` {problem}")]
    Lacks {
        /// What was asked for.
        id: String,
        /// What is missing, in words that follow the id.
        problem: String,
    },
    /// A file is not the one that the Hub lists. It is removed.
    #[error("`{file}` of `{id}` has {found}, expected {expected}; it was removed: fetch it again")]
    Damaged {
        /// What was asked for.
        id: String,
        /// The file.
        file: String,
        /// Size or hash that the Hub lists.
        expected: String,
        /// That of the file.
        found: String,
    },
    /// Another process fetches the same file.
    #[error("another process is fetching the same file (`{}` is locked); wait for it", lock.display())]
    Busy {
        /// The file that it holds.
        lock: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("cannot use the cache `{}`; HF_HOME names another one", path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk of the cache is full. What was fetched is kept and continued.
    #[error(
        "the disk of the cache `{}` is full, {needed} more bytes are needed; free some, or name another one with HF_HOME",
        path.display()
    )]
    DiskFull {
        /// The cache.
        path: PathBuf,
        /// Bytes that were still to come.
        needed: u64,
    },
}

fn advice(has_token: bool) -> &'static str {
    match has_token {
        false => {
            "it does not exist, or is private or gated; set HF_TOKEN to a token that may read it"
        }
        true => {
            "it does not exist, or the token may not read it; accept the conditions of the repository, \
             and check HF_TOKEN"
        }
    }
}

impl Error {
    /// Returns whether what was asked for cannot be had, as against a failure of network or machine.
    pub fn is_of_input(&self) -> bool {
        matches!(
            self,
            Self::Id { .. }
                | Self::NotFound { .. }
                | Self::Refused { .. }
                | Self::Offline { .. }
                | Self::Lacks { .. }
        )
    }
}
