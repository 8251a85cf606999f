//! Which Python runs the programs, and what it must be able to read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Error, PROGRAM_FILE, Result};

/// Prints the real executable, then the directories Python lives in, one a line.
const DESCRIBE: &str = "import os, sys
assert sys.version_info >= (3, 8), sys.version
print(os.path.realpath(sys.executable), sys.prefix, sys.base_prefix, sep='\\n')";

/// What any program needs of the system: the loader, the libraries, the time zones.
const SYSTEM: [&str; 9] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/nix/store",
    "/gnu/store",
];

/// An interpreter.
#[derive(Debug, Clone)]
pub(super) struct Python {
    executable: PathBuf,
    /// Files and directories that a program may read; all of them exist.
    pub(super) readable: Vec<PathBuf>,
}

impl Python {
    /// Asks the `python3` of PATH where it really is: what PATH holds may be a script (pyenv).
    pub(super) fn find() -> Result<Self> {
        let no_python = |found: String| Error::NoPython { found };
        let output = Command::new("python3")
            .args(["-s", "-c", DESCRIBE])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| no_python(error.to_string()))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(no_python(
                stderr.lines().last().unwrap_or("no message").to_owned(),
            ));
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let mut lines = stdout.lines().map(PathBuf::from);
        let executable = lines
            .next()
            .ok_or_else(|| no_python("it does not say where it is".to_owned()))?;
        let readable = readable(&executable, lines.collect())?;
        Ok(Self {
            executable,
            readable,
        })
    }

    /// The command that runs the program in `dir`.
    ///
    /// No user site, no byte code written, UTF-8 whatever the locale. `-I` would do the same, but
    /// it also ignores PYTHONHASHSEED, without which the order of sets changes from run to run.
    pub(super) fn command(&self, dir: &Path) -> Vec<PathBuf> {
        let flags = ["-s", "-B", "-X", "utf8"].map(PathBuf::from);
        let program = dir.join(PROGRAM_FILE);
        [self.executable.clone()]
            .into_iter()
            .chain(flags)
            .chain([program])
            .collect()
    }
}

fn readable(executable: &Path, prefixes: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    if let Some(prefix) = prefixes.iter().find(|prefix| home.starts_with(prefix)) {
        return Err(Error::PythonHoldsHome {
            prefix: prefix.clone(),
        });
    }
    let paths: BTreeSet<PathBuf> = SYSTEM
        .into_iter()
        .map(PathBuf::from)
        .chain(prefixes)
        .chain([executable.to_owned()])
        .filter(|path| path.exists())
        .collect();
    Ok(paths.into_iter().collect())
}
