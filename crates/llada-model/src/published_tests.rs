//! The indexes of published checkpoints against their configurations (`testdata/hub`).
//!
//! A sparse file of the published size stands for the weights: it takes no room on disk, and nothing of
//! it is read but the header.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, json};

use crate::load::Checkpoint;
use crate::shards::SINGLE;
use crate::{Config, ParamKind, ParamSpec, Weights};

/// Checkpoints, and bytes of a value of their expert biases: all else is bf16.
const PUBLISHED: [(&str, usize); 2] = [("LLaDA2.0-mini", 2), ("LLaDA2.1-mini", 4)];

fn hub(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/hub")
        .join(name)
}

/// Reads the total size and the names of an index.
fn index(name: &str) -> (usize, BTreeSet<String>) {
    let text = std::fs::read_to_string(hub(name).join("tensors.txt")).unwrap();
    let (first, patterns) = text.split_once('\n').unwrap();
    let total = first.strip_prefix("total_size ").unwrap().parse().unwrap();
    (total, patterns.lines().flat_map(expanded).collect())
}

/// Replaces each `a..b` by the numbers from a to b.
fn expanded(pattern: &str) -> Vec<String> {
    let Some(at) = pattern.find("..") else {
        return vec![pattern.into()];
    };
    let from = pattern[..at].rfind('.').unwrap() + 1;
    let to = at + 2 + pattern[at + 2..].find('.').unwrap();
    let number = |text: &str| text.parse::<usize>().unwrap();
    let numbers = number(&pattern[from..at])..=number(&pattern[at + 2..to]);
    let one = |number| format!("{}{number}{}", &pattern[..from], &pattern[to..]);
    numbers.flat_map(|number| expanded(&one(number))).collect()
}

/// Writes the header of a file with these tensors and gives it the length that the header tells.
fn write_sparse(path: &Path, tensors: &BTreeMap<String, (Vec<usize>, usize)>) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, (shape, width)) in tensors {
        let (start, dtype) = (end, if *width == 4 { "F32" } else { "BF16" });
        end += shape.iter().product::<usize>() * width;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

/// Makes a checkpoint with the published tensors of the shapes that the configuration gives them.
fn checkpoint(name: &str, bias_width: usize, names: &BTreeSet<String>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = hub(name).join("config.json");
    std::fs::copy(config, dir.path().join("config.json")).unwrap();
    let config = Config::from_dir(dir.path()).unwrap();
    let specs = Weights::<ParamSpec>::specs(&config).into_params();
    let mut shapes: BTreeMap<_, _> = specs
        .into_iter()
        .map(|(name, spec)| {
            let is_bias = spec.kind == ParamKind::ExpertBias;
            (name, (spec.shape, if is_bias { bias_width } else { 2 }))
        })
        .collect();
    let tensors = names.iter().map(|name| {
        let shape = shapes.remove(name).unwrap_or((vec![1], 2));
        (name.clone(), shape)
    });
    write_sparse(&dir.path().join(SINGLE), &tensors.collect());
    dir
}

#[test]
fn every_published_tensor_is_accounted_for() {
    for (name, bias_width) in PUBLISHED {
        let (total, names) = index(name);
        assert_eq!(names.len(), 14_813);
        let dir = checkpoint(name, bias_width, &names);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let (sources, warnings) = checkpoint.sources().unwrap();
        assert_eq!(warnings, Vec::<String>::new(), "{name}");
        // The total of the index says that the shapes are those published, too.
        let bytes = sources.into_params().into_iter().map(|(_, (spec, _))| {
            let is_bias = spec.kind == ParamKind::ExpertBias;
            spec.num_elements() * if is_bias { bias_width } else { 2 }
        });
        assert_eq!(bytes.sum::<usize>(), total, "{name}");
    }
}

#[test]
fn one_tensor_too_few_or_too_many_is_named() {
    let (name, bias_width) = PUBLISHED[0];
    let (_, published) = index(name);
    let refusal = |names: &BTreeSet<String>| {
        let dir = checkpoint(name, bias_width, names);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        checkpoint.sources().unwrap_err().to_string()
    };
    let expert = "model.layers.7.mlp.experts.255.up_proj.weight";
    let mut names = published.clone();
    assert!(names.remove(expert));
    let error = refusal(&names);
    assert!(
        error.contains("1 missing") && error.contains(expert),
        "{error}"
    );
    let extra = "model.layers.7.mlp.experts.256.up_proj.weight";
    names = published;
    names.insert(extra.into());
    let error = refusal(&names);
    assert!(
        error.contains("1 unexpected") && error.contains(extra),
        "{error}"
    );
}
