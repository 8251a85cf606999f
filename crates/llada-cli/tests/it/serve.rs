//! `llada serve` as a process: what it refuses to start with, and how it starts and ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::clients::{Serving, ask, eventually, is_ready};
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
fn keys_and_values_in_bf16_fit_twice_into_their_memory() {
    let pages = |kind: &str| -> u32 {
        let args = ["--kv-memory", "2M", "--kv-precision", kind];
        let server = Serving::start(&[&["assets/stories-child"], &args[..]].concat());
        let metrics = ask(&server.address, "GET /metrics", "").unwrap();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("llada_free_pages{"));
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert_eq!(pages("bf16") / 2, pages("f32"));
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
    let port = eventually(|| std::fs::read_to_string(&port_file).ok());
    let address = format!("127.0.0.1:{}", port.trim());
    eventually(|| is_ready(&address).then_some(()));
    let id = process.id().to_string();
    assert!(Command::new("kill").arg(id).status().unwrap().success());
    assert!(process.wait().unwrap().success());
}

#[test]
fn a_server_outlives_its_files_and_its_port_a_killed_server() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("story");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(root().join("assets/stories-child")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let text = |server: &Serving| {
        let body = r#"{ "prompt": "Once upon a time", "max_tokens": 24 }"#;
        let answer = ask(&server.address, "POST /v1/completions", body).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        body["choices"][0]["text"].clone()
    };
    let server = Serving::start(&[model.to_str().unwrap()]);
    std::fs::remove_dir_all(&model).unwrap();
    let before = text(&server);
    let address = server.address.clone();
    let (_, port) = address.split_once(':').unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    let body = r#"{"prompt":"A","max_tokens":400,"stream":true,"ignore_eos":true,"threshold":2}"#;
    let head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json";
    write!(
        stream,
        "{head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream.read_exact(&mut [0; 15]).unwrap();
    drop(server); // by SIGKILL
    let server = Serving::start_at(port, &["assets/stories-child"]);
    assert_eq!(text(&server), before);
}
