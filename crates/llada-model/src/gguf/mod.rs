//! GGUF files: the container, its keys and tensor names, and writing one from any checkpoint.
//!
//! [`GgufFile`] checks everything before it is believed: every count is bounded by the bytes that are
//! left, every tensor by its file. `config` translates the keys from and to `config.json`, `names` the
//! tensors; [`write_gguf`] streams a checkpoint into a file, tensor by tensor. Text is not known here:
//! the tokenizer's keys are handed in and out as [`Metadata`].

mod config;
mod export;
mod names;
mod plan;
mod read;
#[cfg(test)]
mod split_tests;
mod value;
mod write;

pub(crate) use config::from_file;
pub use export::{FormatChoice, WrittenTensor, write_gguf};
pub(crate) use plan::sources;
pub use read::{GgufFile, GgufTensor};
pub use value::{Metadata, Value};

use llada_tensor::BlockFormat;

/// First bytes of every file.
const MAGIC: &[u8; 4] = b"GGUF";
/// Alignment of tensors where `general.alignment` does not say another, in bytes.
const ALIGNMENT: u64 = 32;
/// Longest name of a tensor that ggml reads, in bytes.
const MAX_NAME: usize = 63;

/// Formats and their numbers in files.
const FORMATS: [(u32, BlockFormat); 11] = [
    (0, BlockFormat::F32),
    (1, BlockFormat::F16),
    (2, BlockFormat::Q4_0),
    (3, BlockFormat::Q4_1),
    (6, BlockFormat::Q5_0),
    (7, BlockFormat::Q5_1),
    (8, BlockFormat::Q8_0),
    (12, BlockFormat::Q4K),
    (13, BlockFormat::Q5K),
    (14, BlockFormat::Q6K),
    (30, BlockFormat::Bf16),
];
