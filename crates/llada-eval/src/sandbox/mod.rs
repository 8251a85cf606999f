//! A sandbox for Python that a model wrote (HumanEval, MBPP and their like).
//!
//! Model-written programs loop forever, eat memory, write files and now and then do worse. Each one
//! runs here as *one process that can reach nothing*: the calling program starts itself again as a
//! [`Launcher`], which gives up its rights layer by layer ([`exec_confined`]) and then becomes
//! Python. Where bubblewrap is installed and works, all that happens inside its namespaces too.
//!
//! | layer | stops |
//! |---|---|
//! | capabilities cleared, no new privileges | what root could do |
//! | resource limits | memory, CPU time, large files, many files |
//! | Landlock | reading anything but Python and the system libraries, writing outside the private directory |
//! | seccomp allow-list | processes, sockets, signals to others, ptrace, mounts, changes of mode and owner |
//! | bubblewrap, if present | seeing any other file or process at all |
//! | the harness | wall time, output that never ends |
//!
//! [`Sandbox::probe`] proves on a small program that every layer holds and refuses otherwise;
//! nothing falls back in silence. [`run`](Sandbox::run) judges one program,
//! [`run_all`](Sandbox::run_all) many, and [`pass_at_k()`] makes the score of Chen et al. 2021.
//!
//! This contains accidents and clumsy malice. It is no defence against an exploit of the kernel or
//! against side channels; `docs/sandbox.md` has the threat model.

mod bubblewrap;
#[cfg(target_os = "linux")]
mod confine;
mod error;
mod pass_at_k;
mod program;
mod python;
mod supervise;
#[cfg(target_os = "linux")]
mod syscalls;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::{Error, Result};
pub use pass_at_k::{pass_at_1, pass_at_k};
pub use program::{Exit, Limits, Outcome, Output, Program, Verdict};

use bubblewrap::Bubblewrap;
use python::Python;

/// The exit code of a launcher that could not confine itself and therefore ran nothing.
pub const REFUSED: u8 = 125;

/// How the message of such a launcher begins.
const REFUSAL: &str = "sandbox refused: ";

/// The name of the program's file in its private directory.
const PROGRAM_FILE: &str = "program.py";

/// Whether programs are confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// Every layer holds or nothing runs.
    Required,
    /// Programs run with the caller's rights, under a wall-clock limit only (`--unsafe-exec`).
    Off,
}

/// The command that ends in [`exec_confined`]: `program args… SPEC`.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The executable, usually the calling program itself.
    pub program: PathBuf,
    /// What comes before the specification, usually the name of a hidden subcommand.
    pub args: Vec<String>,
}

/// What the launcher must do, as it travels on its command line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confinement {
    limits: Limits,
    /// Files and directories that the program may read and execute.
    readable: Vec<PathBuf>,
    /// The one directory that the program may write.
    private_dir: PathBuf,
    /// The command to become.
    command: Vec<PathBuf>,
}

/// Confines this process as `spec` says and becomes the program; returns only to report a failure.
///
/// The launcher's `main` calls it with its last argument, prints [`refusal`] to standard error and
/// exits with [`REFUSED`].
pub fn exec_confined(spec: &str) -> Error {
    let run = || -> Result<std::convert::Infallible> {
        let spec: Confinement = serde_json::from_str(spec).map_err(Error::Specification)?;
        #[cfg(target_os = "linux")]
        return confine::exec(&spec);
        #[cfg(not(target_os = "linux"))]
        Err(error::not_linux(spec.command))
    };
    match run() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Returns the line that a launcher prints when it refuses to run a program.
pub fn refusal(error: &Error) -> String {
    let mut line = format!("{REFUSAL}{error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        line += &format!(": {cause}");
        source = cause.source();
    }
    line
}

/// A way to run Python programs that was tried and found to hold.
#[derive(Debug)]
pub struct Sandbox {
    python: Python,
    walls: Walls,
    /// Why an installed bubblewrap is not used.
    bubblewrap_failure: Option<Error>,
}

/// What stands between a program and the machine.
#[derive(Debug)]
enum Walls {
    None,
    Kernel(Launcher),
    Namespaces(Bubblewrap, Launcher),
}

impl Sandbox {
    /// Finds Python, bubblewrap and the kernel's means, and tries them on a small program.
    ///
    /// Bubblewrap is used where it works; it is missing or barred in many containers, and the
    /// kernel's own layers are complete without it.
    ///
    /// # Errors
    /// Without `python3`, or if `enforcement` is required and a layer cannot be enforced; the
    /// message names the layer and what to do.
    pub fn probe(launcher: Launcher, enforcement: Enforcement) -> Result<Self> {
        let python = Python::find()?;
        if enforcement == Enforcement::Off {
            return Ok(Self::unchecked(python, Walls::None));
        }
        let Some(bubblewrap) = Bubblewrap::find() else {
            return Self::checked(python, Walls::Kernel(launcher));
        };
        let walls = Walls::Namespaces(bubblewrap, launcher.clone());
        Self::checked(python.clone(), walls).or_else(|failure| {
            let kernel = Self::checked(python, Walls::Kernel(launcher))?;
            Ok(Self {
                bubblewrap_failure: Some(failure),
                ..kernel
            })
        })
    }

    /// As [`probe`](Self::probe) with enforcement required, but never inside bubblewrap.
    ///
    /// # Errors
    /// As [`probe`](Self::probe).
    pub fn probe_without_bubblewrap(launcher: Launcher) -> Result<Self> {
        Self::checked(Python::find()?, Walls::Kernel(launcher))
    }

    fn checked(python: Python, walls: Walls) -> Result<Self> {
        let sandbox = Self::unchecked(python, walls);
        sandbox.check()?;
        Ok(sandbox)
    }

    fn unchecked(python: Python, walls: Walls) -> Self {
        Self {
            python,
            walls,
            bubblewrap_failure: None,
        }
    }

    /// Returns why an installed bubblewrap is not used, for the caller to tell.
    pub fn bubblewrap_failure(&self) -> Option<&Error> {
        self.bubblewrap_failure.as_ref()
    }

    /// Returns the layers in force, for a report.
    pub fn layers(&self) -> &'static str {
        match self.walls {
            Walls::None => "none",
            Walls::Kernel(_) => "rlimits, landlock, seccomp",
            Walls::Namespaces(..) => "rlimits, landlock, seccomp, bubblewrap",
        }
    }

    /// Runs one program to its end or its limits.
    ///
    /// # Errors
    /// If the program could not be started or its confinement no longer holds. What the program
    /// itself does is never an error.
    pub fn run(&self, program: &Program) -> Result<Outcome> {
        let outcome = self.run_unchecked(program)?;
        if !outcome.claims_refusal() {
            return Ok(outcome);
        }
        // The launcher refused, or the program imitates one: a harmless program tells which.
        self.check().map(|()| outcome)
    }

    /// Runs `programs`, `at_once` at a time, and returns their outcomes in the same order.
    ///
    /// `on_done` is called from several threads with the index of each program as it ends.
    ///
    /// # Errors
    /// With the first failure of [`run`](Self::run), after the programs under way have ended.
    pub fn run_all(
        &self,
        programs: &[Program],
        at_once: NonZeroUsize,
        on_done: impl Fn(usize, &Outcome) + Sync,
    ) -> Result<Vec<Outcome>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(programs.len()));
        let work = || -> Result<()> {
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                let Some(program) = programs.get(idx) else {
                    return Ok(());
                };
                let outcome = self.run(program).inspect_err(|_| {
                    next.store(programs.len(), Ordering::Relaxed);
                })?;
                on_done(idx, &outcome);
                done.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((idx, outcome));
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once.get()).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("a worker does not panic"))
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(idx, _)| *idx);
        Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
    }

    /// Runs a program that tries each kind of wall, and says which one gave way.
    fn check(&self) -> Result<()> {
        // Much time: a busy machine must not look like one without walls.
        let limits = Limits {
            wall: Duration::from_secs(60),
            ..Limits::default()
        };
        let program = Program {
            limits,
            ..Program::new(include_str!("check.py"))
        };
        let outcome = self.run_unchecked(&program)?;
        match outcome.verdict {
            Verdict::Passed => Ok(()),
            _ => Err(Error::not_enforced(&outcome)),
        }
    }

    fn run_unchecked(&self, program: &Program) -> Result<Outcome> {
        let dir = tempfile::Builder::new()
            .prefix("llada-sandbox-")
            .tempdir()
            .map_err(Error::PrivateDir)?;
        std::fs::write(dir.path().join(PROGRAM_FILE), &program.code).map_err(Error::PrivateDir)?;
        let command = self.command(dir.path(), &program.limits)?;
        let exit = supervise::run(command, dir.path(), program)?;
        dir.close().map_err(Error::PrivateDir)?;
        Ok(exit)
    }

    fn command(&self, dir: &Path, limits: &Limits) -> Result<Command> {
        Ok(match &self.walls {
            Walls::None => {
                let python = self.python.command(dir);
                let mut command = bare_command(&python[0], dir);
                command.args(&python[1..]).current_dir(dir);
                command
            }
            Walls::Kernel(launcher) => {
                let mut command = bare_command(&launcher.program, dir);
                command
                    .args(&launcher.args)
                    .arg(self.specification(dir, limits)?);
                command.current_dir(dir);
                command
            }
            Walls::Namespaces(bubblewrap, launcher) => {
                let mut command = bubblewrap.command(dir, limits, &self.python.readable, launcher);
                command.arg(self.specification(bubblewrap::PRIVATE_DIR.as_ref(), limits)?);
                command
            }
        })
    }

    fn specification(&self, private_dir: &Path, limits: &Limits) -> Result<String> {
        let spec = Confinement {
            limits: limits.clone(),
            readable: self.python.readable.clone(),
            private_dir: private_dir.to_owned(),
            command: self.python.command(private_dir),
        };
        serde_json::to_string(&spec).map_err(Error::Specification)
    }
}

/// A command that inherits nothing of the caller's environment. Sets have the same order in each run.
fn bare_command(executable: &Path, private_dir: &Path) -> Command {
    let mut command = Command::new(executable);
    command.env_clear().env("TMPDIR", private_dir);
    command.envs([("LANG", "C.UTF-8"), ("PYTHONHASHSEED", "0")]);
    command
}
