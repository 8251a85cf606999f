//! Files in parts.

use std::path::{Path, PathBuf};

use llada_tensor::Precision;

use super::write::{Info, header, padding};
use super::{FormatChoice, GgufFile, Metadata, Value, write_gguf};
use crate::{KeepDtype, Weights, load};

const PARTS: usize = 3;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/model")
}

fn part(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("model-{number:05}-of-{PARTS:05}.gguf"))
}

/// Writes the golden model as one file and in parts, the keys in the first; returns the first.
fn split(dir: &Path, change: impl Fn(usize, &mut Metadata)) -> PathBuf {
    let single = dir.join("single.gguf");
    let choice = FormatChoice {
        default: llada_tensor::BlockFormat::Q8_0,
        kept: [].into(),
    };
    write_gguf(
        &golden(),
        &single,
        &choice,
        &Metadata::default(),
        &mut |_| (),
    )
    .unwrap();
    let file = GgufFile::open(&single).unwrap();
    let tensors: Vec<_> = file.tensors().collect();
    for (index, tensors) in tensors.chunks(tensors.len().div_ceil(PARTS)).enumerate() {
        let mut keys = match index {
            0 => file.metadata().clone(),
            _ => Metadata::default(),
        };
        keys.set("split.no", Value::Int(index as i64));
        keys.set("split.count", Value::Int(PARTS as i64));
        let all = file.tensors().count() as i64;
        keys.set("split.tensors.count", Value::Int(all));
        change(index, &mut keys);
        let infos = tensors.iter().map(|(name, tensor)| Info {
            name,
            shape: &tensor.shape,
            format: tensor.format,
        });
        let mut bytes = header(&keys, &infos.collect::<Vec<_>>());
        for (_, tensor) in tensors {
            bytes.extend(file.bytes(tensor));
            bytes.extend(padding(tensor.num_bytes()));
        }
        std::fs::write(part(dir, index + 1), bytes).unwrap();
    }
    part(dir, 1)
}

fn refusal(path: &Path) -> String {
    GgufFile::open(path).unwrap_err().to_string()
}

#[test]
fn parts_are_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let first = split(dir.path(), |_, _| ());
    let values = |path: &Path| -> Vec<_> {
        let loaded = load(path, Precision::F32, KeepDtype::F32).unwrap();
        let weights: Weights<_> = loaded.weights;
        weights
            .into_params()
            .into_iter()
            .map(|(name, weight)| (name, weight.values().to_f32()))
            .collect()
    };
    assert_eq!(values(&first), values(&dir.path().join("single.gguf")));
}

#[test]
fn the_first_part_is_asked_for_and_all_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let first = split(dir.path(), |_, _| ());
    let error = refusal(&part(dir.path(), 2));
    assert!(error.contains("-00001-of-00003.gguf"), "{error}");
    let renamed = dir.path().join("model.gguf");
    std::fs::copy(&first, &renamed).unwrap();
    assert!(refusal(&renamed).contains("name the first one"));
    std::fs::copy(part(dir.path(), 2), part(dir.path(), 3)).unwrap();
    assert!(refusal(&first).contains("second time"));
    std::fs::remove_file(part(dir.path(), 3)).unwrap();
    assert!(refusal(&first).contains("model-00003-of-00003.gguf"));
}

#[test]
fn parts_of_another_order_or_number_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = split(dir.path(), |index, keys| {
        if index == 2 {
            keys.set("split.no", Value::Int(1));
        }
    });
    assert!(refusal(&first).contains("`split.no` 2"));
    let dir = tempfile::tempdir().unwrap();
    let first = split(dir.path(), |_, keys| {
        keys.set("split.tensors.count", Value::Int(7));
    });
    assert!(refusal(&first).contains("is 7"));
    let dir = tempfile::tempdir().unwrap();
    let first = split(dir.path(), |_, keys| {
        keys.set("split.count", Value::Int(1 << 40));
    });
    assert!(refusal(&first).contains("must end in"));
}
