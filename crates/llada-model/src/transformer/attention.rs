//! The attention half of a layer: norm, fused QKV, QK-norm, rotation and attention.

use llada_tensor::{
    Attended, Gradient, KeyRanges, KeyValues, Precision, RowGroup, Tensor, attention,
    attention_paged, bias_backward, join_columns, rms_norm, rms_norm_backward, rope, rope_backward,
    split_columns,
};

use super::adapted::{Noise, Site};
use super::rows::Rows;
use super::{Model, RangeRows};
use crate::{Config, LayerWeights};

/// Queries, keys and values of some rows, and what the backward needs of their making.
#[derive(Debug)]
pub(super) struct Projected {
    /// Queries and keys before QK-norm, [R, H*P] and [N, G*P]; absent without QK-norm.
    unnormed: Option<(Tensor, Tensor)>,
    /// Rotated queries, [R, H*P].
    q: Tensor,
    /// Rotated keys, [N, G*P], `f32` or bf16.
    pub(super) k: Tensor,
    /// [N, G*P], of the same type.
    pub(super) v: Tensor,
}

/// What the backward needs beside the layer's input.
#[derive(Debug)]
pub(super) struct AttentionSaved {
    projected: Projected,
    pub(super) attended: Attended,
}

impl AttentionSaved {
    pub(super) fn new(projected: Projected, attended: Attended) -> Self {
        Self {
            projected,
            attended,
        }
    }
}

/// x [N, D] -> queries, keys and values.
pub(super) fn project<K>(model: &Model, index: usize, x: &Tensor, rows: &Rows<K>) -> Projected {
    let (config, layer) = (&model.config, &model.weights.layers[index]);
    let normed = rms_norm(x, layer.input_norm.values(), config.rms_norm_eps);
    let bias = layer.qkv_bias.as_ref().map(|bias| bias.values());
    let noise = Noise::new(rows.key_dropout.as_deref(), index, Site::AttentionInput);
    let qkv = noise.linear(&normed, &layer.qkv, bias);
    let [q, mut k, v] = split_columns(&qkv, widths(config));
    let mut q = rows.selection.select(&q).into_owned();
    let unnormed = match (&layer.query_norm, &layer.key_norm) {
        (Some(query_norm), Some(key_norm)) => {
            let normed_q = rms_norm(&q, query_norm.values(), config.rms_norm_eps);
            let normed_k = rms_norm(&k, key_norm.values(), config.rms_norm_eps);
            Some((
                std::mem::replace(&mut q, normed_q),
                std::mem::replace(&mut k, normed_k),
            ))
        }
        _ => None,
    };
    rope(&mut q, config.head_dim, &rows.query_rotation);
    rope(&mut k, config.head_dim, &rows.key_rotation);
    Projected { unnormed, q, k, v }
}

/// As [`project`], of rows that see each other: keys and values are what their attention multiplies, in bf16 where
/// products round to it.
pub(super) fn project_own(
    model: &Model,
    index: usize,
    x: &Tensor,
    rows: &RangeRows<'_>,
) -> Projected {
    let projected = project(model, index, x, rows);
    match model.weights.layers[index].qkv.precision() {
        Precision::F32 => projected,
        Precision::Bf16 => Projected {
            k: projected.k.to_bf16(),
            v: projected.v.to_bf16(),
            ..projected
        },
    }
}

/// Queries [R, H*P] over the rows' own keys and values [N, G*P] -> [R, H*P].
pub(super) fn attend(config: &Config, projected: &Projected, ranges: &[KeyRanges]) -> Attended {
    let Projected { q, k, v, .. } = projected;
    attention(q, k, v, ranges, config.heads(), scale(config))
}

/// Queries [R, H*P] over stored keys and values -> [R, H*P].
pub(super) fn attend_paged(
    config: &Config,
    projected: &Projected,
    stored: &KeyValues,
    groups: &[RowGroup],
) -> Tensor {
    let (heads, scale) = (config.heads(), scale(config));
    attention_paged(&projected.q, stored, groups, heads, scale)
}

/// dout [R, D] -> dx [N, D], without the residual.
pub(super) fn attention_backward(
    model: &Model,
    index: usize,
    x: &Tensor,
    rows: &RangeRows<'_>,
    saved: AttentionSaved,
    dout: &Tensor,
    grads: &mut LayerWeights<Gradient>,
) -> Tensor {
    let (config, layer) = (&model.config, &model.weights.layers[index]);
    let AttentionSaved {
        projected,
        attended,
    } = saved;
    let eps = config.rms_norm_eps;
    let noise = Noise::new(rows.dropout.as_deref(), index, Site::AttentionOutput);
    let output = noise.backward(dout, &layer.dense);
    let dattended = output.input();
    output.weight(&attended.out, &mut grads.dense);
    if let Some(dbias) = &mut grads.dense_bias {
        bias_backward(dout, dbias);
    }
    let (mut dq, mut dk, dv) = llada_tensor::attention_backward(
        &projected.q,
        &projected.k,
        &projected.v,
        &rows.keys,
        config.heads(),
        scale(config),
        &attended,
        &dattended,
    );
    rope_backward(&mut dq, config.head_dim, &rows.query_rotation);
    rope_backward(&mut dk, config.head_dim, &rows.key_rotation);
    if let (Some((q, k)), Some(query_norm), Some(key_norm), Some(dquery_norm), Some(dkey_norm)) = (
        &projected.unnormed,
        &layer.query_norm,
        &layer.key_norm,
        &mut grads.query_norm,
        &mut grads.key_norm,
    ) {
        dq = rms_norm_backward(q, query_norm.values(), eps, &dq, dquery_norm);
        dk = rms_norm_backward(k, key_norm.values(), eps, &dk, dkey_norm);
    }
    let dq = rows.selection.unselect(dq);
    let dqkv = join_columns(&[&dq, &dk, &dv]);
    let normed = rms_norm(x, layer.input_norm.values(), eps); // as in `project`
    let noise = Noise::new(rows.key_dropout.as_deref(), index, Site::AttentionInput);
    let fused = noise.backward(&dqkv, &layer.qkv);
    fused.weight(&normed, &mut grads.qkv);
    if let Some(dbias) = &mut grads.qkv_bias {
        bias_backward(&dqkv, dbias);
    }
    let dnormed = fused.input();
    rms_norm_backward(
        x,
        layer.input_norm.values(),
        eps,
        &dnormed,
        &mut grads.input_norm,
    )
}

/// Returns the factor on the scores.
fn scale(config: &Config) -> f32 {
    1.0 / (config.head_dim as f32).sqrt()
}

/// Returns the widths of queries, keys and values in the fused projection.
fn widths(config: &Config) -> [usize; 3] {
    let key_value = config.num_key_value_heads * config.head_dim;
    [
        config.num_attention_heads * config.head_dim,
        key_value,
        key_value,
    ]
}
