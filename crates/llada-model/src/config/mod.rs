//! `config.json`: every key is checked here once, then trusted everywhere.
//!
//! [`Config::from_json`] reads the table of `model.md` section 2 for the LLaDA2 family and its dense
//! parents. Keys this crate does not know are kept and written back by [`Config::to_json`].
//! Numbers are bounded so that no later product of sizes can overflow.

mod family;
mod keys;
mod moe;
mod parse;
mod rope;

use std::path::Path;

use llada_diffusion::LabelAlignment;
use llada_tensor::Heads;
use serde_json::{Map, Value, json};

use crate::Error;
pub use family::Family;
pub use moe::{BlockRouting, MoeConfig};
pub use rope::{Llama3, RopeConfig, RopeScaling, Yarn};

/// A validated model configuration. Field names are those of the Hub's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which checkpoint family the names and defaults follow.
    pub family: Family,
    /// Rows of the embedding and of the head, V.
    pub vocab_size: usize,
    /// Width of the residual stream, D.
    pub hidden_size: usize,
    /// Inner width of dense layers, F; 0 when there are none.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads, H.
    pub num_attention_heads: usize,
    /// Key-value heads, G; divides H.
    pub num_key_value_heads: usize,
    /// Width of a head, P.
    pub head_dim: usize,
    /// Leading dimensions of a head that rotate, R; even.
    pub rotary_dim: usize,
    /// Layers before this one are dense, the others mixtures; all layers when `moe` is `None`.
    pub first_k_dense_replace: usize,
    /// Settings of the mixture layers.
    pub moe: Option<MoeConfig>,
    /// Whether the fused projection of attention has a bias.
    pub use_qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub use_dense_bias: bool,
    /// Whether query and key heads are normalised.
    pub use_qk_norm: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the stored head has to be normalised over the vocabulary. [`crate::load()`] does it and
    /// clears the flag.
    pub norm_head: bool,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f32,
    /// Standard deviation of new weights.
    pub initializer_range: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Longest context the checkpoint was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Id of the MASK token, when the checkpoint says it.
    pub mask_token_id: Option<u32>,
    /// Diffusion block size, when the checkpoint says it.
    pub block_size: Option<usize>,
    /// Which row predicts a token; `None` for an autoregressive parent, which is causal.
    pub label_alignment: Option<LabelAlignment>,
    /// Ids that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Id that starts a text.
    pub bos_token_id: Option<u32>,
    /// Id that fills.
    pub pad_token_id: Option<u32>,
    /// Id that deletes a position (LLaDA2.2).
    pub delete_token_id: Option<u32>,
    /// Id that splits a position (LLaDA2.2).
    pub split_token_id: Option<u32>,
    /// Element type of exported weights.
    pub storage: StorageDtype,
    pub(crate) raw: Map<String, Value>,
}

/// Element type of weights in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageDtype {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
}

impl Config {
    /// Returns how the rows of a block choose their experts together, if they do.
    pub fn block_routing(&self) -> Option<BlockRouting> {
        self.moe.as_ref()?.block_routing
    }

    /// Returns the numbers of heads and their width.
    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads,
            dim: self.head_dim,
        }
    }

    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// If the file cannot be read, and as [`Config::from_json`].
    pub fn from_dir(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        Self::from_json(&text)
    }

    /// Parses and validates the text of a `config.json`.
    ///
    /// # Errors
    /// If the text is not a JSON object, or a key is missing, of the wrong type, out of range, in
    /// contradiction with another, or asks for something this crate does not implement.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let raw = serde_json::from_str(text).map_err(|source| Error::Json {
            file: "config.json".into(),
            source,
        })?;
        parse::parse(raw)
    }

    /// Returns whether layer `layer` is a mixture of experts.
    pub fn is_moe_layer(&self, layer: usize) -> bool {
        self.moe_at(layer).is_some()
    }

    /// Returns the mixture settings of layer `layer`, `None` when it is dense.
    pub fn moe_at(&self, layer: usize) -> Option<&MoeConfig> {
        self.moe
            .as_ref()
            .filter(|_| layer >= self.first_k_dense_replace)
    }

    /// Returns the rotary frequencies, `[R / 2]`, and the factor on the rotated dimensions.
    pub fn inv_freq(&self) -> (Vec<f32>, f32) {
        self.rope.inv_freq(self.rotary_dim)
    }

    /// Returns whether the file has a value for `key`.
    pub(crate) fn says(&self, key: &str) -> bool {
        self.raw.get(key).is_some_and(|value| !value.is_null())
    }

    /// Formats the configuration for writing: the keys that were read, with the values that code may
    /// have changed since.
    pub fn to_json(&self) -> String {
        let mut raw = self.raw.clone();
        let mut set = |key: &str, value: Value| {
            if !value.is_null() || raw.contains_key(key) {
                raw.insert(key.to_owned(), value);
            }
        };
        set("vocab_size", json!(self.vocab_size));
        set("mask_token_id", json!(self.mask_token_id));
        set("block_size", json!(self.block_size));
        let alignment = self.label_alignment.map(|alignment| alignment.to_string());
        set("label_alignment", json!(alignment));
        set("pad_token_id", json!(self.pad_token_id));
        set("bos_token_id", json!(self.bos_token_id));
        set("eos_token_id", token_ids(&self.eos_token_ids));
        set(
            "max_position_embeddings",
            json!(self.max_position_embeddings),
        );
        let storage = if self.says("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        set(storage, json!(self.storage.name()));
        for (key, value) in [
            ("norm_head", self.norm_head),
            ("tie_word_embeddings", self.tie_word_embeddings),
        ] {
            if value || self.says(key) {
                set(key, json!(value));
            }
        }
        let text = serde_json::to_string_pretty(&raw);
        text.expect("a map with string keys can be written") + "\n"
    }
}

impl StorageDtype {
    /// Returns the name used in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// One id as a number, several as a list, as the Hub writes them.
fn token_ids(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => json!(id),
        _ => json!(ids),
    }
}
