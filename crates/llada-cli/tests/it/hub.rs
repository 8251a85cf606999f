//! Models by Hub id and their quantised copies, against a Hub on the loopback.

mod data;
#[path = "../../../llada-hub/tests/it/mock.rs"]
mod mock;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use self::mock::{COMMIT, Fault, MockHub};
use crate::{GENERATE_GOLDEN, json, root};

/// A Hub, and caches of nobody's.
struct Scene {
    mock: MockHub,
    dir: tempfile::TempDir,
}

impl Scene {
    /// Starts a Hub that has the golden model and the stories.
    fn new() -> Self {
        let mock = MockHub::start();
        for (repo, dir) in [
            ("org/golden", "testdata/golden/model"),
            ("org/stories", "assets/stories-child"),
        ] {
            for entry in root().join(dir).read_dir().unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                mock.add(repo, name, std::fs::read(&path).unwrap());
            }
        }
        let dir = tempfile::tempdir().unwrap();
        Self { mock, dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llada"));
        command
            .current_dir(root())
            .args(args)
            .env("HF_HOME", self.dir.path().join("hf"))
            .env("LLADA_CACHE", self.dir.path().join("llada"))
            .env("HF_ENDPOINT", &self.mock.url)
            .env("NO_PROXY", "127.0.0.1");
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Returns stdout and stderr of a command that must succeed.
    fn succeeds(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{args:?}: {err}");
        (out, err)
    }

    /// Returns exit code and stderr of a command that must fail.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        Self::failure_of(&mut self.command(args))
    }

    /// Likewise, of a command that was given more.
    fn failure_of(command: &mut Command) -> (i32, String) {
        let output = command.output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && !message.contains("panicked"),
            "{message}"
        );
        (output.status.code().unwrap(), message)
    }

    /// Lists the quantised copies.
    fn copies(&self) -> Vec<PathBuf> {
        let dir = self.dir.path().join("llada/quantised/v1");
        let files = dir
            .read_dir()
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
            .collect()
    }
}

/// Returns the arguments that make the golden model write, with another model and further flags.
fn generate<'a>(model: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let mut args = GENERATE_GOLDEN.to_vec();
    args[1] = model;
    args.extend(["--block-length", "8"]);
    [&args, flags].concat()
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().unwrap().modified().unwrap()
}

#[test]
fn a_model_of_the_hub_is_quantised_once_and_then_needs_neither_network_nor_weights() {
    let scene = Scene::new();
    let args = generate("org/golden", &["--quant", "q8_0"]);
    let (first, log) = scene.succeeds(&args);
    assert!(
        log.contains("fetching `org/golden`") && log.contains("writing a copy"),
        "{log}"
    );
    let copies = scene.copies();
    let name = format!("org--golden-{COMMIT}-q8_0.gguf");
    assert!(copies.len() == 1 && copies[0].ends_with(name), "{copies:?}");

    let made = scene.dir.path().join("made.gguf");
    let made = made.to_str().unwrap();
    scene.succeeds(&["quantize", "testdata/golden/model", made, "--type", "q8_0"]);
    assert_eq!(
        std::fs::read(&copies[0]).unwrap(),
        std::fs::read(made).unwrap()
    );
    let (expected, _) = scene.succeeds(&generate(made, &[]));
    assert_eq!(json(&first)["ids"], json(&expected)["ids"]);

    let written = modified(&copies[0]);
    scene.mock.requests();
    let blobs = scene.dir.path().join("hf/hub/models--org--golden/blobs");
    for entry in blobs.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.metadata().unwrap().len() > 100_000 {
            std::fs::remove_file(path).unwrap(); // the weights
        }
    }
    let (second, log) = scene.succeeds(&args);
    assert_eq!(json(&second)["ids"], json(&first)["ids"]);
    assert!(
        !log.contains("fetching") && !log.contains("writing"),
        "{log}"
    );
    assert_eq!(modified(&copies[0]), written);
    let offline = scene
        .command(&args)
        .env("HF_HUB_OFFLINE", "1")
        .status()
        .unwrap();
    assert!(offline.success());
    assert!(scene.mock.requests().is_empty());
}

#[test]
fn a_copy_of_a_directory_follows_its_changes() {
    let scene = Scene::new();
    let model = scene.dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in root().join("testdata/golden/model").read_dir().unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let model_arg = model.to_str().unwrap();
    let args = generate(model_arg, &["--quant", "q4_0"]);
    let (first, _) = scene.succeeds(&args);
    assert_eq!(scene.succeeds(&args).0, first);
    assert_eq!(scene.copies().len(), 1);
    let config = model.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + "\n").unwrap();
    let (_, log) = scene.succeeds(&args);
    assert!(log.contains("writing a copy"), "{log}");
    assert_eq!(scene.copies().len(), 2);
    // What a killed process left is no copy.
    for copy in scene.copies() {
        std::fs::rename(&copy, copy.with_added_extension("partial")).unwrap();
    }
    assert_eq!(scene.succeeds(&args).0, first);
    assert_eq!(scene.copies().len(), 1);
}

#[test]
fn quant_refuses_gguf_files_and_other_types() {
    let scene = Scene::new();
    let file = scene.dir.path().join("x.gguf");
    let file = file.to_str().unwrap();
    scene.succeeds(&["quantize", "testdata/golden/model", file, "--type", "q8_0"]);
    for command in ["generate", "chat", "serve"] {
        let prompt = ["--prompt", "x"];
        let rest = if command == "generate" {
            &prompt[..]
        } else {
            &[]
        };
        let args = [&[command, file, "--quant", "q4_0"], rest].concat();
        let (code, message) = scene.fails(&args);
        assert!(code == 2 && message.contains("GGUF file"), "{message}");
        let args = [&[command, "org/golden", "--quant", "q3_k"], rest].concat();
        let (code, message) = scene.fails(&args);
        assert!(
            code == 2 && message.contains("q4_0, q8_0, q4_k, q6_k, bf16"),
            "{message}"
        );
    }
    assert!(scene.copies().is_empty());
}

#[test]
fn what_is_neither_a_path_nor_on_the_hub_is_refused_as_both() {
    let scene = Scene::new();
    let (code, message) = scene.fails(&["generate", "assets/typo", "--ids", "1"]);
    assert_eq!(code, 2);
    let says = ["no directory or file", "Hub id", "404", &scene.mock.url];
    assert!(says.iter().all(|word| message.contains(word)), "{message}");
    let args = ["generate", "org/golden", "--ids", "1"];
    let (code, message) = Scene::failure_of(scene.command(&args).env("HF_HUB_OFFLINE", "1"));
    assert!(code == 2 && message.contains("HF_HUB_OFFLINE"), "{message}");
    let away = "http://127.0.0.1:9";
    let (code, message) = Scene::failure_of(scene.command(&args).env("HF_ENDPOINT", away));
    assert!(code == 1 && message.contains("127.0.0.1:9"), "{message}");
    scene.mock.misbehave(Fault::Token("good"));
    let (code, message) = scene.fails(&args);
    assert!(code == 2 && message.contains("set HF_TOKEN"), "{message}");
    let allowed = scene
        .command(&["inspect", "org/golden"])
        .env("HF_TOKEN", "good")
        .status();
    assert!(allowed.unwrap().success());
}

#[test]
fn what_was_cut_or_spoilt_on_the_way_is_never_taken_for_whole() {
    let scene = Scene::new();
    scene
        .mock
        .misbehave(Fault::Cut("model.safetensors", 100_000));
    let args = [
        "generate",
        "org/stories",
        "--prompt",
        "One day",
        "--max-new-tokens",
        "8",
    ];
    let (found, _) = scene.succeeds(&args);
    let local = [
        "generate",
        "assets/stories-child",
        "--prompt",
        "One day",
        "--max-new-tokens",
        "8",
    ];
    assert_eq!(found, scene.succeeds(&local).0);
    let resumed = |request: &String| request.contains("model.safetensors 100000-");
    assert!(scene.mock.requests().iter().any(resumed));
    scene
        .mock
        .misbehave(Fault::Spoil("model-00002-of-00002.safetensors"));
    for _ in 0..2 {
        let (code, message) = scene.fails(&["generate", "org/golden", "--ids", "1"]);
        assert!(code == 1 && message.contains("SHA-256"), "{message}");
    }
}

#[test]
fn commands_fetch_what_they_read() {
    let scene = Scene::new();
    let inspected = scene.succeeds(&["inspect", "org/golden", "--json"]).0;
    assert_eq!(json(&inspected)["weights"], "absent");
    let recipe = "recipes/stories-demo-2core.toml";
    scene.succeeds(&[
        "train",
        recipe,
        "--set",
        "model.path='org/stories'",
        "--plan",
    ]);
    let requests = scene.mock.requests();
    let mut files = requests
        .iter()
        .filter(|request| request.contains("/resolve/"));
    assert!(
        !files.any(|file| file.contains("safetensors")),
        "{requests:?}"
    );
    let child = scene.dir.path().join("child");
    let child = child.to_str().unwrap();
    let revision = format!("org/stories@{COMMIT}");
    scene.succeeds(&["merge", &revision, "org/stories", "--out", child]);
    let text = [
        "--data",
        "assets/stories/valid.jsonl",
        "--mode",
        "block:8",
        "--draws",
        "1",
        "--max-len",
        "16",
    ];
    let nll = |model| {
        scene
            .succeeds(&[&["eval", "nll", model], &text[..]].concat())
            .0
    };
    assert_eq!(nll("org/stories"), nll("assets/stories-child"));
    let requests = scene.mock.requests();
    let weights = requests
        .iter()
        .filter(|r| r.starts_with("/org/stories") && r.contains("model.safetensors"));
    // The size, and the content, each by way of the other address.
    assert_eq!(weights.count(), 2, "{requests:?}");
}

#[test]
fn a_server_calls_a_model_as_its_repository() {
    use std::io::{Read, Write};
    let scene = Scene::new();
    let port_file = scene.dir.path().join("port");
    let model = format!("org/stories@{COMMIT}");
    let mut server = scene
        .command(&["serve", &model, "--quant", "q8_0", "--port", "0"])
        .arg("--port-file")
        .arg(&port_file)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let port = crate::clients::eventually(|| std::fs::read_to_string(&port_file).ok());
    let address = format!("127.0.0.1:{}", port.trim());
    crate::clients::eventually(|| crate::clients::is_ready(&address).then_some(()));
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let request = "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(answer.contains("\"stories\""), "{answer}");
    assert_eq!(scene.copies().len(), 1);
}
