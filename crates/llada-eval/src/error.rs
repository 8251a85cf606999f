//! What can go wrong in an evaluation; a wrong answer is a verdict, not an error.

use std::path::{Path, PathBuf};

use crate::sandbox;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of an evaluation. Messages say what was expected, what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A row of a data, answer or result file is not what it should be.
    #[error("`{}`, row {row}: {message}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// What was expected and found.
        message: String,
    },
    /// A task file is not valid.
    #[error("task `{task}`: {message}")]
    Task {
        /// Name or file of the task.
        task: String,
        /// What was expected and found.
        message: String,
    },
    /// There is no such task.
    #[error(
        "there is no task `{name}`; built in are {known}; other tasks are files ending in .toml"
    )]
    UnknownTask {
        /// What was asked for.
        name: String,
        /// Names of the built-in tasks.
        known: String,
    },
    /// The data directory lacks a task's file.
    #[error("task `{task}` needs {expected} in `{}`; `llada eval tasks` says where it is published", dir.display())]
    NoData {
        /// The task.
        task: String,
        /// The files that would do.
        expected: String,
        /// Where they were looked for.
        dir: PathBuf,
    },
    /// A template of a task could not be rendered for an item.
    #[error("task `{task}`, item `{item}`: `{place}` cannot be rendered")]
    Template {
        /// The task.
        task: String,
        /// The item.
        item: String,
        /// The field of the task file.
        place: &'static str,
        /// Why.
        source: Box<minijinja::Error>,
    },
    /// The task's score is no function of an answer's text.
    #[error(
        "task `{task}` is scored by a model's likelihood, so answers cannot be scored without it; use `llada eval run`"
    )]
    NeedsLikelihood {
        /// The task.
        task: String,
    },
    /// The task runs programs, and no sandbox was given.
    #[error("task `{task}` runs programs and needs the sandbox")]
    NeedsSandbox {
        /// The task.
        task: String,
    },
    /// The file of solved examples is missing.
    #[error(
        "task `{task}` puts solved examples before each question: expected {expected} under `{}`; --shots 0 asks without", data.display()
    )]
    NoShots {
        /// The task.
        task: String,
        /// Where they were looked for.
        expected: String,
        /// The data directory or file.
        data: PathBuf,
    },
    /// A directory holds another run's results.
    #[error("`{}` holds results of another run ({message}); use another --out, or remove it", dir.display())]
    OtherRun {
        /// The directory.
        dir: PathBuf,
        /// What differs.
        message: String,
    },
    /// A statistic was asked of nothing.
    #[error("there is nothing to score: expected at least one item")]
    NoItems,
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The engine refused or failed a request.
    #[error(transparent)]
    Engine(#[from] llada_engine::Error),
    /// The report's template failed.
    #[error("cannot render the report")]
    Report(#[source] Box<minijinja::Error>),
}

impl Error {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }

    pub(crate) fn row(path: &Path, row: usize, message: impl ToString) -> Self {
        Self::Row {
            path: path.to_owned(),
            row,
            message: message.to_string(),
        }
    }
}
