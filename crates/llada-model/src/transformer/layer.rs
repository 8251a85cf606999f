//! One pre-norm layer: `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.

use llada_tensor::{Tensor, add_assign, rms_norm, rms_norm_backward};

use super::attention::{AttentionSaved, Projected, attend, attention_backward, project};
use super::mlp::{MlpSaved, mlp_backward, mlp_forward};
use super::{Model, Rows};
use crate::LayerWeights;

/// What the backward of a layer needs beside its input.
#[derive(Debug)]
pub(super) struct LayerSaved {
    attention: AttentionSaved,
    /// After the attention, [R, D].
    h: Tensor,
    mlp: MlpSaved,
}

/// x [N, D] -> y [R, D], where R counts the selected rows (all, but in the last layer).
pub(super) fn layer_forward(
    model: &Model,
    index: usize,
    x: &Tensor,
    rows: &Rows<'_>,
) -> (Tensor, LayerSaved) {
    let projected = project(model, index, x, rows);
    layer_finish(model, index, x, projected, None, rows)
}

/// The rest of [`layer_forward`] once keys and values are known: those in `cached`, or the rows' own.
pub(super) fn layer_finish(
    model: &Model,
    index: usize,
    x: &Tensor,
    projected: Projected,
    cached: Option<(&Tensor, &Tensor)>,
    rows: &Rows<'_>,
) -> (Tensor, LayerSaved) {
    let layer = &model.weights.layers[index];
    let visible = cached.unwrap_or((&projected.k, &projected.v));
    let (mut h, attended) = attend(model, index, &projected, visible, rows);
    add_assign(&mut h, &rows.select(x));
    let normed = rms_norm(&h, layer.post_norm.values(), model.config.rms_norm_eps);
    let (mut y, mlp) = mlp_forward(&model.config, &layer.mlp, &normed);
    add_assign(&mut y, &h);
    let attention = AttentionSaved::new(projected, attended);
    (y, LayerSaved { attention, h, mlp })
}

/// dy [R, D] -> dx [N, D].
pub(super) fn layer_backward(
    model: &Model,
    index: usize,
    x: &Tensor,
    rows: &Rows<'_>,
    saved: LayerSaved,
    dy: &Tensor,
    grads: &mut LayerWeights<Tensor>,
) -> Tensor {
    let layer = &model.weights.layers[index];
    let eps = model.config.rms_norm_eps;
    // Computed again rather than kept: a norm costs less than the memory traffic of its result.
    let normed = rms_norm(&saved.h, layer.post_norm.values(), eps);
    let dnormed = mlp_backward(
        &model.config,
        &layer.mlp,
        &normed,
        saved.mlp,
        dy,
        &mut grads.mlp,
    );
    let mut dh = rms_norm_backward(
        &saved.h,
        layer.post_norm.values(),
        eps,
        &dnormed,
        &mut grads.post_norm,
    );
    add_assign(&mut dh, dy);
    let mut dx = attention_backward(model, index, x, rows, saved.attention, &dh, grads);
    add_assign(&mut dx, &rows.unselect(dh, x.dims2()[0]));
    dx
}
