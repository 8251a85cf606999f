//! One command of a sequence: announced, run, timed.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Writes a line for the person who watches.
#[expect(
    clippy::print_stderr,
    reason = "this binary's progress belongs on stderr"
)]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// Runs `cargo` with these arguments.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    finish(&mut cargo_command(args))
}

/// Runs `cargo doc` with these arguments and with warnings as errors.
pub(crate) fn cargo_doc(args: &[&str]) -> Result<()> {
    finish(
        cargo_command(&["doc"])
            .args(args)
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn cargo_command(args: &[&str]) -> Command {
    // Set by cargo when it starts this binary, so that the pinned toolchain is used again.
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// Runs a program if it is installed, else says that the step is skipped.
pub(crate) fn optional(program: &str, args: &[&str]) -> Result<()> {
    if !is_installed(program) {
        say(&format!("--- skipped: `{program}` is not installed"));
        return Ok(());
    }
    finish(Command::new(program).args(args))
}

/// Returns whether a program answers to `--version`.
pub(crate) fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command in the repository's root and fails if it does.
fn finish(command: &mut Command) -> Result<()> {
    let line = shown(command);
    say(&format!("==> {line}"));
    let start = Instant::now();
    let status = command
        .current_dir(root())
        .status()
        .with_context(|| format!("start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    say(&format!("    {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// Returns a command as a person would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let words = [program].into_iter().chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the repository")
}
