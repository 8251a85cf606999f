//! A program with its limits, and what became of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{REFUSAL, REFUSED};

/// A Python program to judge: it passes if it ends by itself with exit code 0.
#[derive(Debug, Clone)]
pub struct Program {
    /// The source text, tests included.
    pub code: String,
    /// What it reads from standard input.
    pub stdin: String,
    /// What it may use.
    pub limits: Limits,
}

impl Program {
    /// A program with empty input and the default limits.
    pub fn new(code: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            stdin: String::new(),
            limits: Limits::default(),
        }
    }
}

/// What one program may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Time from start to end, Python's own start included. Default 10 s.
    pub wall: Duration,
    /// CPU time of all threads together, rounded up to seconds. Default 10 s.
    pub cpu: Duration,
    /// Address space. Default 1 GiB.
    pub memory_bytes: u64,
    /// Size of one file; inside bubblewrap also of all files together. Default 16 MiB.
    pub disk_bytes: u64,
    /// Open files, the three standard streams included. Default 64.
    pub open_files: u64,
    /// What is kept of standard output and of standard error each; the rest is read and dropped.
    /// Default 64 KiB.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(10),
            cpu: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            disk_bytes: 16 << 20,
            open_files: 64,
            output_bytes: 64 << 10,
        }
    }
}

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The judgement.
    pub verdict: Verdict,
    /// How the process ended, also where the harness ended it.
    pub exit: Exit,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
}

/// The judgement of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It ended with exit code 0 within its limits.
    Passed,
    /// It raised, exited with another code or crashed.
    Failed,
    /// It reached its limit of wall or CPU time.
    TimedOut,
    /// It ended with an uncaught `MemoryError`.
    MemoryExceeded,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// What was kept of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Whether more came than was kept.
    pub truncated: bool,
}

impl Outcome {
    /// Judges a process that ended as `exit`; `killed` if the harness ended it for its time.
    pub(super) fn judge(exit: Exit, killed: bool, stdout: Output, stderr: Output) -> Self {
        let verdict = match exit {
            _ if killed => Verdict::TimedOut,
            Exit::Code(0) => Verdict::Passed,
            Exit::Signal(signal) if signal == nix::sys::signal::SIGXCPU as i32 => Verdict::TimedOut,
            Exit::Code(1) if ends_with_memory_error(&stderr.text) => Verdict::MemoryExceeded,
            _ => Verdict::Failed,
        };
        Self {
            verdict,
            exit,
            stdout,
            stderr,
        }
    }

    /// Whether this looks as if the launcher had refused to run the program.
    pub(super) fn claims_refusal(&self) -> bool {
        self.exit == Exit::Code(i32::from(REFUSED)) && self.stderr.text.starts_with(REFUSAL)
    }
}

fn ends_with_memory_error(stderr: &str) -> bool {
    stderr
        .lines()
        .last()
        .is_some_and(|line| line.starts_with("MemoryError"))
}
