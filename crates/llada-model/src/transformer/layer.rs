//! One pre-norm layer: `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.

use llada_tensor::{Attended, Gradient, Tensor, add_assign, rms_norm, rms_norm_backward};

use super::adapted::{Noise, Site};
use super::attention::{AttentionSaved, attend, attention_backward, project_own};
use super::mlp::{MlpSaved, mlp_again, mlp_backward, mlp_forward};
use super::router::RouterStats;
use super::rows::Rows;
use super::{Model, RangeRows};
use crate::LayerWeights;

/// What the backward of a layer needs beside its input.
#[derive(Debug)]
pub(super) struct LayerSaved {
    attention: AttentionSaved,
    rest: FinishSaved,
}

/// What the backward needs of the layer after its attention.
#[derive(Debug)]
pub(super) struct FinishSaved {
    /// After the attention, [R, D].
    h: Tensor,
    mlp: MlpSaved,
}

impl FinishSaved {
    /// Returns the experts that the rows used; none if the layer has no experts.
    pub(super) fn experts(&self) -> &[u32] {
        self.mlp.experts()
    }
}

impl LayerSaved {
    /// Returns what the router of layer `layer` did; `None` if it has no experts.
    pub(super) fn router_stats(&self, layer: usize) -> Option<RouterStats> {
        self.rest.mlp.router_stats(layer)
    }

    /// Keeps what the attention came to alone.
    pub(super) fn into_attended(self) -> Attended {
        self.attention.attended
    }

    /// Adds the z-loss with this weight to what the backward differentiates.
    pub(super) fn set_z_weight(&mut self, weight: f32) {
        self.rest.mlp.set_z_weight(weight);
    }
}

/// x [N, D] -> y [R, D], where R counts the selected rows (all, but in the last layer).
pub(super) fn layer_forward(
    model: &Model,
    index: usize,
    x: &Tensor,
    rows: &RangeRows<'_>,
) -> (Tensor, LayerSaved) {
    let projected = project_own(model, index, x, rows);
    let attended = attend(&model.config, &projected, &rows.keys);
    let (y, rest) = layer_finish(model, index, x, &attended.out, rows);
    let attention = AttentionSaved::new(projected, attended);
    (y, LayerSaved { attention, rest })
}

/// Computes again what the backward needs of a layer of which the attention's output was kept: all but the
/// attention itself and what nothing but the next layer needs.
pub(super) fn layer_again(
    model: &Model,
    index: usize,
    x: &Tensor,
    attended: Attended,
    rows: &RangeRows<'_>,
) -> LayerSaved {
    let projected = project_own(model, index, x, rows);
    let (h, normed) = after_attention(model, index, x, &attended.out, rows);
    let noise = Noise::new(rows.dropout.as_deref(), index, Site::MlpInput);
    let mlp = &model.weights.layers[index].mlp;
    let mlp = mlp_again(&model.config, mlp, &normed, &rows.blocks, noise);
    LayerSaved {
        attention: AttentionSaved::new(projected, attended),
        rest: FinishSaved { h, mlp },
    }
}

/// The layer from its output projection on: attended [R, H*P] -> y [R, D].
pub(super) fn layer_finish<K>(
    model: &Model,
    index: usize,
    x: &Tensor,
    attended: &Tensor,
    rows: &Rows<K>,
) -> (Tensor, FinishSaved) {
    let (h, normed) = after_attention(model, index, x, attended, rows);
    let noise = Noise::new(rows.dropout.as_deref(), index, Site::MlpInput);
    let mlp = &model.weights.layers[index].mlp;
    let (mut y, mlp) = mlp_forward(&model.config, mlp, &normed, &rows.blocks, noise);
    add_assign(&mut y, &h);
    (y, FinishSaved { h, mlp })
}

/// attended [R, H*P] -> h and the MLP's input, [R, D] each.
fn after_attention<K>(
    model: &Model,
    index: usize,
    x: &Tensor,
    attended: &Tensor,
    rows: &Rows<K>,
) -> (Tensor, Tensor) {
    let layer = &model.weights.layers[index];
    let bias = layer.dense_bias.as_ref().map(|bias| bias.values());
    let noise = Noise::new(rows.dropout.as_deref(), index, Site::AttentionOutput);
    let mut h = noise.linear(attended, &layer.dense, bias);
    add_assign(&mut h, &rows.selection.select(x));
    let normed = rms_norm(&h, layer.post_norm.values(), model.config.rms_norm_eps);
    (h, normed)
}

/// dy [R, D] -> dx [N, D].
pub(super) fn layer_backward(
    model: &Model,
    index: usize,
    x: &Tensor,
    rows: &RangeRows<'_>,
    saved: LayerSaved,
    dy: &Tensor,
    grads: &mut LayerWeights<Gradient>,
) -> Tensor {
    let LayerSaved { attention, rest } = saved;
    let layer = &model.weights.layers[index];
    let eps = model.config.rms_norm_eps;
    // Computed again rather than kept: a norm costs less than the memory traffic of its result.
    let normed = rms_norm(&rest.h, layer.post_norm.values(), eps);
    let dnormed = mlp_backward(
        &model.config,
        &layer.mlp,
        &normed,
        rest.mlp,
        dy,
        Noise::new(rows.dropout.as_deref(), index, Site::MlpInput),
        &mut grads.mlp,
    );
    let mut dh = rms_norm_backward(
        &rest.h,
        layer.post_norm.values(),
        eps,
        &dnormed,
        &mut grads.post_norm,
    );
    add_assign(&mut dh, dy);
    let mut dx = attention_backward(model, index, x, rows, attention, &dh, grads);
    add_assign(&mut dx, &rows.selection.unselect(dh));
    dx
}
