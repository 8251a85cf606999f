//! The transformer, written once (`model.md` 4): training, prefill, denoising and AR decoding are the
//! same layers over other rows, which see other keys: those of the pass itself in
//! [`Model::forward`], those of a [`KvStore`] in [`Model::forward_cached`].
//!
//! Each layer is a pair: `forward` returns its output and what the backward needs, `backward` mirrors
//! it line by line. Training keeps those records on a [`Tape`]; decoding drops them at once.

mod adapted;
mod attention;
mod cached;
mod layer;
mod mlp;
mod router;
mod rows;

use std::borrow::Cow;

use llada_tensor::{
    Attended, Gradient, HeadRow, KeyRanges, Tensor, Weight, embed, embed_backward, head_backward,
    head_rows, head_rows_and_backward, linear, rms_norm, rms_norm_backward,
};

pub use self::adapted::Dropout;
pub use self::cached::{CachedInput, CachedOutput};
use self::layer::{LayerSaved, layer_again, layer_backward, layer_forward};
pub use self::router::RouterStats;
use self::rows::{Context, Rows};
use crate::{Config, KvStore, ParamKind, ParamSpec, Weights};

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

/// What a backward pass adds up, per parameter.
pub type Gradients = Weights<Gradient>;

/// The rows of one forward pass, N of them.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Token ids, N.
    pub ids: &'a [u32],
    /// Positions from the start of the document or prompt, N.
    pub positions: &'a [u32],
    /// Keys that each row sees among the rows, N. Rows of one diffusion block see the same.
    pub ranges: &'a [KeyRanges],
    /// Rows whose hidden states are wanted, strictly ascending.
    pub outputs: &'a [u32],
    /// What the adapter does not see of its inputs, in training with one.
    pub dropout: Option<&'a Dropout>,
}

/// Whether training keeps the activations of every layer or computes them again in the backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Kept: fastest.
    Keep,
    /// Only each layer's input and the output of its attention are kept, and all of the last one, with which the
    /// backward begins: less than one more forward, a fraction of the memory.
    Recompute,
}

/// What [`Model::backward`] needs of the forward pass.
#[derive(Debug)]
pub struct Tape {
    /// The inputs of the layers, [N, D], and what else was kept.
    layers: Vec<(Tensor, Kept)>,
    /// Input of the final norm, [outputs, D].
    last: Tensor,
    router_stats: Vec<RouterStats>,
    router_z_weight: f32,
}

/// What is kept of a layer beside its input.
#[derive(Debug)]
enum Kept {
    /// All that its backward needs.
    All(Box<LayerSaved>),
    /// What its attention came to.
    Attention(Attended),
}

impl Tape {
    /// Returns what the routers did, one entry per layer with experts. Counted are the rows that were
    /// computed: in the last layer those of the outputs alone.
    pub fn router_stats(&self) -> &[RouterStats] {
        &self.router_stats
    }

    /// Adds `weight * sum over layers and rows of lse(router logits)^2` to what the backward
    /// differentiates.
    pub fn set_router_z_weight(&mut self, weight: f32) {
        self.router_z_weight = weight;
    }
}

/// Rows of a layer that see keys of the pass itself, those in their ranges.
type RangeRows<'a> = Rows<Cow<'a, [KeyRanges]>>;

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

    /// Packs every matrix that rows are multiplied with, for repeated products: see [`Weight::pack`].
    pub fn pack(&mut self) {
        let is_tied = self.weights.head.is_none();
        let mut specs = Weights::specs(&self.config).into_params().into_iter();
        self.weights.for_each_mut(|_, weight| {
            let kind = specs.next().map(|(_, spec)| spec.kind);
            match kind {
                Some(ParamKind::Embedding) if is_tied => weight.pack_beside(),
                Some(ParamKind::Embedding) => {}
                _ if weight.values().shape().len() == 2 => weight.pack(),
                _ => {}
            }
        });
    }

    /// Returns zero gradients of all that can be trained: of a weight with a low-rank part that part, else
    /// its values.
    pub fn zero_gradients(&self) -> Gradients {
        self.zero_gradients_of(|_| true)
    }

    /// As [`Model::zero_gradients`], of the parameters that `is_trained` alone. Expert biases have none.
    pub fn zero_gradients_of(&self, is_trained: impl Fn(&ParamSpec) -> bool) -> Gradients {
        let mut specs = Weights::specs(&self.config).into_params().into_iter();
        self.weights.map(|_, weight| match specs.next() {
            Some((_, spec)) if spec.kind.is_trainable() && is_trained(&spec) => {
                Gradient::zeros(weight)
            }
            _ => Gradient::Frozen,
        })
    }

    /// Returns the hidden states of the output rows after the final norm, [outputs, D].
    ///
    /// # Panics
    /// If the slices of `input` differ in length, a range is empty or an id is not in the vocabulary.
    pub fn forward(&self, input: &Input<'_>) -> Tensor {
        self.forward_embedded(self.embed(input.ids), input)
    }

    /// As [`Model::forward`], from given embeddings of the rows, [N, D].
    pub fn forward_embedded(&self, embedded: Tensor, input: &Input<'_>) -> Tensor {
        let context = self.context(input);
        let mut x = embedded;
        for index in 0..self.weights.layers.len() {
            x = layer_forward(self, index, &x, context.rows(index)).0;
        }
        self.final_norm(&context.outputs.select(&x))
    }

    /// As [`Model::forward`], and records what [`Model::backward`] needs.
    pub fn forward_recorded(&self, input: &Input<'_>, activations: Activations) -> (Tensor, Tape) {
        self.record(self.embed(input.ids), input, activations)
    }

    /// Returns the embeddings of tokens, [N, D].
    pub fn embed(&self, ids: &[u32]) -> Tensor {
        embed(ids, &self.weights.embedding)
    }

    /// As [`Model::forward_recorded`], from given embeddings of the rows, [N, D]: those of the ids, to
    /// which noise may have been added. The backward takes the noise as a constant.
    pub fn record(
        &self,
        embedded: Tensor,
        input: &Input<'_>,
        activations: Activations,
    ) -> (Tensor, Tape) {
        let context = self.context(input);
        let mut x = embedded;
        let mut layers = Vec::with_capacity(self.weights.layers.len());
        let mut router_stats = Vec::new();
        let num_layers = self.weights.layers.len();
        for index in 0..num_layers {
            let (y, saved) = layer_forward(self, index, &x, context.rows(index));
            router_stats.extend(saved.router_stats(index));
            let kept = match activations {
                Activations::Recompute if index + 1 < num_layers => {
                    Kept::Attention(saved.into_attended())
                }
                _ => Kept::All(Box::new(saved)),
            };
            layers.push((x, kept));
            x = y;
        }
        let last = context.outputs.select(&x).into_owned();
        let hidden = self.final_norm(&last);
        let tape = Tape {
            layers,
            last,
            router_stats,
            router_z_weight: 0.0,
        };
        (hidden, tape)
    }

    /// Computes rows of any number of texts, of which everything before them is in the store: writes
    /// their keys and values to their slots, and returns the hidden states of the output rows.
    ///
    /// A row's result is bit-identical whatever the other groups, the rows of the store and the number
    /// of threads.
    ///
    /// # Panics
    /// If there are no rows, the slices of `input` differ in length, an id is not in the vocabulary,
    /// the groups do not cover the rows, or a slot or key is not in the store.
    pub fn forward_cached(&self, input: &CachedInput<'_>, store: &mut KvStore) -> CachedOutput {
        cached::forward(self, input, store)
    }

    /// Adds the gradients of all parameters but the head, given that of the hidden states [outputs, D].
    /// The input is that of the forward pass.
    pub fn backward(&self, input: &Input<'_>, tape: Tape, dhidden: &Tensor, grads: &mut Gradients) {
        let context = self.context(input);
        let (norm, eps) = (self.weights.norm.values(), self.config.rms_norm_eps);
        let mut dx = rms_norm_backward(&tape.last, norm, eps, dhidden, &mut grads.norm);
        dx = context.outputs.unselect(dx);
        let num_frozen = grads.num_frozen_layers();
        let layers = tape.layers.into_iter().enumerate().skip(num_frozen);
        for (index, (x, kept)) in layers.rev() {
            let rows = context.rows(index);
            let mut saved = match kept {
                Kept::All(saved) => *saved,
                Kept::Attention(attended) => layer_again(self, index, &x, attended, rows),
            };
            saved.set_z_weight(tape.router_z_weight);
            dx = layer_backward(self, index, &x, rows, saved, &dx, &mut grads.layers[index]);
        }
        if grads.embedding != Gradient::Frozen {
            embed_backward(input.ids, &dx, &mut grads.embedding);
        }
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

    /// Does both at once; see [`llada_tensor::head_rows_and_backward`].
    pub fn head_rows_and_backward(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        nll_weights: &[f32],
        grads: &mut Gradients,
    ) -> (Vec<HeadRow>, Tensor) {
        let dhead = grads.head.as_mut().unwrap_or(&mut grads.embedding);
        head_rows_and_backward(hidden, self.head(), targets, nll_weights, dhead)
    }

    /// Returns whole logits, [rows, V]: for sampling and inspection.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        linear(hidden, self.head(), None)
    }

    fn context<'a>(&self, input: &Input<'a>) -> Context<Cow<'a, [KeyRanges]>> {
        let num_rows = input.ids.len();
        assert_eq!(num_rows, input.positions.len(), "one position per row");
        assert_eq!(num_rows, input.ranges.len(), "one pair of ranges per row");
        Context::new(
            self,
            input.positions,
            input.ranges.into(),
            input.outputs,
            input.dropout,
        )
    }

    /// Returns whether the experts of a diffusion block are chosen together.
    fn routes_blocks(&self) -> bool {
        self.config.block_routing().is_some()
    }

    fn final_norm(&self, x: &Tensor) -> Tensor {
        rms_norm(x, self.weights.norm.values(), self.config.rms_norm_eps)
    }

    /// Returns the output matrix: the embedding when the two are tied.
    fn head(&self) -> &Weight {
        self.weights
            .head
            .as_ref()
            .unwrap_or(&self.weights.embedding)
    }
}
