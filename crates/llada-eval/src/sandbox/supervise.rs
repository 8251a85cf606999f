//! The harness's side of one program: starts it, reads what it prints, ends it in time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Error, Exit, Outcome, Output, Program, Result};

/// How often the harness looks whether a program has ended.
const POLL: Duration = Duration::from_millis(5);

/// How long the streams of a dead process may stay open. Only an unconfined program can leave a
/// child that holds them.
const STREAM_GRACE: Duration = Duration::from_secs(1);

/// Runs `command` with the input of `program` and judges it; files of the harness lie in `dir`.
pub(super) fn run(mut command: Command, dir: &Path, program: &Program) -> Result<Outcome> {
    let executable = PathBuf::from(command.get_program());
    let stdin = input_file(dir, &program.stdin).map_err(Error::PrivateDir)?;
    let failed = |source| Error::Process {
        program: executable.clone(),
        source,
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    let kept = program.limits.output_bytes;
    let stdout = capture(child.stdout.take().expect("stdout is a pipe"), kept);
    let stderr = capture(child.stderr.take().expect("stderr is a pipe"), kept);
    let (status, killed) = wait(&mut child, program.limits.wall).map_err(failed)?;
    Ok(Outcome::judge(
        exit(status),
        killed,
        collect(&stdout),
        collect(&stderr),
    ))
}

/// A file rather than a pipe: nobody has to write to a program that does not read.
fn input_file(dir: &Path, text: &str) -> io::Result<File> {
    let path = dir.join("stdin");
    std::fs::write(&path, text)?;
    File::open(path)
}

/// Reads `stream` to its end and keeps the first `kept` bytes.
///
/// Reading goes on beyond them, so that a program that prints much is not blocked.
fn capture(mut stream: impl Read + Send + 'static, kept: usize) -> Receiver<Output> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A stream that breaks ends there; the exit status tells the rest.
        let _ = stream.by_ref().take(kept as u64).read_to_end(&mut bytes);
        let dropped = io::copy(&mut stream, &mut io::sink()).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // Nobody listens any more if an unconfined program left a child with its streams.
        let _ = sender.send(Output {
            text,
            truncated: dropped > 0,
        });
    });
    receiver
}

/// What was captured of a program that has ended.
fn collect(stream: &Receiver<Output>) -> Output {
    let unfinished = || Output {
        text: String::new(),
        truncated: true,
    };
    stream
        .recv_timeout(STREAM_GRACE)
        .unwrap_or_else(|_| unfinished())
}

/// Waits for `child` and kills its process group after `limit`; returns whether it had to.
///
/// One group is all there is: a confined program has one process, and bubblewrap's processes end
/// with it. The group is killed in any case, for the children that an unconfined program leaves.
fn wait(child: &mut Child, limit: Duration) -> io::Result<(ExitStatus, bool)> {
    let start = Instant::now();
    let group = Pid::from_raw(child.id().cast_signed());
    let mut killed = false;
    loop {
        if let Some(status) = child.try_wait()? {
            let _ = killpg(group, Signal::SIGKILL); // most often there is no such group any more
            return Ok((status, killed));
        }
        if !killed && start.elapsed() >= limit {
            killed = true;
            killpg(group, Signal::SIGKILL)?;
        }
        thread::sleep(POLL);
    }
}

/// Bubblewrap and shells report a signal as an exit code beyond 128.
fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) if code > 128 => Exit::Signal(code - 128),
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.expect("a process ends by code or by signal")),
    }
}
