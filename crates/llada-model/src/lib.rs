//! Configuration, weights and the transformer of the LLaDA2 family and its dense parents.
//!
//! A checkpoint directory becomes a [`Config`] (every key checked once, then trusted) and
//! [`Weights`] (one tree of parameters under their Hub names). The parent families Llama, Qwen2 and
//! Qwen3 are the same model with every layer dense; only the names in their files differ.
//!
//! The crate does not know ranks, text, optimisers or cache policy.

mod adapter;
mod bytes;
mod config;
mod count;
mod error;
mod gguf;
mod group;
mod init;
mod kv_store;
mod load;
mod merge;
mod names;
mod parity;
#[cfg(test)]
mod published_tests;
mod save;
mod shards;
mod trained;
mod transformer;
mod weights;

pub use adapter::{Adapter, AdapterConfig, AdapterPlan, merge_adapter, write_adapter};
pub use config::{
    BlockRouting, Config, Family, Llama3, MoeConfig, RopeConfig, RopeScaling, StorageDtype, Yarn,
};
pub use count::ParameterCounts;
pub use error::Error;
pub use gguf::{FormatChoice, GgufFile, GgufTensor, Metadata, Value, WrittenTensor, write_gguf};
pub use group::TensorGroup;
pub use kv_store::KvStore;
pub use llada_tensor::{BlockFormat, RowGroup};
pub use load::{KeepDtype, Loaded, Room, load, load_watched};
pub use merge::write_mean;
pub use parity::forward_parity;
pub use save::{ExpertLayout, PartialDir, SaveOptions, save, write_model};
pub use transformer::{
    Activations, CachedInput, CachedOutput, Dropout, Gradients, Input, Model, RouterStats, Tape,
};
pub use weights::{LayerWeights, Mlp, Moe, ParamKind, ParamSpec, Swiglu, Weights};
