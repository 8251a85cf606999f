//! Where a parameter lies in GGUF files (`gguf.md` section 4).

use std::ops::Range;

use crate::names::query_key_value;
use crate::{Config, Family, ParamSpec};

/// Names in a layer: ours after `model.layers.N.`, theirs after `blk.N.`.
const IN_LAYER: [(&str, &str); 16] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("attention.query_key_value.weight", "attn_qkv.weight"),
    ("attention.query_key_value.bias", "attn_qkv.bias"),
    ("attention.query_layernorm.weight", "attn_q_norm.weight"),
    ("attention.key_layernorm.weight", "attn_k_norm.weight"),
    ("attention.dense.weight", "attn_output.weight"),
    ("attention.dense.bias", "attn_output.bias"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("mlp.gate.weight", "ffn_gate_inp.weight"),
    ("mlp.gate.expert_bias", "exp_probs_b.bias"),
    (
        "mlp.shared_experts.gate_proj.weight",
        "ffn_gate_shexp.weight",
    ),
    ("mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"),
    (
        "mlp.shared_experts.down_proj.weight",
        "ffn_down_shexp.weight",
    ),
];

/// A tensor, or a part of one, that holds rows of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    /// Which of the stacked experts it is.
    pub(super) expert: Option<usize>,
    /// Rows of the parameter.
    pub(super) rows: Range<usize>,
    /// Width of the heads whose rows are stored pair by pair: `llama` rotates neighbours, the model
    /// rotates halves.
    pub(super) paired: Option<usize>,
}

impl Place {
    /// Returns which row of the parameter is row `index` of the tensor.
    pub(super) fn row(&self, index: usize) -> usize {
        self.rows.start
            + match self.paired {
                None => index,
                Some(width) => {
                    let (head, within) = (index / width, index % width);
                    head * width + within % 2 * (width / 2) + within / 2
                }
            }
    }
}

/// Lists where a parameter lies: one tensor, or three of a projection that is `split`.
pub(super) fn places(config: &Config, spec: &ParamSpec, split: bool) -> Vec<Place> {
    let (name, expert) = name(&spec.name);
    let whole = |name| Place {
        name,
        expert,
        rows: 0..spec.shape[0],
        paired: None,
    };
    match name.split_once("attn_qkv.").filter(|_| split) {
        None => vec![whole(name)],
        Some((layer, suffix)) => query_key_value(config)
            .into_iter()
            .zip(["attn_q", "attn_k", "attn_v"])
            .map(|((_, rows), part)| Place {
                name: format!("{layer}{part}.{suffix}"),
                expert: None,
                rows,
                paired: (config.family == Family::Llama && part != "attn_v")
                    .then_some(config.head_dim),
            })
            .collect(),
    }
}

/// Returns the name of the tensor, and the index of the expert where it is a stack of experts.
fn name(hub: &str) -> (String, Option<usize>) {
    let Some((layer, rest)) = hub
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'))
    else {
        let name = match hub {
            "model.word_embeddings.weight" => "token_embd.weight",
            "lm_head.weight" => "output.weight",
            _ => "output_norm.weight",
        };
        return (name.into(), None);
    };
    if let Some((expert, projection)) = rest
        .strip_prefix("mlp.experts.")
        .and_then(|rest| rest.split_once('.'))
    {
        let projection = projection.trim_end_matches("_proj.weight");
        let expert = expert.parse().expect("the walk numbers the experts");
        return (
            format!("blk.{layer}.ffn_{projection}_exps.weight"),
            Some(expert),
        );
    }
    let entry = IN_LAYER.iter().find(|(ours, _)| *ours == rest);
    let (_, theirs) = entry.expect("every parameter of a layer has a name");
    (format!("blk.{layer}.{theirs}"), None)
}
