//! GGUF: what is written reads back, and what is damaged is refused.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use llada_model::{
    BlockFormat, ExpertLayout, FormatChoice, GgufFile, KeepDtype, Metadata, SaveOptions,
    TensorGroup, Value, load, save, write_gguf,
};
use llada_tensor::{DType, Precision};
use proptest::prelude::*;
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
        [text("llada2.block_count"), words(&[4, 1])].concat(),
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
    assert_eq!(file.metadata().int("llada2.block_count"), Some(1));
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
