//! GGUF: what is written reads back, and what is damaged is refused.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use llada_diffusion::LabelAlignment;
use llada_model::{
    BlockFormat, ExpertLayout, FormatChoice, GgufFile, KeepDtype, Metadata, Room, SaveOptions,
    TensorGroup, Value, load, load_watched, save, write_gguf,
};
use llada_tensor::{DType, Precision};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::{golden, load_f32, read_tensors, tiny, tinystories, values};

fn choice(default: BlockFormat) -> FormatChoice {
    FormatChoice {
        default,
        kept: BTreeMap::new(),
    }
}

fn write(input: &Path, out: &Path, choice: &FormatChoice) -> Result<(), String> {
    write_gguf(input, out, choice, &Metadata::default(), &mut |_| ())
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// The 416 bytes of `gguf.md` section 1.
fn smallest() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let longs = |longs: &[u64]| {
        longs
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let mut file = [
        b"GGUF".to_vec(),
        words(&[3]),
        longs(&[2, 4]),
        [text("general.architecture"), words(&[8]), text("llada2")].concat(),
        [text("llada2.block_count"), words(&[4, 2])].concat(),
        [text("diffusion.shift_logits"), words(&[7]), vec![0]].concat(),
        [
            text("tokenizer.ggml.tokens"),
            words(&[9, 8]),
            longs(&[2]),
            text("a"),
            text("bc"),
        ]
        .concat(),
        [
            text("x.weight"),
            words(&[1]),
            longs(&[2]),
            words(&[0]),
            longs(&[0]),
        ]
        .concat(),
        [
            text("y.weight"),
            words(&[2]),
            longs(&[32, 1]),
            words(&[8]),
            longs(&[32]),
        ]
        .concat(),
    ]
    .concat();
    file.resize(320, 0);
    file.extend([1.0_f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
    file.resize(352, 0);
    file.extend([0x00, 0x3c]); // 1.0 in half precision
    file.extend(0..32);
    file.resize(416, 0);
    file
}

fn open(bytes: &[u8]) -> Result<GgufFile, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.gguf");
    std::fs::write(&path, bytes).unwrap();
    GgufFile::open(&path).map_err(|error| error.to_string())
}

/// Changes a byte of the smallest file and returns why it is refused.
fn refusal(at: usize, byte: u8) -> String {
    let mut file = smallest();
    file[at] = byte;
    open(&file).unwrap_err()
}

#[test]
fn the_smallest_file_is_read() {
    let file = open(&smallest()).unwrap();
    assert_eq!(file.metadata().int("llada2.block_count"), Some(2));
    let tokens = vec!["a".to_owned(), "bc".to_owned()];
    assert_eq!(
        file.metadata().get("tokenizer.ggml.tokens"),
        Some(&Value::Texts(tokens))
    );
    let y = file.get("y.weight").unwrap();
    assert_eq!(
        (y.format, &y.shape[..], y.num_bytes()),
        (BlockFormat::Q8_0, &[1, 32][..], 34)
    );
}

#[test]
fn the_smallest_file_has_the_published_hash() {
    let hash: Vec<_> = Sha256::digest(smallest())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        hash.concat(),
        "b5059300670210d2997b4af0f73b408d34a7ccf9a4652df08f54745557492628"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = smallest();
    for len in 0..386 {
        let error = open(&file[..len]).unwrap_err();
        assert!(error.contains("truncated"), "{len}: {error}");
    }
    // Padding after the last tensor may be missing.
    assert!(open(&file[..386]).is_ok());
}

#[test]
fn refusals_name_what_is_wrong() {
    assert!(refusal(0, b'X').contains("does not start with `GGUF`"));
    assert!(refusal(4, 1).contains("version 1"));
    assert!(refusal(4, 4).contains("version 4"));
    assert!(refusal(8 + 7, 0x10).contains("counts"), "2^60 tensors");
    assert!(refusal(16 + 7, 0x10).contains("counts"), "2^60 keys");
    assert!(
        refusal(24 + 7, 0x10).contains("counts"),
        "a key of 2^60 bytes"
    );
    let mut big_endian = smallest();
    big_endian[4..8].copy_from_slice(&[0, 0, 0, 3]);
    assert!(open(&big_endian).unwrap_err().contains("big-endian"));
    let offset = smallest()
        .windows(8)
        .rposition(|w| w == 32_u64.to_le_bytes())
        .unwrap();
    assert!(refusal(offset, 64).contains("`y.weight` has offset 64, expected 32"));
    assert!(refusal(offset - 4, 4).contains("tensor type 4"));
    assert!(
        refusal(offset - 20, 31).contains("whole blocks"),
        "a row of 31 values"
    );
    assert!(refusal(offset - 24, 5).contains("5 dimensions"));
}

#[test]
fn a_name_may_come_once() {
    let mut file = smallest();
    let at = file.windows(8).position(|w| w == b"y.weight").unwrap();
    file[at] = b'x';
    assert!(
        open(&file)
            .unwrap_err()
            .contains("`x.weight` a second time")
    );
}

proptest! {
    #[test]
    fn damaged_bytes_never_panic(at in 0_usize..320, byte: u8, second in 0_usize..320, other: u8) {
        let mut file = smallest();
        (file[at], file[second]) = (byte, other);
        let _ = open(&file);
    }
}

#[test]
fn hub_to_gguf_to_hub_keeps_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (merged, saved) = (dir.path().join("model.gguf"), dir.path().join("saved"));
    write(&golden(), &merged, &choice(BlockFormat::Bf16)).unwrap();
    let loaded = load(&merged, Precision::Bf16, KeepDtype::AsStored).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let options = SaveOptions {
        experts: ExpertLayout::Split,
        ..SaveOptions::default()
    };
    save(&saved, &loaded.config, &loaded.weights, &options).unwrap();
    assert_eq!(read_tensors(&saved), read_tensors(&golden()));
}

#[test]
fn every_family_reads_back_the_same_values() {
    let dir = tempfile::tempdir().unwrap();
    let changes = serde_json::json!({ "tie_word_embeddings": false });
    for architecture in ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        let (config, weights) = tiny(architecture, changes.clone());
        let [hub, file] =
            ["hub", "gguf"].map(|kind| dir.path().join(format!("{architecture}.{kind}")));
        save(&hub, &config, &weights, &SaveOptions::default()).unwrap();
        write(&hub, &file, &choice(BlockFormat::F32)).unwrap();
        let loaded = load_f32(&file).unwrap();
        assert_eq!(values(&loaded.weights), values(&weights), "{architecture}");
        assert_eq!(loaded.config.rope, config.rope);
    }
}

#[test]
fn llama_stores_rotated_rows_pair_by_pair() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("llama.gguf");
    write(&tinystories(), &path, &choice(BlockFormat::F32)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let query = load_f32(&tinystories()).unwrap().weights.layers[0]
        .qkv
        .values()
        .to_f32();
    // Heads of 16: the second row of a head in the file is its row 8.
    let row = |index| bytemuck_row(query.row(index));
    let pair = [row(0), row(8), row(1)].concat();
    assert!(bytes.windows(pair.len()).any(|window| window == pair));
}

fn bytemuck_row(row: &[f32]) -> Vec<u8> {
    row.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn codes_stay_codes_and_kept_groups_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut choice = choice(BlockFormat::Q4_0);
    choice.kept.insert(TensorGroup::Head, BlockFormat::Q8_0);
    write(&golden(), &path, &choice).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let format = |name: &str| file.get(name).unwrap().format;
    assert_eq!(format("output.weight"), BlockFormat::Q8_0);
    assert_eq!(format("blk.1.ffn_down_exps.weight"), BlockFormat::Q4_0);
    assert_eq!(format("blk.1.ffn_gate_inp.weight"), BlockFormat::F32);
    assert_eq!(format("blk.1.exp_probs_b.bias"), BlockFormat::F32);
    let loaded = load(&path, Precision::Bf16, KeepDtype::AsStored).unwrap();
    let dtype = loaded.weights.layers[0].qkv.values().dtype();
    assert!(matches!(dtype, DType::Codes(_)), "{dtype:?}");
}

#[test]
fn what_finds_no_room_in_memory_lies_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&golden(), &path, &choice(BlockFormat::Q8_0)).unwrap();
    for source in [&path, &golden()] {
        let load = |bytes: u64| {
            let room = Room {
                bytes,
                dir: dir.path().join("cache/llada"),
            };
            let keep = KeepDtype::AsStored;
            load_watched(source, Precision::F32, keep, Some(&room), &mut |_, _| {}).unwrap()
        };
        let [ample, some, none] = [1 << 30, 300_000, 0].map(load);
        assert_eq!(ample.paged_bytes, 0);
        assert!(0 < some.paged_bytes && some.paged_bytes < none.paged_bytes);
        assert_eq!(values(&some.weights), values(&ample.weights));
        assert_eq!(values(&none.weights), values(&ample.weights));
    }
}

#[test]
fn rows_without_whole_blocks_get_another_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&golden(), &path, &choice(BlockFormat::Q4K)).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(
        file.get("output.weight").unwrap().format,
        BlockFormat::Q5_0,
        "rows of 64"
    );
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, "mine").unwrap();
    let error = write(&golden(), &path, &choice(BlockFormat::F32)).unwrap_err();
    assert!(error.contains("already exists"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

/// Writes the golden model with some keys of a file replaced, and returns why it does not load.
fn refused_with(keys: &[(&str, Value)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut replaced = Metadata::default();
    for (key, value) in keys {
        replaced.set(*key, value.clone());
    }
    write_gguf(
        &golden(),
        &path,
        &choice(BlockFormat::Bf16),
        &replaced,
        &mut |_| (),
    )
    .unwrap();
    load_f32(&path).unwrap_err()
}

#[test]
fn keys_that_ask_for_another_model_are_refused_by_name() {
    let cases = [
        ("llada2.expert_gating_func", Value::Int(1), "sigmoid"),
        (
            "llada2.expert_gating_func",
            Value::Text("2".into()),
            "a count",
        ),
        ("llada2.expert_weights_scale", Value::Int(2), "finite"),
        (
            "llada2.expert_weights_scale",
            Value::Float(f64::NAN),
            "finite",
        ),
        ("llada2.expert_weights_norm", Value::Int(1), "true or false"),
        ("llada2.rope.dimension_count", Value::Float(8.0), "a count"),
        ("llada2.rope.dimension_count", Value::Int(-8), "a count"),
        (
            "llada2.attention.value_length",
            Value::Int(8),
            "different widths",
        ),
        (
            "llada2.rope.scaling.type",
            Value::Text("linear".into()),
            "yarn",
        ),
        ("llada2.embedding_length", Value::Int(1 << 50), "a count"),
        ("llada2.expert_count", Value::Int(8), "ffn_gate_inp"),
        ("diffusion.shift_logits", Value::Int(0), "boolean"),
        ("tokenizer.ggml.mask_token_id", Value::Bool(true), "integer"),
        (
            "general.architecture",
            Value::Text("bailingmoe3".into()),
            "bailingmoe3",
        ),
        (
            "general.architecture",
            Value::Text("diffuse".into()),
            "diffuse",
        ),
        (
            "general.architecture",
            Value::Text("llada".into()),
            "`llada`",
        ),
    ];
    for (key, value, word) in cases {
        let error = refused_with(&[(key, value)]);
        assert!(error.contains(word), "{key}: {error}");
    }
}

#[test]
fn keys_that_other_readers_do_without_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&golden(), &path, &choice(BlockFormat::Bf16)).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for key in [
        "llada2.expert_gating_func",
        "llada2.expert_weights_scale",
        "llada2.expert_weights_norm",
        "llada2.rope.dimension_count",
        "llada2.context_length",
    ] {
        let mut file = whole.clone();
        let mut windows = file.windows(key.len());
        let at = windows.position(|w| w == key.as_bytes()).unwrap();
        file[at + key.len() - 1] = b'X'; // a key that nobody knows
        std::fs::write(&path, file).unwrap();
        let error = load_f32(&path).unwrap_err();
        assert!(error.contains(key) && error.contains("nothing"), "{error}");
    }
}

#[test]
fn shifted_logits_are_not_assumed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&golden(), &path, &choice(BlockFormat::Bf16)).unwrap();
    let mut file = std::fs::read(&path).unwrap();
    let key = b"diffusion.shift_logits";
    let at = file.windows(key.len()).position(|w| w == key).unwrap();
    file[at] = b'X';
    std::fs::write(&path, file).unwrap();
    let loaded = load(&path, Precision::F32, KeepDtype::F32).unwrap();
    assert_eq!(loaded.config.label_alignment, Some(LabelAlignment::Same));
    assert!(loaded.warnings[0].contains("shift_logits"));
}

/// The golden weights under a config that has been changed.
fn golden_as(changes: &serde_json::Value) -> tempfile::TempDir {
    let text = std::fs::read_to_string(golden().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    support::checkpoint(&config.to_string(), &read_tensors(&golden()))
}

/// Writes a checkpoint in f32 and asserts that file and directory load alike.
fn assert_reads_back(dir: &Path) -> GgufFile {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.gguf");
    write(dir, &path, &choice(BlockFormat::F32)).unwrap();
    let (hub, file) = (load_f32(dir).unwrap(), load_f32(&path).unwrap());
    assert_eq!(values(&file.weights), values(&hub.weights));
    assert_eq!(file.config.family, hub.config.family);
    assert_eq!(file.config.moe, hub.config.moe);
    assert_eq!(file.config.rope, hub.config.rope);
    assert_eq!(file.config.label_alignment, hub.config.label_alignment);
    assert_eq!(file.config.norm_head, hub.config.norm_head);
    GgufFile::open(&path).unwrap()
}

#[test]
fn the_parent_of_the_mixture_reads_back() {
    let parent = serde_json::json!({
        "architectures": ["BailingMoeV2ForCausalLM"], "model_type": "bailing_moe_v2", "use_qk_norm": true,
    });
    let file = assert_reads_back(golden_as(&parent).path());
    let keys = file.metadata();
    assert_eq!(keys.text("general.architecture"), Some("bailingmoe2"));
    assert_eq!(keys.int("bailingmoe2.expert_gating_func"), Some(2));
    assert_eq!(keys.int("bailingmoe2.rope.dimension_count"), Some(8));
    assert_eq!(keys.get("diffusion.shift_logits"), None, "it is causal");
}

#[test]
fn a_head_that_a_parent_normalises_is_written_normalised() {
    let parent = serde_json::json!({
        "architectures": ["BailingMoeV2ForCausalLM"], "model_type": "bailing_moe_v2", "use_qk_norm": true,
        "norm_head": true,
    });
    assert_reads_back(golden_as(&parent).path());
}

#[test]
fn yarn_reads_back() {
    let yarn = serde_json::json!({ "max_position_embeddings": 8192, "rope_scaling": {
        "rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 4096,
    } });
    let file = assert_reads_back(golden_as(&yarn).path());
    let key = |key: &str| file.metadata().get(&format!("llada2.rope.scaling.{key}"));
    assert_eq!(key("type"), Some(&Value::Text("yarn".into())));
    assert_eq!(key("factor"), Some(&Value::Float(2.5)));
    assert_eq!(key("original_context_length"), Some(&Value::Int(4096)));
}

#[test]
fn scaling_that_no_key_says_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let scaled = golden_as(&serde_json::json!({ "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048,
    } }));
    let path = dir.path().join("model.gguf");
    let error = write(scaled.path(), &path, &choice(BlockFormat::F32)).unwrap_err();
    assert!(error.contains("Llama3"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
