//! `llada serve` as a process: what it refuses to start with, and how it starts and ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::{failure, root};

#[test]
fn a_server_that_cannot_serve_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("keys");
    std::fs::write(&empty, "\n \n").unwrap();
    let empty = empty.to_str().unwrap();
    let story = "assets/stories-child";
    let cases: [(&[&str], &str); 7] = [
        (&["serve"], "MODEL"),
        (&["serve", "assets/stories-child:a b"], "is no name"),
        (
            &["serve", story, story],
            "two models are named `stories-child`",
        ),
        (&["serve", story, "--context", "513"], "512 tokens"),
        (&["serve", story, "--kv-memory", "2T"], "is no size"),
        (&["serve", story, "--api-key-file", empty], "holds no key"),
        (&["serve", story, "--max-concurrent", "0"], "max-concurrent"),
    ];
    for (args, word) in cases {
        let (code, message) = failure(args);
        assert_eq!(code, 2, "{args:?}: {message}");
        assert!(message.contains(word), "{args:?}: {message}");
    }
    let (code, message) = failure(&["serve", "no-such-model"]);
    assert_eq!(code, 2);
    assert!(message.contains("no-such-model"), "{message}");
}

#[test]
fn a_server_listens_writes_its_port_and_ends_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let port_file = dir.path().join("port");
    let mut process = Command::new(env!("CARGO_BIN_EXE_llada"))
        .current_dir(root())
        .args([
            "serve",
            "assets/stories-child",
            "--log",
            "json",
            "--port",
            "0",
        ])
        .arg("--port-file")
        .arg(&port_file)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut early = lines.by_ref().map(Result::unwrap);
    let listening = early.find(|line| line.starts_with("listening")).unwrap();
    let port = std::fs::read_to_string(&port_file).unwrap();
    assert!(
        listening.ends_with(&format!("http://127.0.0.1:{}", port.trim())),
        "{listening}"
    );
    let id = process.id().to_string();
    assert!(Command::new("kill").arg(id).status().unwrap().success());
    for line in lines.map(Result::unwrap) {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(entry["level"].is_string(), "{line}");
    }
    assert!(process.wait().unwrap().success());
}

#[test]
#[cfg(target_os = "linux")]
fn a_log_that_cannot_be_written_does_not_end_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let port_file = dir.path().join("port");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_llada"))
        .current_dir(root())
        .args([
            "serve",
            "assets/stories-child",
            "--port",
            "0",
            "--port-file",
        ])
        .arg(&port_file)
        .stderr(full)
        .spawn()
        .unwrap();
    let port = crate::clients::eventually(|| std::fs::read_to_string(&port_file).ok());
    let address = format!("127.0.0.1:{}", port.trim());
    crate::clients::eventually(|| crate::clients::is_ready(&address).then_some(()));
    let id = process.id().to_string();
    assert!(Command::new("kill").arg(id).status().unwrap().success());
    assert!(process.wait().unwrap().success());
}
