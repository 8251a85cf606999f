//! `metrics.jsonl`: one object per step.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use super::Metrics;
use crate::error::{Error, Result};

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
        let file = File::create(&path).map_err(Error::io("write", &path))?;
        let mut writer = BufWriter::new(file);
        writer
            .write_all(kept.as_bytes())
            .map_err(Error::io("write", &path))?;
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

/// Returns the step that a line is about.
pub(super) fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line)
        .ok()?
        .get("step")?
        .as_u64()
}
