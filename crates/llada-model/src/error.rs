//! What can go wrong between a checkpoint directory and a running model.

use std::path::{Path, PathBuf};

/// Error of configuration, loading, saving or reserving memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("`{file}` is not valid JSON")]
    Json {
        /// The file.
        file: String,
        /// The cause, with line and column.
        source: serde_json::Error,
    },
    /// A configuration key has a value that the model cannot take.
    #[error("config.json: `{key}` must be {expected}, found {found}")]
    Config {
        /// The key, with dots inside nested objects.
        key: String,
        /// What would be accepted, or what to do.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A weight file is damaged or is not a safetensors file.
    #[error("`{}` is not a valid safetensors file; it may be truncated: fetch it again", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: safetensors::SafeTensorError,
    },
    /// A GGUF file is damaged, is not one, cannot be used, or cannot be written.
    #[error("`{}` {problem}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong, in words that follow the file's name.
        problem: String,
    },
    /// A directory holds no weights, or an index that disagrees with its shards.
    #[error("`{}`: {problem}", path.display())]
    Checkpoint {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The tensors in the files are not those that the config calls for.
    #[error("the weights do not fit config.json (are both of one checkpoint?){}", describe(&[
        ("missing", missing), ("unexpected", unexpected), ("of the wrong form", misshapen),
    ]))]
    Tensors {
        /// Names that the config calls for and no file has.
        missing: Vec<String>,
        /// Names that the config does not call for.
        unexpected: Vec<String>,
        /// Names with the shape or element type expected and found.
        misshapen: Vec<String>,
    },
    /// Keys and values do not fit into memory.
    #[error("no memory for {rows} rows of keys and values, {bytes_per_row} bytes each; use fewer")]
    Memory {
        /// Rows asked for.
        rows: usize,
        /// Bytes of a row over all layers.
        bytes_per_row: usize,
    },
}

impl Error {
    /// Says what could not be done, as a verb, with which file or directory.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Self + Copy {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// Returns whether a file that was named is absent, damaged or not what it should be, as against a
    /// failure of the machine.
    pub fn is_of_input(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Self::Memory { .. } => false,
            Self::Json { .. }
            | Self::Config { .. }
            | Self::Safetensors { .. }
            | Self::Gguf { .. }
            | Self::Checkpoint { .. }
            | Self::Tensors { .. } => true,
        }
    }
}

/// Names shown of each list before the message says "and N more".
const SHOWN: usize = 12;

fn describe(lists: &[(&str, &Vec<String>)]) -> String {
    let mut text = String::new();
    for (label, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
        let shown = names
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        text += &format!("; {} {label}: {shown}", names.len());
        if names.len() > SHOWN {
            text += &format!(" and {} more", names.len() - SHOWN);
        }
    }
    text
}
