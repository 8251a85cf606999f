//! The outer wall where `bwrap` is installed: namespaces in which nothing else exists.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Launcher, Limits, PROGRAM_FILE, bare_command};

/// Where a program finds its private directory inside.
pub(super) const PRIVATE_DIR: &str = "/tmp";

/// An installed bubblewrap.
#[derive(Debug)]
pub(super) struct Bubblewrap(PathBuf);

impl Bubblewrap {
    /// Finds `bwrap` in PATH. Whether it works here is for the sandbox's check to say.
    pub(super) fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join("bwrap"))
            .find(|file| file.is_file())
            .map(Self)
    }

    /// The command that starts `launcher` among `readable` and a private `/tmp` that holds the
    /// program's file of `dir`; the launcher's specification is still to be added.
    pub(super) fn command(
        &self,
        dir: &Path,
        limits: &Limits,
        readable: &[PathBuf],
        launcher: &Launcher,
    ) -> Command {
        let mut command = bare_command(&self.0, PRIVATE_DIR.as_ref());
        command.args(["--unshare-all", "--die-with-parent", "--new-session"]);
        command.args(["--proc", "/proc", "--dev", "/dev"]);
        // First, so that an interpreter or launcher below the real /tmp is mounted over it.
        command.args([
            "--size",
            &limits.disk_bytes.to_string(),
            "--tmpfs",
            PRIVATE_DIR,
        ]);
        for path in readable.iter().chain([&launcher.program]) {
            command.arg("--ro-bind").args([path, path]);
        }
        let inside = Path::new(PRIVATE_DIR).join(PROGRAM_FILE);
        command
            .arg("--ro-bind")
            .args([dir.join(PROGRAM_FILE), inside]);
        command.args(["--remount-ro", "/", "--chdir", PRIVATE_DIR, "--"]);
        command.arg(&launcher.program).args(&launcher.args);
        command
    }
}
