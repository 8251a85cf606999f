//! `metrics.jsonl`: one object per step.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use super::Metrics;
use crate::error::{Error, Result};
use crate::replace::replace;

/// The open file.
pub(super) struct Log {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Log {
    /// Opens the file and drops what an earlier session wrote after step `step`.
    pub(super) fn open(path: PathBuf, step: u64) -> Result<Self> {
        let earlier = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let is_kept = |line: &&str| step_of(line).is_some_and(|logged| logged <= step);
        let kept: String = earlier
            .lines()
            .filter(is_kept)
            .map(|line| line.to_owned() + "\n")
            .collect();
        replace(&path, &kept)?; // a kill must not take the earlier lines along
        let file = File::options().append(true).open(&path);
        let writer = BufWriter::new(file.map_err(Error::io("write", &path))?);
        Ok(Self { path, writer })
    }

    pub(super) fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let line = serde_json::to_string(metrics).expect("numbers and texts can be written");
        writeln!(self.writer, "{line}").map_err(Error::io("write", &self.path))?;
        self.flush() // another program may be watching
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(Error::io("write", &self.path))
    }
}

/// Returns the lines of the file that are written to their end.
pub(crate) fn complete_lines(text: &str) -> &str {
    &text[..text.rfind('\n').map_or(0, |end| end + 1)]
}

/// Returns the step that a line is about.
pub(super) fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line)
        .ok()?
        .get("step")?
        .as_u64()
}
