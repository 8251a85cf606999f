//! A Hub on the loopback, which answers as the real one does: a listing, small files by themselves,
//! large ones by way of another address, ranges of bytes. It can be told to misbehave.
//!
//! The tests of `llada-cli` include this file too.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The commit of every repository.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A way to misbehave.
#[derive(Clone)]
pub(crate) enum Fault {
    /// Closes the connection after so many bytes of the file, once.
    Cut(&'static str, usize),
    /// Sends another byte in the middle of the file.
    Spoil(&'static str),
    /// Refuses whoever has not this token.
    Token(&'static str),
}

#[derive(Default)]
struct State {
    /// Contents by repository and name; data sets begin with `datasets/`.
    repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    faults: Vec<Fault>,
    requests: Vec<String>,
}

pub(crate) struct MockHub {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl MockHub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (own, shared) = (url.clone(), Arc::clone(&state));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (url, state) = (own.clone(), Arc::clone(&shared));
                // Whoever hangs up early is told nothing.
                thread::spawn(move || answer(stream.unwrap(), &url, &state).ok());
            }
        });
        Self { url, state }
    }

    /// Adds a file to a repository, `org/name` or `datasets/org/name`.
    pub(crate) fn add(&self, repo: &str, name: &str, content: impl Into<Vec<u8>>) {
        let mut state = self.state.lock().unwrap();
        let files = state.repos.entry(repo.to_owned()).or_default();
        files.insert(name.to_owned(), content.into());
    }

    pub(crate) fn misbehave(&self, fault: Fault) {
        self.state.lock().unwrap().faults.push(fault);
    }

    /// Returns what was asked since the last call: path and range.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

struct Request {
    path: String,
    /// First byte that is wanted, and whether it is the only one.
    range: Option<(usize, bool)>,
    token: Option<String>,
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut token) = (None, None);
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let (from, to) = value.trim_start_matches("bytes=").split_once('-').unwrap();
                range = Some((from.parse().unwrap(), !to.is_empty()));
            }
            "authorization" => token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Ok(Request { path, range, token })
}

fn answer(mut stream: TcpStream, url: &str, state: &Mutex<State>) -> std::io::Result<()> {
    let request = read(&stream)?;
    let mut state = state.lock().unwrap();
    let range = request
        .range
        .map_or(String::new(), |(from, _)| format!(" {from}-"));
    state.requests.push(format!("{}{range}", request.path));
    let is_refused = |fault: &Fault| match fault {
        Fault::Token(token) => request.token.as_deref() != Some(token),
        Fault::Cut(..) | Fault::Spoil(_) => false,
    };
    // The other address knows no tokens.
    if !request.path.starts_with("/blobs/") && state.faults.iter().any(is_refused) {
        return stream.write_all(head(401, &[], 0).as_bytes());
    }
    let path = request.path.split('?').next().unwrap_or_default();
    if let Some(repo) = path.strip_prefix("/api/") {
        let repo = repo.strip_prefix("models/").unwrap_or(repo);
        let (repo, revision) = repo.split_once("/revision/").unwrap_or((repo, ""));
        return match state.repos.get(repo) {
            Some(files) if ["main", COMMIT].contains(&revision) => {
                let text = listing(files);
                write!(stream, "{}{text}", head(200, &[], text.len()))
            }
            _ => stream.write_all(head(404, &[], 0).as_bytes()),
        };
    }
    let is_elsewhere = path.starts_with("/blobs/");
    let path = path.strip_prefix("/blobs").unwrap_or(path);
    let (repo, name) = path
        .split_once(&format!("/resolve/{COMMIT}/"))
        .unwrap_or_default();
    let content = state.repos.get(repo.trim_start_matches('/'));
    let Some(content) = content.and_then(|files| files.get(name)).cloned() else {
        return stream.write_all(head(404, &[], 0).as_bytes());
    };
    let tag = hash(&content);
    let commit = ("X-Repo-Commit", COMMIT.to_owned());
    if is_large(name) && !is_elsewhere {
        let place = ("Location", format!("{url}/blobs{path}"));
        let tag = ("X-Linked-Etag", format!("\"{tag}\""));
        return stream.write_all(head(302, &[commit, tag, place], 0).as_bytes());
    }
    send(
        stream,
        &mut state,
        name,
        content,
        request.range,
        [commit, ("ETag", format!("\"{tag}\""))],
    )
}

/// Sends the bytes that are wanted of a file, as the faults have it.
fn send(
    mut stream: TcpStream,
    state: &mut State,
    name: &str,
    mut content: Vec<u8>,
    range: Option<(usize, bool)>,
    headers: [(&str, String); 2],
) -> std::io::Result<()> {
    let total = content.len();
    let (from, is_single) = range.unwrap_or((0, false));
    if from >= total {
        return stream.write_all(head(416, &[], 0).as_bytes());
    }
    let to = if is_single { from + 1 } else { total };
    let mut last = to;
    if !is_single {
        let cut = state
            .faults
            .iter()
            .position(|f| matches!(f, Fault::Cut(file, _) if *file == name));
        if let Some(Fault::Cut(_, bytes)) = cut.map(|index| state.faults.remove(index)) {
            last = to.min(from + bytes);
        }
        if state
            .faults
            .iter()
            .any(|f| matches!(f, Fault::Spoil(file) if *file == name))
        {
            content[total / 2] ^= 1;
        }
    }
    let [commit, tag] = headers;
    let range = ("Content-Range", format!("bytes {from}-{}/{total}", to - 1));
    stream.write_all(head(206, &[commit, tag, range], to - from).as_bytes())?;
    stream.write_all(&content[from..last])
}

fn head(status: u16, headers: &[(&str, String)], len: usize) -> String {
    let mut text = format!("HTTP/1.1 {status} -\r\nConnection: close\r\nContent-Length: {len}\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n"
}

/// The real Hub decides by size.
fn is_large(name: &str) -> bool {
    [".safetensors", ".parquet", ".bin"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn hash(content: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, content);
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> String {
    let file = |(name, content): (&String, &Vec<u8>)| {
        let (hash, size) = (hash(content), content.len());
        let mut file = serde_json::json!({ "rfilename": name, "size": size, "blobId": hash });
        if is_large(name) {
            file["lfs"] = serde_json::json!({ "sha256": hash, "size": size, "pointerSize": 127 });
        }
        file
    };
    let files: Vec<_> = files.iter().map(file).collect();
    serde_json::json!({ "sha": COMMIT, "siblings": files }).to_string()
}
