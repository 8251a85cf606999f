//! Connections of all sorts.

use std::net::SocketAddr;
use std::time::Duration;

use llada_server::{Config, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::support::{eventually, story, story_request, with};

/// A server behind a socket.
struct Listening {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

impl Listening {
    async fn start(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(config, vec![story()]).unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        let listening = Self {
            address,
            stop: Some(stop),
            served,
        };
        eventually(async || {
            listening
                .exchange("GET /ready HTTP/1.1\r\n")
                .await
                .contains("200 OK")
        })
        .await;
        listening
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a head that closes the connection, and returns all that comes back.
    async fn exchange(&self, head: &str) -> String {
        let mut stream = self.connect().await;
        let head = format!("{head}Host: a\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    async fn clients(&self) -> String {
        let metrics = self.exchange("GET /metrics HTTP/1.1\r\n").await;
        let clients = metrics
            .lines()
            .find(|line| line.starts_with("llada_clients{"));
        clients.unwrap().to_owned()
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection may also be reset; what came before counts.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

fn completion(more: serde_json::Value) -> String {
    let body = with(story_request(500), more).to_string();
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Keeps the engine busy for long.
fn endless() -> String {
    completion(serde_json::json!({ "stream": true, "ignore_eos": true, "threshold": 2.0, "n": 16 }))
}

fn impatient() -> Config {
    Config {
        stall_timeout: Duration::from_millis(300),
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_connection_is_forgotten() {
    for request in [
        endless(),
        completion(serde_json::json!({ "ignore_eos": true, "n": 16, "threshold": 2.0 })),
    ] {
        let server = Listening::start(Config::default()).await;
        let mut stream = server.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        eventually(async || !server.clients().await.ends_with(" 0")).await;
        drop(stream);
        eventually(async || server.clients().await.ends_with(" 0")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_or_half_a_request_are_closed() {
    let server = Listening::start(impatient()).await;
    let body_missing = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    let beginnings = ["", "GET /health HTTP/1.1\r\nHos", body_missing];
    for beginning in beginnings {
        let mut stream = server.connect().await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await; // ends only if the server closes
        assert!(answer.is_empty() || answer.contains(" 408 "), "{answer}");
    }
    assert!(
        server
            .exchange("GET /health HTTP/1.1\r\n")
            .await
            .contains("200 OK")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_room_for_a_request() {
    let server = Listening::start(Config::default()).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(server.connect().await);
    }
    assert!(
        server
            .exchange("GET /health HTTP/1.1\r\n")
            .await
            .contains("200 OK")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused() {
    let server = Listening::start(Config::default()).await;
    let many = (0..5000)
        .map(|i| format!("X-{i}: a\r\n"))
        .collect::<String>();
    let long = format!("X: {}\r\n", "a".repeat(1 << 20));
    for bomb in [many, long] {
        let answer = server
            .exchange(&format!("GET /health HTTP/1.1\r\n{bomb}"))
            .await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert!(
        server
            .exchange("GET /health HTTP/1.1\r\n")
            .await
            .contains("200 OK")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_stops_reading_holds_nobody_up() {
    let server = Listening::start(impatient()).await;
    let mut stream = server.connect().await;
    stream.write_all(endless().as_bytes()).await.unwrap();
    // Nothing is read of what comes back. The engine finishes, or the connection is dropped; either
    // way the requests end and others are served.
    eventually(async || server.clients().await.ends_with(" 0")).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_finishes_what_it_began() {
    let mut server = Listening::start(Config::default()).await;
    let mut stream = server.connect().await;
    let request =
        completion(serde_json::json!({ "stream": true, "max_tokens": 300, "threshold": 2.0 }));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    server.stop.take().unwrap().send(()).unwrap();
    let rest = read_all(&mut stream).await;
    assert!(rest.contains("[DONE]"), "{rest}");
    server.served.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_to_stop_ends_what_it_began() {
    let config = Config {
        shutdown_grace: Duration::ZERO,
        ..Config::default()
    };
    let mut server = Listening::start(config).await;
    let mut stream = server.connect().await;
    stream.write_all(endless().as_bytes()).await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    server.stop.take().unwrap().send(()).unwrap();
    let rest = read_all(&mut stream).await;
    assert!(
        rest.contains("shutting_down") || rest.contains("[DONE]"),
        "{rest}"
    );
    server.served.await.unwrap();
}
