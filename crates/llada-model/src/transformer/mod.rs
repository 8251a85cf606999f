//! The transformer, written once: training, prefill, denoising and AR decoding are this forward with
//! other rows, ranges and outputs (`model.md` 4).
//!
//! Each layer is a pair: `forward` returns its output and what the backward needs, `backward` mirrors
//! it line by line. Training keeps those records on a [`Tape`]; decoding drops them at once.

mod attention;
mod cached;
mod layer;
mod mlp;

use std::borrow::Cow;
use std::sync::Arc;

use llada_tensor::{
    HeadRow, KeyRanges, Rotation, Tensor, Weight, embed, embed_backward, gather_rows,
    head_backward, head_rows, linear, rms_norm, rms_norm_backward, scatter_add_rows,
};

use self::layer::{LayerSaved, layer_backward, layer_forward};
use crate::{Config, KvCache, Weights};

/// A configuration with its parameters.
#[derive(Clone, Debug)]
pub struct Model {
    /// What the parameters mean.
    pub config: Config,
    /// The parameters.
    pub weights: Weights<Weight>,
    inv_freq: Vec<f32>,
    rope_scale: f32,
    /// Parameters of the largest layer.
    layer_size: usize,
}

/// One gradient per parameter.
pub type Gradients = Weights<Tensor>;

/// The rows of one forward pass, N of them.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Token ids, N.
    pub ids: &'a [u32],
    /// Positions from the start of the document or prompt, N.
    pub positions: &'a [u32],
    /// Keys that each row sees, N; with a cache, its committed rows come before the batch's own.
    pub ranges: &'a [KeyRanges],
    /// Rows whose hidden states are wanted, strictly ascending. With none, only keys and values are computed.
    pub outputs: &'a [u32],
}

/// Whether training keeps the activations of every layer or computes them again in the backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Kept: fastest.
    Keep,
    /// Only each layer's input is kept: one more forward, a fraction of the memory.
    Recompute,
}

/// What [`Model::backward`] needs of the forward pass.
#[derive(Debug)]
pub struct Tape {
    layers: Vec<(Tensor, Option<LayerSaved>)>,
    last: Tensor,
}

impl Model {
    /// Puts a configuration and its parameters together.
    pub fn new(config: Config, weights: Weights<Weight>) -> Self {
        let (inv_freq, rope_scale) = config.inv_freq();
        let layer_size = config.largest_layer();
        Self {
            config,
            weights,
            inv_freq,
            rope_scale,
            layer_size,
        }
    }

    /// Builds the packed layout of every matrix, for repeated products with the same weights.
    pub fn pack(&mut self) {
        for (_, weight) in self.weights.params_mut() {
            if weight.values().shape().len() == 2 {
                weight.pack();
            }
        }
    }

    /// Returns a zero gradient for every parameter.
    pub fn zero_gradients(&self) -> Gradients {
        self.weights
            .map(|_, weight| Tensor::zeros(weight.values().shape()))
    }

    /// Returns the hidden states of the output rows after the final norm, [outputs, D].
    ///
    /// With a cache, the keys are its committed rows followed by the batch's own, which remain in the
    /// cache as scratch rows until [`KvCache::advance`].
    ///
    /// # Panics
    /// If the slices of `input` differ in length, a range is empty or an id is not in the vocabulary.
    pub fn forward(&self, input: &Input<'_>, cache: Option<&mut KvCache>) -> Tensor {
        if let Some(cache) = cache {
            return cached::forward(self, input, cache);
        }
        let context = Context::new(self, input);
        let mut x = embed(input.ids, &self.weights.embedding);
        for index in 0..self.weights.layers.len() {
            x = layer_forward(self, index, &x, context.rows(index)).0;
        }
        rms_norm(&x, self.weights.norm.values(), self.config.rms_norm_eps)
    }

    /// As [`Model::forward`] without a cache, and records what [`Model::backward`] needs.
    pub fn forward_recorded(&self, input: &Input<'_>, activations: Activations) -> (Tensor, Tape) {
        let context = Context::new(self, input);
        let mut x = embed(input.ids, &self.weights.embedding);
        let mut layers = Vec::with_capacity(self.weights.layers.len());
        for index in 0..self.weights.layers.len() {
            let (y, saved) = layer_forward(self, index, &x, context.rows(index));
            layers.push((x, (activations == Activations::Keep).then_some(saved)));
            x = y;
        }
        let hidden = rms_norm(&x, self.weights.norm.values(), self.config.rms_norm_eps);
        (hidden, Tape { layers, last: x })
    }

    /// Adds the gradients of all parameters but the head, given that of the hidden states [outputs, D].
    pub fn backward(&self, input: &Input<'_>, tape: Tape, dhidden: &Tensor, grads: &mut Gradients) {
        let context = Context::new(self, input);
        let (norm, eps) = (self.weights.norm.values(), self.config.rms_norm_eps);
        let mut dx = rms_norm_backward(&tape.last, norm, eps, dhidden, &mut grads.norm);
        for (index, (x, saved)) in tape.layers.into_iter().enumerate().rev() {
            let rows = context.rows(index);
            let saved = saved.unwrap_or_else(|| layer_forward(self, index, &x, rows).1);
            dx = layer_backward(self, index, &x, rows, saved, &dx, &mut grads.layers[index]);
        }
        embed_backward(input.ids, &dx, &mut grads.embedding);
    }

    /// Returns what the logits of each hidden row say; see [`llada_tensor::head_rows`].
    pub fn head_rows(
        &self,
        hidden: &Tensor,
        targets: Option<&[u32]>,
        banned: Option<u32>,
    ) -> Vec<HeadRow> {
        head_rows(hidden, self.head(), targets, banned)
    }

    /// Returns the gradient of the hidden rows and adds that of the head; see
    /// [`llada_tensor::head_backward`].
    pub fn head_backward(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        rows: &[HeadRow],
        nll_weights: &[f32],
        entropy_weights: Option<&[f32]>,
        grads: &mut Gradients,
    ) -> Tensor {
        let dhead = grads.head.as_mut().unwrap_or(&mut grads.embedding);
        head_backward(
            hidden,
            self.head(),
            targets,
            rows,
            nll_weights,
            entropy_weights,
            dhead,
        )
    }

    /// Returns whole logits, [rows, V]: for sampling and inspection.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        linear(hidden, self.head(), None)
    }

    /// Returns the output matrix: the embedding when the two are tied.
    fn head(&self) -> &Weight {
        self.weights
            .head
            .as_ref()
            .unwrap_or(&self.weights.embedding)
    }
}

/// The rows of a pass as all layers but the last see them, and as the last one does.
struct Context<'a> {
    last_layer: usize,
    all: Rows<'a>,
    selected: Option<Rows<'a>>,
}

/// Rows that a layer computes. Keys and values are always computed for every row; with a `selection`,
/// queries and everything after the attention only for the chosen ones (`training.md` 11).
struct Rows<'a> {
    selection: Option<&'a [u32]>,
    /// Ranges of the queries.
    ranges: Cow<'a, [KeyRanges]>,
    query_rotation: Arc<Rotation>,
    key_rotation: Arc<Rotation>,
}

impl<'a> Context<'a> {
    fn new(model: &Model, input: &Input<'a>) -> Self {
        assert_eq!(
            input.ids.len(),
            input.positions.len(),
            "one position per row"
        );
        assert_eq!(
            input.ids.len(),
            input.ranges.len(),
            "one pair of ranges per row"
        );
        let rotate = |positions: &[u32]| {
            Arc::new(Rotation::new(positions, &model.inv_freq, model.rope_scale))
        };
        let rotation = rotate(input.positions);
        let all = Rows {
            selection: None,
            ranges: input.ranges.into(),
            query_rotation: rotation.clone(),
            key_rotation: rotation.clone(),
        };
        let pick = |row: &u32| input.positions[*row as usize];
        let selected = (input.outputs.len() < input.ids.len()).then(|| Rows {
            selection: Some(input.outputs),
            ranges: input
                .outputs
                .iter()
                .map(|&row| input.ranges[row as usize])
                .collect(),
            query_rotation: rotate(&input.outputs.iter().map(pick).collect::<Vec<_>>()),
            key_rotation: rotation,
        });
        Self {
            last_layer: model.weights.layers.len() - 1,
            all,
            selected,
        }
    }

    fn rows(&self, layer: usize) -> &Rows<'a> {
        match &self.selected {
            Some(selected) if layer == self.last_layer => selected,
            _ => &self.all,
        }
    }
}

impl Rows<'_> {
    /// Returns the selected rows of `x`, or `x` itself.
    fn select<'t>(&self, x: &'t Tensor) -> Cow<'t, Tensor> {
        match self.selection {
            Some(rows) => Cow::Owned(gather_rows(x, rows)),
            None => Cow::Borrowed(x),
        }
    }

    /// Puts the gradient of selected rows back among all `num_rows` rows.
    fn unselect(&self, dx: Tensor, num_rows: usize) -> Tensor {
        let Some(rows) = self.selection else {
            return dx;
        };
        let [_, width] = dx.dims2();
        let mut all = Tensor::zeros(&[num_rows, width]);
        scatter_add_rows(&mut all, rows, &dx);
        all
    }
}
