//! Downloads from a Hub on the loopback.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod mock;

use std::path::{Path, PathBuf};
use std::time::Duration;

use llada_hub::{Action, Error, Hub, HubId, Part, Result, Snapshot, Token};

use crate::mock::{COMMIT, Fault, MockHub};

const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

/// A Hub with a model of two shards, and an empty cache.
struct Scene {
    mock: MockHub,
    hub: Hub,
    _cache: tempfile::TempDir,
}

fn scene() -> Scene {
    let mock = MockHub::start();
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    mock.add("org/tiny", "model.safetensors.index.json", index);
    for (seed, name) in (0..).zip(SHARDS) {
        mock.add("org/tiny", name, bytes(seed, 1_000_000));
    }
    for name in ["config.json", "tokenizer.json", "chat_template.jinja"] {
        mock.add("org/tiny", name, "{}");
    }
    for unwanted in [
        "README.md",
        "modeling.py",
        "pytorch_model.bin",
        "other.safetensors",
    ] {
        mock.add("org/tiny", unwanted, "never asked for");
    }
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub {
        cache: cache.path().join("hub"),
        endpoint: mock.url.clone(),
        token: None,
        offline: false,
        retry_wait: Duration::ZERO,
    };
    Scene {
        mock,
        hub,
        _cache: cache,
    }
}

fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let noise = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8;
    (0..).take(len).map(noise).collect()
}

fn id(text: &str) -> HubId {
    text.parse().unwrap()
}

fn whole(hub: &Hub) -> Result<Snapshot> {
    hub.model(&id("org/tiny"), Part::Whole, &mut |_| {})
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Returns the requests for the contents of a file, without those for its size alone.
fn contents(requests: &[String], name: &str) -> Vec<String> {
    let asked = requests
        .iter()
        .filter(|r| r.starts_with("/blobs/") && r.contains(name));
    asked
        .map(|request| request.rsplit(' ').next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_model_is_laid_out_as_other_tools_expect_it_and_asked_for_once() {
    let scene = scene();
    let found = whole(&scene.hub).unwrap();
    let repo = scene.hub.cache.join("models--org--tiny");
    assert_eq!(found.commit, COMMIT);
    assert_eq!(found.dir, repo.join("snapshots").join(COMMIT));
    assert_eq!(read(&repo.join("refs/main")), COMMIT.as_bytes());
    assert_eq!(read(&found.dir.join(SHARDS[1])), bytes(1, 1_000_000));
    let mut names: Vec<_> = found
        .dir
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    let expected = [
        "chat_template.jinja",
        "config.json",
        SHARDS[0],
        SHARDS[1],
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
    assert!(!scene.mock.requests().is_empty());
    assert_eq!(whole(&scene.hub).unwrap(), found);
    let offline = Hub {
        offline: true,
        ..scene.hub.clone()
    };
    assert_eq!(whole(&offline).unwrap(), found);
    let by_commit = id(&format!("org/tiny@{COMMIT}"));
    assert_eq!(
        offline.model(&by_commit, Part::Whole, &mut |_| {}).unwrap(),
        found
    );
    assert!(scene.mock.requests().is_empty());
}

#[test]
fn texts_come_without_weights_and_weights_later() {
    let scene = scene();
    let texts = scene
        .hub
        .model(&id("org/tiny"), Part::Texts, &mut |_| {})
        .unwrap();
    assert!(texts.dir.join("tokenizer.json").exists() && !texts.dir.join(SHARDS[0]).exists());
    scene.mock.requests();
    scene
        .hub
        .model(&id("org/tiny"), Part::Texts, &mut |_| {})
        .unwrap();
    assert!(scene.mock.requests().is_empty());
    assert!(whole(&scene.hub).unwrap().dir.join(SHARDS[0]).exists());
}

#[test]
fn a_transfer_that_breaks_off_is_continued_where_it_was() {
    let scene = scene();
    scene.mock.misbehave(Fault::Cut(SHARDS[0], 300_000));
    let mut most = [0; 2];
    let found = scene
        .hub
        .model(&id("org/tiny"), Part::Whole, &mut |progress| {
            let which = usize::from(progress.action == Action::Check);
            most[which] = most[which].max(progress.before + progress.done);
            assert!(
                progress.before + progress.done <= progress.total,
                "{progress:?}"
            );
        });
    let found = found.unwrap();
    assert_eq!(read(&found.dir.join(SHARDS[0])), bytes(0, 1_000_000));
    assert_eq!(most, [2_000_000; 2]);
    let asked = contents(&scene.mock.requests(), SHARDS[0]);
    let from: Vec<usize> = asked
        .iter()
        .map(|range| range.trim_end_matches('-').parse().unwrap())
        .collect();
    // Each try asks for the size with the first byte alone.
    assert_eq!(from, [0, 0, 0, 300_000]);
}

#[test]
fn what_a_killed_process_left_is_continued_and_never_taken_for_whole() {
    let scene = scene();
    let blobs = scene.hub.cache.join("models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, &bytes(0, 1_000_000));
    let name: String = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    std::fs::write(blobs.join(name + ".part"), &bytes(0, 1_000_000)[..700_000]).unwrap();
    let found = whole(&scene.hub).unwrap();
    assert_eq!(read(&found.dir.join(SHARDS[0])), bytes(0, 1_000_000));
    let asked = contents(&scene.mock.requests(), SHARDS[0]);
    assert_eq!(asked, ["0-", "700000-"]);
    std::fs::remove_file(found.dir.join(SHARDS[1])).unwrap();
    let offline = Hub {
        offline: true,
        ..scene.hub.clone()
    };
    assert!(matches!(whole(&offline), Err(Error::Offline { .. })));
    assert_eq!(
        read(&whole(&scene.hub).unwrap().dir.join(SHARDS[1])),
        bytes(1, 1_000_000)
    );
}

#[test]
fn a_file_that_was_not_compared_is_compared_before_it_counts() {
    let scene = scene();
    let shard = whole(&scene.hub).unwrap().dir.join(SHARDS[0]);
    let blob = shard.canonicalize().unwrap();
    // As if the process had been killed between the last byte, which was wrong, and the comparison.
    std::fs::write(blob.with_extension("unchecked"), "").unwrap();
    std::fs::write(&blob, bytes(7, 1_000_000)).unwrap();
    let offline = Hub {
        offline: true,
        ..scene.hub.clone()
    };
    assert!(matches!(whole(&offline), Err(Error::Offline { .. })));
    assert!(matches!(whole(&scene.hub), Err(Error::Damaged { .. })));
    whole(&scene.hub).unwrap();
    assert_eq!(read(&shard), bytes(0, 1_000_000));
    assert!(whole(&offline).is_ok() && !blob.with_extension("unchecked").exists());
}

#[test]
fn a_file_with_another_hash_is_removed_and_refused() {
    let scene = scene();
    scene.mock.misbehave(Fault::Spoil(SHARDS[1]));
    let error = whole(&scene.hub).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { file, .. } if file == SHARDS[1]),
        "{error}"
    );
    assert!(error.to_string().contains("SHA-256"), "{error}");
    let snapshot = scene
        .hub
        .cache
        .join("models--org--tiny/snapshots")
        .join(COMMIT);
    assert!(snapshot.join(SHARDS[0]).exists() && !snapshot.join(SHARDS[1]).exists());
    let offline = Hub {
        offline: true,
        ..scene.hub.clone()
    };
    assert!(whole(&offline).is_err());
}

#[test]
fn a_refusal_names_the_token_and_an_unknown_id_is_named() {
    let scene = scene();
    scene.mock.misbehave(Fault::Token("good"));
    let error = whole(&scene.hub).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("401") && message.contains("set HF_TOKEN"),
        "{message}"
    );
    assert!(error.is_of_input());
    let token = |text: &str| Hub {
        token: Some(Token(text.into())),
        ..scene.hub.clone()
    };
    let message = whole(&token("bad")).unwrap_err().to_string();
    assert!(message.contains("check HF_TOKEN"), "{message}");
    let hub = token("good");
    for unknown in ["org/none", "org/tiny@v9"] {
        let error = hub
            .model(&id(unknown), Part::Whole, &mut |_| {})
            .unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }) && error.is_of_input());
        let message = error.to_string();
        assert!(
            message.contains(unknown) && message.contains(&scene.mock.url),
            "{message}"
        );
    }
    whole(&hub).unwrap();
}

#[test]
fn no_network_names_the_host() {
    let scene = scene();
    let endpoint = "http://127.0.0.1:9".to_owned();
    let error = whole(&Hub {
        endpoint,
        ..scene.hub.clone()
    })
    .unwrap_err();
    assert!(
        error.to_string().contains("127.0.0.1:9") && !error.is_of_input(),
        "{error}"
    );
}

#[test]
fn repositories_that_hold_no_such_model_are_told_apart() {
    let scene = scene();
    scene.mock.add("org/gguf", "tiny-q4_0.gguf", "");
    scene.mock.add("org/bin", "config.json", "{}");
    scene.mock.add("org/bin", "pytorch_model.bin", "");
    for (repo, says) in [
        ("org/gguf", "tiny-q4_0.gguf"),
        ("org/bin", "no `model.safetensors`"),
    ] {
        let error = scene
            .hub
            .model(&id(repo), Part::Whole, &mut |_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn data_sets_give_the_files_that_fit_their_patterns() {
    let scene = scene();
    let names = [
        "main/test-00000-of-00002.parquet",
        "main/test-00001-of-00002.parquet",
    ];
    for name in names.iter().chain(&["main/train-00000-of-00001.parquet"]) {
        scene.mock.add("datasets/org/data", name, *name);
    }
    let ask = |hub: &Hub, pattern: &str| hub.dataset(&id("org/data"), &[pattern], &mut |_| {});
    let (snapshot, files) = ask(&scene.hub, "main/test-*.parquet").unwrap();
    let expected: Vec<PathBuf> = names.iter().map(|name| snapshot.dir.join(name)).collect();
    assert_eq!(files, [expected]);
    assert_eq!(read(&files[0][1]), names[1].as_bytes());
    scene.mock.requests();
    let offline = Hub {
        offline: true,
        ..scene.hub.clone()
    };
    assert_eq!(ask(&offline, "main/test-*.parquet").unwrap().1, files);
    assert!(matches!(
        ask(&offline, "main/train-*.parquet"),
        Err(Error::Offline { .. })
    ));
    assert!(scene.mock.requests().is_empty());
    assert!(matches!(
        ask(&scene.hub, "valid-*"),
        Err(Error::Lacks { .. })
    ));
    assert_eq!(
        ask(&scene.hub, "main/train-*.parquet").unwrap().1[0].len(),
        1
    );
    std::fs::remove_file(&files[0][0]).unwrap();
    assert!(ask(&offline, "main/test-*.parquet").is_err());
}
