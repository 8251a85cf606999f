//! The page: its files, its pure parts in node, and the whole of it in Chromium.

use std::path::{Path, PathBuf};
use std::process::Command;

use axum::body::Body;
use axum::http::Request;
use llada_server::{Config, Server};
use tokio::net::TcpListener;

use crate::support::{model, root, server, server_with, story};

#[tokio::test]
async fn the_page_and_all_it_names_are_inside_the_binary() {
    let server = server(vec![story()]).await;
    let page = server.get("/").await;
    let mut paths = vec!["/".to_owned()];
    let named = page
        .text
        .split('"')
        .filter(|word| word.starts_with("page/"));
    paths.extend(named.map(|path| format!("/{path}")));
    for part in ["api", "state", "replay", "view"] {
        paths.push(format!("/page/{part}.js"));
    }
    for path in paths {
        let file = server.get(&path).await;
        assert_eq!(file.status, 200, "{path}");
        let kind = match path.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(file.headers["content-type"], kind, "{path}");
        let policy = file.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self'"), "{policy}");
        let text = file.text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("://"), "{path} names another place");
        let html = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
        ];
        assert!(
            !html.iter().any(|word| text.contains(word)),
            "{path} writes HTML"
        );
    }
}

#[tokio::test]
async fn a_browser_that_has_a_file_is_not_sent_it_again() {
    let server = server(vec![story()]).await;
    let tag = server.get("/page/main.js").await.headers["etag"].clone();
    let ask = |tag: &str| {
        let request = Request::get("/page/main.js").header("if-none-match", tag);
        server.send(request.body(Body::empty()).unwrap())
    };
    let again = ask(&format!("\"old\", W/{}", tag.to_str().unwrap())).await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""));
    assert_eq!(ask("\"old\"").await.status, 200);
}

#[tokio::test]
async fn the_page_opens_without_a_key() {
    let config = Config {
        api_keys: llada_server::ApiKeys::parse("key"),
        ..Config::default()
    };
    let server = server_with(config, vec![story()]).await;
    assert_eq!(server.get("/").await.status, 200);
    assert_eq!(server.get("/page/main.js").await.status, 200);
    assert_eq!(server.get("/v1/models").await.status, 401);
}

#[test]
fn the_pure_parts_of_the_page_pass_their_tests() {
    let Some(node) = found("node") else {
        println!("skipped: no node");
        return;
    };
    assert!(run(Command::new(node)
        .arg("--test")
        .arg(script("parts.test.mjs"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_drafts_replays_and_stops_in_chromium() {
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let browser = browsers.into_iter().find_map(found);
    let (Some(node), Some(browser)) = (found("node"), browser) else {
        println!("skipped: no node, or no Chromium");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let models = vec![story(), model("parent", "assets/tinystories-656k")];
    let server = Server::new(Config::default(), models).unwrap();
    let served = tokio::spawn(server.serve(listener, std::future::pending()));
    let driven = tokio::task::spawn_blocking(move || {
        let pictures = std::env::var_os("PAGE_PICTURES");
        run(Command::new(node)
            .arg(script("browser.mjs"))
            .arg(browser)
            .arg(url)
            .args(pictures))
    });
    if !driven.await.unwrap() {
        println!("skipped: Chromium does not start");
    }
    served.abort();
}

fn script(name: &str) -> PathBuf {
    root().join("crates/llada-server/tests/page").join(name)
}

/// Returns where a program lies.
fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| Path::is_file(path))
}

/// Runs a script. Returns false if it exits with 77: the browser does not start here.
fn run(command: &mut Command) -> bool {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let is_usable = output.status.code() != Some(77);
    assert!(
        output.status.success() || !is_usable,
        "{}",
        String::from_utf8_lossy(&said)
    );
    is_usable
}
