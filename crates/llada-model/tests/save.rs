//! Saving: what is written loads again, and nothing is half-written.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use llada_model::{ExpertLayout, PartialDir, SaveOptions, StorageDtype, save, write_model};
use safetensors::Dtype;
use support::{golden, load_f32, read_tensors, tiny, tinystories, values};

fn options(experts: ExpertLayout, max_shard_bytes: usize) -> SaveOptions {
    SaveOptions {
        experts,
        max_shard_bytes,
        ..SaveOptions::default()
    }
}

#[test]
fn split_to_merged_to_split_is_byte_identical() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["split", "merged", "again"].map(|name| dir.path().join(name));
    let layouts = [
        ExpertLayout::Split,
        ExpertLayout::Merged,
        ExpertLayout::Split,
    ];
    let mut source = golden();
    for (path, layout) in paths.iter().zip(layouts) {
        let loaded = load_f32(&source).unwrap();
        save(
            path,
            &loaded.config,
            &loaded.weights,
            &options(layout, usize::MAX),
        )
        .unwrap();
        source.clone_from(path);
    }
    let bytes = |i: usize| std::fs::read(paths[i].join("model.safetensors")).unwrap();
    assert_eq!(bytes(0), bytes(2));
    assert_eq!(read_tensors(&paths[0]), read_tensors(&golden()));
    let merged = read_tensors(&paths[1]);
    assert_eq!(
        merged["model.layers.2.mlp.experts.down_proj"].1,
        [16, 64, 32]
    );
    assert!(!merged.keys().any(|name| name.contains("experts.0")));
}

#[test]
fn a_dense_parent_is_written_in_its_own_names() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("saved");
    let loaded = load_f32(&tinystories()).unwrap();
    save(
        &target,
        &loaded.config,
        &loaded.weights,
        &SaveOptions::default(),
    )
    .unwrap();
    let mut expected = read_tensors(&tinystories());
    let embedding = expected.remove("lm_head.weight").unwrap();
    expected.insert("model.embed_tokens.weight".into(), embedding);
    assert_eq!(read_tensors(&target), expected);
    assert_eq!(
        values(&load_f32(&target).unwrap().weights),
        values(&loaded.weights)
    );
}

#[test]
fn an_expert_bias_stays_f32_whatever_the_storage_type() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = load_f32(&golden()).unwrap();
    for (name, dtype, expected) in [
        ("a", StorageDtype::Bf16, Dtype::BF16),
        ("b", StorageDtype::F32, Dtype::F32),
    ] {
        let target = dir.path().join(name);
        let options = SaveOptions {
            dtype: Some(dtype),
            ..SaveOptions::default()
        };
        save(&target, &loaded.config, &loaded.weights, &options).unwrap();
        let tensors = read_tensors(&target);
        assert_eq!(tensors["model.layers.1.mlp.gate.expert_bias"].0, Dtype::F32);
        assert_eq!(tensors["model.layers.1.mlp.gate.weight"].0, expected);
        let again = load_f32(&target).unwrap();
        assert_eq!(again.config.storage, dtype);
        assert_eq!(values(&again.weights), values(&loaded.weights)); // exact in bf16
    }
}

#[test]
fn shards_keep_to_the_limit_and_the_index_lists_every_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("saved");
    let loaded = load_f32(&golden()).unwrap();
    let limit = 200_000;
    save(
        &target,
        &loaded.config,
        &loaded.weights,
        &options(ExpertLayout::Split, limit),
    )
    .unwrap();
    let text = std::fs::read_to_string(target.join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let tensors = read_tensors(&target);
    assert!(map.keys().eq(tensors.keys()));
    let total: usize = tensors.values().map(|tensor| tensor.2.len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    let mut files: Vec<_> = map.values().map(|file| file.as_str().unwrap()).collect();
    files.sort_unstable();
    files.dedup();
    assert_eq!(files.len(), total.div_ceil(limit));
    for file in files {
        let size: usize = map
            .iter()
            .filter(|(_, f)| *f == file)
            .map(|(n, _)| tensors[n].2.len())
            .sum();
        assert!(size <= limit, "{file} has {size} bytes");
    }
    assert_eq!(
        values(&load_f32(&target).unwrap().weights),
        values(&loaded.weights)
    );
}

#[test]
fn a_tensor_above_the_limit_gets_a_shard_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("saved");
    let (config, weights) = tiny("LlamaForCausalLM", serde_json::json!({}));
    save(&target, &config, &weights, &options(ExpertLayout::Split, 1)).unwrap();
    let (files, tensors) = (
        std::fs::read_dir(&target).unwrap().count(),
        read_tensors(&target).len(),
    );
    assert_eq!(files, tensors + 2); // the index and the config
    load_f32(&target).unwrap();
}

#[test]
fn an_existing_directory_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (config, weights) = tiny("LlamaForCausalLM", serde_json::json!({}));
    std::fs::write(dir.path().join("precious"), "data").unwrap();
    let error = save(dir.path(), &config, &weights, &SaveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("already exists"), "{error}");
    let file = dir.path().join("precious");
    let error = save(&file, &config, &weights, &SaveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "data");
}

#[test]
fn an_empty_directory_may_be_filled() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("empty");
    std::fs::create_dir(&target).unwrap();
    let (config, weights) = tiny("LlamaForCausalLM", serde_json::json!({}));
    save(&target, &config, &weights, &SaveOptions::default()).unwrap();
    load_f32(&target).unwrap();
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (config, weights) = tiny("LlamaForCausalLM", serde_json::json!({}));
    let partial = PartialDir::create(&dir.path().join("saved")).unwrap();
    // A directory in the place of a file fails the write as a full disk would: half-way.
    std::fs::create_dir(partial.path().join("config.json")).unwrap();
    let error =
        write_model(partial.path(), &config, &weights, &SaveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
    assert!(partial.path().join("model.safetensors").exists());
    drop(partial);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_parent_that_is_a_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "data").unwrap();
    let (config, weights) = tiny("LlamaForCausalLM", serde_json::json!({}));
    let error = save(
        &file.join("saved"),
        &config,
        &weights,
        &SaveOptions::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("saved"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_an_interrupted_save_left_is_not_overwritten_silently() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("saved.partial")).unwrap();
    let error = PartialDir::create(&dir.path().join("saved")).unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    assert!(dir.path().join("saved.partial").exists());
}
