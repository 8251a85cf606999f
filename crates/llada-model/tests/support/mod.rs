//! Checkpoint directories made by hand.

#![allow(dead_code, reason = "each test binary uses its share of the helpers")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llada_model::{BlockRouting, Config, KeepDtype, Loaded, Model, Weights, load};
use llada_tensor::{Precision, Weight};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// Tensors of a file: element type, shape and bytes by name.
pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/model")
}

pub(crate) fn tinystories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tinystories-656k")
}

/// Loads for training: everything in f32.
pub(crate) fn load_f32(dir: &Path) -> Result<Loaded, String> {
    load(dir, Precision::F32, KeepDtype::F32).map_err(|error| error.to_string())
}

/// Reads every tensor of every safetensors file in `dir`.
pub(crate) fn read_tensors(dir: &Path) -> Tensors {
    let mut tensors = Tensors::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            let bytes = std::fs::read(path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
                let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                tensors.insert(name.to_owned(), tensor);
            }
        }
    }
    tensors
}

/// Returns the bytes of a file with these tensors.
pub(crate) fn serialise(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (
            name.clone(),
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

/// Makes a checkpoint directory of one file.
pub(crate) fn checkpoint(config: &str, tensors: &Tensors) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), serialise(tensors)).unwrap();
    dir
}

/// Makes a copy of the golden checkpoint in one file, after a change to its tensors.
pub(crate) fn golden_with(change: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let mut tensors = read_tensors(&golden());
    change(&mut tensors);
    checkpoint(
        &std::fs::read_to_string(golden().join("config.json")).unwrap(),
        &tensors,
    )
}

/// Random weights for a config that has been changed from that of tinystories.
pub(crate) fn tiny(architecture: &str, changes: serde_json::Value) -> (Config, Weights<Weight>) {
    let text = std::fs::read_to_string(tinystories().join("config.json")).unwrap();
    let mut object: serde_json::Value = serde_json::from_str(&text).unwrap();
    object["architectures"] = serde_json::json!([architecture]);
    for (key, value) in changes.as_object().unwrap() {
        object[key] = value.clone();
    }
    let config = Config::from_json(&object.to_string()).unwrap();
    let weights = Weights::random(&config, 5, Precision::F32);
    (config, weights)
}

/// The golden model, and the same weights with `capacity` experts for every block of 8 rows.
pub(crate) fn golden_models(capacity: usize) -> [Model; 2] {
    let Loaded {
        config, weights, ..
    } = load_f32(&golden()).unwrap();
    let mut routed = config.clone();
    routed.moe.as_mut().unwrap().block_routing = Some(BlockRouting {
        expert_capacity: capacity,
        block_size: 8,
    });
    [
        Model::new(config, weights.clone()),
        Model::new(routed, weights),
    ]
}

/// Lists all values as f32 with their names.
pub(crate) fn values(weights: &Weights<Weight>) -> Vec<(String, Vec<f32>)> {
    let list = weights.params().into_iter();
    list.map(|(name, weight)| (name, weight.values().to_f32().f32s().to_vec()))
        .collect()
}
