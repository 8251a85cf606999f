//! What can go wrong around a program; what it does itself is an [`Outcome`], not an error.

use std::path::PathBuf;

use super::{Outcome, REFUSAL};

/// The sandbox's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the sandbox. Messages say what was expected, what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no Python to run programs with.
    #[error("no `python3` in PATH that starts ({found}); install Python 3.8 or newer")]
    NoPython {
        /// What was tried and how it failed.
        found: String,
    },
    /// Python's own directory holds the user's files, so it cannot be opened to programs.
    #[error(
        "python3 is installed in `{}`, which holds the home directory; \
         install it in a directory of its own", prefix.display()
    )]
    PythonHoldsHome {
        /// The prefix that Python reports.
        prefix: PathBuf,
    },
    /// A layer of the sandbox does not hold on this machine.
    #[error(
        "the sandbox is not fully enforced: {found}; it needs Linux 5.13 or newer with Landlock and \
         seccomp (in a container: a seccomp profile that permits the `landlock_*` system calls); \
         `--unsafe-exec` runs programs unconfined"
    )]
    NotEnforced {
        /// The layer, and what happened.
        found: String,
    },
    /// A layer could not be put up.
    #[error("cannot set up {layer}")]
    Layer {
        /// The layer.
        layer: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The launcher got an argument that is not a specification.
    #[error("the sandbox's launcher takes one specification as JSON, made by `llada eval`")]
    Specification(#[source] serde_json::Error),
    /// The private directory could not be made, filled or removed.
    #[error("cannot use a private directory under the temporary directory")]
    PrivateDir(#[source] std::io::Error),
    /// A process could not be started or awaited.
    #[error("cannot run `{}`", program.display())]
    Process {
        /// The executable.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// A failure of `layer`, for use with `map_err`.
    #[cfg(target_os = "linux")]
    pub(super) fn layer<E>(layer: &'static str) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        move |source| Self::Layer {
            layer,
            source: Box::new(source),
        }
    }

    /// The check program did not pass: its last line says which wall gave way.
    pub(super) fn not_enforced(outcome: &Outcome) -> Self {
        let last = outcome
            .stderr
            .text
            .lines()
            .last()
            .unwrap_or("no message")
            .trim();
        let last = last.strip_prefix(REFUSAL).unwrap_or(last);
        Self::NotEnforced {
            found: format!("{last} ({:?})", outcome.verdict),
        }
    }
}

/// The launcher's answer where there is no Landlock and no seccomp.
#[cfg(not(target_os = "linux"))]
pub(super) fn not_linux(command: Vec<PathBuf>) -> Error {
    Error::NotEnforced {
        found: format!("this is not Linux, refused to run {command:?}"),
    }
}
