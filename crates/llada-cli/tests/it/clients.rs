//! The official clients of OpenAI, and one that tries whatever the description allows, against
//! `llada serve`.
//!
//! Each needs its package from a registry, which is installed under `target/` once. Where Python, node
//! or the registry is not at hand, the test says so and checks nothing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::root;

/// What the scripts ask.
const MODELS: [&str; 2] = [
    "assets/stories-child:story",
    "assets/tinystories-656k:parent",
];

/// A running server, killed at the end.
pub(crate) struct Serving {
    process: Child,
    pub(crate) address: String,
    _dir: tempfile::TempDir,
}

impl Serving {
    /// Starts one of these models and settings, and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_at("0", args)
    }

    /// The same on a port of one's choice.
    pub(crate) fn start_at(port: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let chosen = dir.path().join("port");
        let process = Command::new(env!("CARGO_BIN_EXE_llada"))
            .current_dir(root())
            .arg("serve")
            .args(args)
            .args(["--port", port, "--port-file", chosen.to_str().unwrap()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let port = eventually(|| std::fs::read_to_string(&chosen).ok());
        let address = format!("127.0.0.1:{}", port.trim());
        eventually(|| is_ready(&address).then_some(()));
        Self {
            process,
            address,
            _dir: dir,
        }
    }
}

impl Serving {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits for what has to happen.
pub(crate) fn eventually<T>(mut happened: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(result) = happened() {
            return result;
        }
        assert!(Instant::now() < give_up, "it never happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn is_ready(address: &str) -> bool {
    ask(address, "GET /ready", "").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Returns the answer to a request, with its head; `None` if nobody is there.
pub(crate) fn ask(address: &str, method_and_path: &str, body: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    let request = format!(
        "{method_and_path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).ok()?;
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Runs a command of an installation; `None`, with a word why, if it does not work.
fn install(command: &mut Command, what: &str) -> Option<()> {
    let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if done.is_ok_and(|status| status.success()) {
        return Some(());
    }
    say_skipped(what);
    None
}

#[expect(clippy::print_stderr, reason = "a test that checks nothing says so")]
fn say_skipped(what: &str) {
    eprintln!("skipped: {what} is not at hand");
}

fn home(name: &str) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&home).unwrap();
    home
}

/// Runs a client that says `promise` when all went well.
fn check(command: &mut Command, promise: &str) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains(promise),
        "{said}{problem}"
    );
}

/// Returns the programs of a virtual environment with a package; `None` if it cannot be had.
fn python_with(package: &str) -> Option<PathBuf> {
    let home = home(&format!("python-{package}"));
    let programs = home.join("bin");
    install(
        Command::new("python3").args(["-m", "venv"]).arg(&home),
        "python3",
    )?;
    let pip = ["-m", "pip", "install", "--quiet", "--retries", "1", package];
    install(
        Command::new(programs.join("python")).args(pip),
        &format!("the Python package `{package}`"),
    )?;
    Some(programs)
}

#[test]
fn the_python_client_works_unchanged() {
    let Some(programs) = python_with("openai") else {
        return;
    };
    let serving = Serving::start(&MODELS);
    let mut client = Command::new(programs.join("python"));
    let script = root().join("tests/clients/contract.py");
    check(client.arg(script).arg(serving.url()), "contract kept");
}

/// Sends what the OpenAPI description allows and what it does not to every endpoint: no answer is a
/// fault, late, or other than described. `LLADA_SLOW_TESTS=1` sends some thousands.
#[test]
fn whatever_the_description_allows_is_answered_as_it_says() {
    let Some(programs) = python_with("schemathesis") else {
        return;
    };
    let slow = std::env::var_os("LLADA_SLOW_TESTS").is_some();
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_schema_conformance,unsupported_method";
    let serving = Serving::start(&MODELS[..1]);
    let mut client = Command::new(programs.join("st"));
    client
        .current_dir(programs)
        .args(["run", "--no-color", "--checks", checks])
        .args(["--generation-database", "none", "--seed", "1"])
        .args(["--max-examples", if slow { "500" } else { "10" }])
        .args(["--request-timeout", "60"])
        .arg(format!("{}/openapi.json", serving.url()));
    check(&mut client, " passed");
    assert!(is_ready(&serving.address));
}

#[test]
fn the_javascript_client_works_unchanged() {
    let home = home("javascript-client");
    let npm = [
        "install",
        "--silent",
        "--no-audit",
        "--fetch-retries",
        "1",
        "openai",
    ];
    let installed = install(
        Command::new("npm")
            .current_dir(&home)
            .args(["--prefix", "."])
            .args(npm),
        "npm, or its package `openai`,",
    );
    if installed.is_none() {
        return;
    }
    // Packages are looked for beside the script.
    let script = home.join("contract.mjs");
    std::fs::copy(root().join("tests/clients/contract.mjs"), &script).unwrap();
    let serving = Serving::start(&MODELS);
    let mut client = Command::new("node");
    check(client.arg(script).arg(serving.url()), "contract kept");
}
