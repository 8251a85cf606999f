//! Names of tensors in files: what each family calls a parameter, and what other tools change.

use std::ops::Range;

use crate::{Config, Family, ParamSpec};

/// Part of a parameter that has a name of its own in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Name in files.
    pub(crate) name: String,
    /// Rows (first dimension) of the parameter that it holds.
    pub(crate) rows: Range<usize>,
}

/// Lists the parts in which files of the config's family hold a parameter, in row order.
pub(crate) fn parts(config: &Config, spec: &ParamSpec) -> Vec<Part> {
    let all_rows = 0..spec.shape[0];
    if !config.family.is_dense_parent() {
        return vec![Part {
            name: spec.name.clone(),
            rows: all_rows,
        }];
    }
    if let Some((layer, suffix)) = spec.name.split_once(".attention.query_key_value.") {
        return query_key_value(config)
            .map(|(projection, rows)| Part {
                name: format!("{layer}.self_attn.{projection}.{suffix}"),
                rows,
            })
            .into();
    }
    vec![Part {
        name: dense_parent_name(&spec.name),
        rows: all_rows,
    }]
}

/// Rows of the fused projection that belong to each projection of a dense parent.
pub(crate) fn query_key_value(config: &Config) -> [(&'static str, Range<usize>); 3] {
    let keys_start = config.num_attention_heads * config.head_dim;
    let values_start = keys_start + config.num_key_value_heads * config.head_dim;
    let end = values_start + config.num_key_value_heads * config.head_dim;
    [
        ("q_proj", 0..keys_start),
        ("k_proj", keys_start..values_start),
        ("v_proj", values_start..end),
    ]
}

fn dense_parent_name(name: &str) -> String {
    name.replace("model.word_embeddings", "model.embed_tokens")
        .replace(".attention.dense.", ".self_attn.o_proj.")
        .replace(".attention.query_layernorm.", ".self_attn.q_norm.")
        .replace(".attention.key_layernorm.", ".self_attn.k_norm.")
}

/// Returns the name of the embedding in files of a family.
pub(crate) fn embedding(family: Family) -> &'static str {
    match family.is_dense_parent() {
        true => "model.embed_tokens.weight",
        false => "model.word_embeddings.weight",
    }
}

/// Removes the prefixes of multimodal packagings. Returns `None` for tensors that are no parameters.
pub(crate) fn normalised(name: &str) -> Option<String> {
    if name.contains("inv_freq") || name.contains("v_head") {
        return None;
    }
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return Some(format!("model.{rest}"));
    }
    Some(
        name.strip_prefix("model.lm_head.")
            .map_or(name.into(), |rest| format!("lm_head.{rest}")),
    )
}

/// Splits the name of one expert's projection into that of the merged tensor and the expert's index.
///
/// `….experts.7.gate_proj.weight` becomes `….experts.gate_proj` and 7.
pub(crate) fn merged(name: &str) -> Option<(String, usize)> {
    let (layer, rest) = name.split_once(".experts.")?;
    let (expert, projection) = rest.strip_suffix(".weight")?.split_once('.')?;
    Some((
        format!("{layer}.experts.{projection}"),
        expert.parse().ok()?,
    ))
}

/// Returns the layer a tensor belongs to.
pub(crate) fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multimodal_prefixes_are_removed() {
        let normal = |name: &str| normalised(name).unwrap();
        assert_eq!(
            normal("model.language_model.norm.weight"),
            "model.norm.weight"
        );
        assert_eq!(normal("model.lm_head.weight"), "lm_head.weight");
        assert_eq!(normal("model.norm.weight"), "model.norm.weight");
    }

    #[test]
    fn tensors_that_are_no_parameters_have_no_name() {
        assert_eq!(
            normalised("model.layers.0.self_attn.rotary_emb.inv_freq"),
            None
        );
        assert_eq!(normalised("v_head.summary.weight"), None);
    }

    #[test]
    fn an_experts_name_gives_the_merged_name_and_its_index() {
        let name = "model.layers.3.mlp.experts.17.down_proj.weight";
        assert_eq!(
            merged(name),
            Some(("model.layers.3.mlp.experts.down_proj".into(), 17))
        );
        assert_eq!(
            merged("model.layers.3.mlp.shared_experts.down_proj.weight"),
            None
        );
    }

    #[test]
    fn the_layer_is_read_from_the_name() {
        assert_eq!(layer("model.layers.20.enorm.weight"), Some(20));
        assert_eq!(layer("model.norm.weight"), None);
    }
}
