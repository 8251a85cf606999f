//! Checkpoint families: which architectures are known and how they differ.

use crate::Error;

/// A checkpoint family. It decides names in files and defaults of absent keys, not the forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LLaDA2.x.
    Llada2Moe,
    /// Ling-2.0, the autoregressive parent of LLaDA2.
    BailingMoe,
    /// Llama 2 and 3.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Dense Qwen3.
    Qwen3,
}

const KNOWN: [(&str, Family); 5] = [
    ("LLaDA2MoeModelLM", Family::Llada2Moe),
    ("BailingMoeV2ForCausalLM", Family::BailingMoe),
    ("LlamaForCausalLM", Family::Llama),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
];

impl Family {
    /// Returns the family of an entry of `architectures`.
    pub(super) fn from_architecture(name: &str) -> Result<Self, Error> {
        let known = KNOWN.iter().find(|(architecture, _)| *architecture == name);
        known
            .map(|(_, family)| *family)
            .ok_or_else(|| Self::unknown(format!("`{name}`")))
    }

    /// Returns the entry of `architectures` that names the family.
    pub fn architecture(self) -> &'static str {
        let known = KNOWN.iter().find(|(_, family)| *family == self);
        known
            .map(|(name, _)| *name)
            .expect("every family is listed")
    }

    /// The error that lists the known architectures.
    pub(super) fn unknown(found: String) -> Error {
        let names = KNOWN
            .map(|(architecture, _)| format!("`{architecture}`"))
            .join(", ");
        Error::Config {
            key: "architectures".into(),
            expected: format!("a list that starts with one of {names}"),
            found,
        }
    }

    /// Returns whether files use the names of dense parents (`self_attn.q_proj` and so on).
    pub fn is_dense_parent(self) -> bool {
        matches!(self, Self::Llama | Self::Qwen2 | Self::Qwen3)
    }
}
