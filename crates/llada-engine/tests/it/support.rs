//! Models and requests that the tests share.

use std::path::PathBuf;
use std::sync::LazyLock;

use llada_engine::{
    Acceptance, Answer, Capacity, Engine, LabelAlignment, Options, Policy, Quota, Request, Savings,
};
use llada_model::{Config, KeepDtype, Model, Weights, load};
use llada_tensor::{Precision, Tensor, Weight};
use serde_json::Value;

pub(crate) const MASK: u32 = 511;
pub(crate) const EOS: u32 = 510;

/// Room for one whole context, and a little for others.
pub(crate) const CAPACITY: Capacity = Capacity {
    slots: 64,
    page_rows: 8,
    pages: 64,
    prefill_rows: 512,
};

/// The LLaDA2 mixture of the golden vectors.
pub(crate) static GOLDEN: LazyLock<Model> = LazyLock::new(|| load_model("testdata/golden/model"));

/// A dense model with random weights, wide enough apart that confidences cover 0 to 1.
pub(crate) static DENSE: LazyLock<Model> = LazyLock::new(|| {
    let config = r#"{
        "architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "max_position_embeddings": 256, "initializer_range": 0.3, "tie_word_embeddings": false
    }"#;
    let config = Config::from_json(config).unwrap();
    let weights = Weights::random(&config, 5, Precision::F32);
    pack(Model::new(config, weights))
});

/// Returns the dense model with a norm that makes every logit NaN.
pub(crate) fn without_numbers() -> Model {
    let mut weights = DENSE.weights.clone();
    let width = DENSE.config.hidden_size;
    let nan = Tensor::from_f32(&[width], vec![f32::NAN; width]);
    weights.norm = Weight::new(nan, Precision::F32);
    Model::new(DENSE.config.clone(), weights)
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn load_model(dir: &str) -> Model {
    let loaded = load(&root().join(dir), Precision::F32, KeepDtype::F32).unwrap();
    pack(Model::new(loaded.config, loaded.weights))
}

fn pack(mut model: Model) -> Model {
    model.pack();
    model
}

pub(crate) fn read_json(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join(file)).unwrap()).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

pub(crate) fn options(label_alignment: LabelAlignment) -> Options {
    Options {
        mask_token_id: Some(MASK),
        eos_token_ids: vec![EOS],
        label_alignment,
        block_size: Some(8),
        kv_precision: Precision::F32,
        capacity: CAPACITY,
        savings: Savings::default(),
    }
}

/// Returns `len` ids below MASK and EOS, different for every seed.
pub(crate) fn prompt(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32)
        .map(|i| (i * 97 + seed * 193 + i * i * 31) % EOS)
        .collect()
}

/// Accepts what is above a threshold, at least one token.
pub(crate) fn threshold(threshold: f32) -> Policy {
    policy(threshold, Quota::MinTransfer(1))
}

pub(crate) fn policy(threshold: f32, quota: Quota) -> Policy {
    Policy {
        acceptance: Acceptance::Threshold(threshold),
        quota,
        ..Policy::default()
    }
}

/// A request that goes on to its full length and keeps its trace.
pub(crate) fn endless(prompt: Vec<u32>, max_new_tokens: usize, block_length: usize) -> Request {
    Request {
        block_length: Some(block_length),
        policy: threshold(0.5),
        ignore_eos: true,
        trace: true,
        ..Request::new(prompt, max_new_tokens)
    }
}

pub(crate) fn generate(model: &Model, options: &Options, request: &Request) -> Answer {
    Engine::new(model, options.clone())
        .unwrap()
        .generate(request, &mut |_| {})
        .unwrap()
}
