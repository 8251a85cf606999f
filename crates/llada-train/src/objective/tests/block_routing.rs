//! A mixture that chooses the experts of whole blocks, in training: its loss and gradients against a slow
//! model in f64 that is told which document, block, copy and half every row belongs to.

use std::collections::BTreeMap;

use llada_diffusion::{Row, TrainRows, visible};
use llada_model::{BlockRouting, Mlp, Moe, Swiglu};
use llada_tensor::reference::attention::attention;
use llada_tensor::reference::experts::{Expert, experts};
use llada_tensor::reference::matmul::{matmul, transpose};
use llada_tensor::reference::norm::rms_norm;
use llada_tensor::reference::rope::rope;
use llada_tensor::reference::router::route_block;
use llada_tensor::{Heads, RouterConfig};

use super::*;

/// Rows that share experts, and the experts that they share.
const BLOCK: usize = 4;
const CAPACITY: usize = 2;

/// Parameters as numbers.
type Values = Weights<Vec<f64>>;

fn block_model(alignment: LabelAlignment) -> Model {
    let mut config = testing::moe_config(alignment);
    let moe = config.moe.as_mut().expect("the test model is a mixture");
    moe.block_routing = Some(BlockRouting {
        expert_capacity: CAPACITY,
        block_size: BLOCK,
    });
    let mut weights = Weights::random(&config, 1, Precision::F32);
    for layer in &mut weights.layers {
        if let Mlp::Moe(moe) = &mut layer.mlp {
            let bias = moe.expert_bias.values_mut().f32s_mut().iter_mut();
            bias.zip(0..)
                .for_each(|(bias, i)| *bias = 0.01 * (i % 3) as f32);
            for expert in &mut moe.experts {
                let down = expert.down.values_mut().f32s_mut();
                down.iter_mut().for_each(|value| *value *= 30.0); // the choice is to be felt
            }
        }
    }
    Model::new(config, weights)
}

/// Batches in every layout that has blocks: turns, twins and elided rows; then nothing elided; then groups.
fn batches(alignment: LabelAlignment) -> Vec<MicroBatch> {
    let batch = |elision, complementary, group_blocks| {
        let mut assembly = assembly(alignment, elision);
        if let Task::Diffusion(diffusion) = &mut assembly.task {
            diffusion.complementary = complementary;
            diffusion.group_blocks = group_blocks;
        }
        let mut batch = assembly.batch(&corpus(), drawn(), BlockSize::new(BLOCK).unwrap());
        batch.micro_batches.remove(0)
    };
    vec![
        batch(Elision::On, true, 1),
        batch(Elision::Off, false, 1),
        batch(Elision::On, false, 2),
    ]
}

/// The slow model.
struct Oracle<'a> {
    model: &'a Model,
    micro_batch: &'a MicroBatch,
}

impl Oracle<'_> {
    /// Returns the weighted sum of negative log-likelihoods.
    fn loss(&self, values: &Values) -> f64 {
        let TrainRows { ids, loss_rows, .. } = &self.micro_batch.rows;
        let width = self.model.config.hidden_size;
        let embedded = ids
            .iter()
            .flat_map(|&id| &values.embedding[id as usize * width..][..width]);
        let mut x: Vec<f64> = embedded.copied().collect();
        for layer in &values.layers {
            let attended = self.attention(layer, &x);
            add(&mut x, &attended);
            let normed = self.norm(&x, &layer.post_norm);
            let y = match &layer.mlp {
                Mlp::Dense(dense) => all_rows(&normed, &expert(dense), ids.len()),
                Mlp::Moe(moe) => self.mixture(moe, &normed),
            };
            add(&mut x, &y);
        }
        let hidden = self.norm(&x, &values.norm);
        let head = values.head.as_ref().unwrap_or(&values.embedding);
        let weighted = loss_rows.iter().zip(&self.micro_batch.weights);
        let nll = |row: &llada_diffusion::LossRow| {
            let logits = product(&hidden[row.row as usize * width..][..width], head, width);
            let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
            total.ln() - logits[row.target as usize]
        };
        weighted
            .map(|(row, &weight)| f64::from(weight) * nll(row))
            .sum()
    }

    fn attention(&self, layer: &llada_model::LayerWeights<Vec<f64>>, x: &[f64]) -> Vec<f64> {
        let (config, rows) = (&self.model.config, &self.micro_batch.rows);
        let heads = Heads {
            query: config.num_attention_heads,
            key_value: config.num_key_value_heads,
            dim: config.head_dim,
        };
        let qkv = product(
            &self.norm(x, &layer.input_norm),
            &layer.qkv,
            config.hidden_size,
        );
        let part = |first: usize, heads_of_part: usize| -> Vec<f64> {
            let num_columns = (heads.query + 2 * heads.key_value) * heads.dim;
            let columns = first * heads.dim..(first + heads_of_part) * heads.dim;
            qkv.chunks(num_columns)
                .flat_map(|row| &row[columns.clone()])
                .copied()
                .collect()
        };
        let (inv_freq, scale) = config.inv_freq();
        let inv_freq: Vec<f64> = inv_freq.into_iter().map(f64::from).collect();
        let turned = |x: Vec<f64>, norm: &Option<Vec<f64>>| {
            let norm = norm.as_ref().expect("the test model has norms of heads");
            let x = self.norm(&x, norm);
            rope(&x, heads.dim, &rows.positions, &inv_freq, f64::from(scale))
        };
        let q = turned(part(0, heads.query), &layer.query_norm);
        let k = turned(part(heads.query, heads.key_value), &layer.key_norm);
        let v = part(heads.query + heads.key_value, heads.key_value);
        let sees = |query: usize, key: usize| visible(&rows.rows[query], &rows.rows[key]);
        let (out, _) = attention(&q, &k, &v, sees, heads, 1.0 / (heads.dim as f64).sqrt());
        product(&out, &layer.dense, heads.query * heads.dim)
    }

    /// Every block of every copy of every document chooses its experts for itself.
    fn mixture(&self, moe: &Moe<Vec<f64>>, x: &[f64]) -> Vec<f64> {
        let config = self.model.config.moe.as_ref().expect("it is a mixture");
        let width = self.model.config.hidden_size;
        let router = RouterConfig {
            top_k: config.num_experts_per_tok,
            num_groups: config.n_group,
            groups_kept: config.topk_group,
            normalise: config.norm_topk_prob,
            routed_scaling: config.routed_scaling_factor,
        };
        let logits = product(x, &moe.router, width);
        let num_experts = moe.experts.len();
        let rows = &self.micro_batch.rows.rows;
        let mut routed = vec![Vec::new(); rows.len()];
        for block in self.blocks() {
            let of_block = block
                .iter()
                .flat_map(|&row| &logits[row * num_experts..][..num_experts]);
            let of_block: Vec<f64> = of_block.copied().collect();
            let chosen = route_block(&of_block, &moe.expert_bias, CAPACITY, &router);
            for (&row, chosen) in block.iter().zip(chosen.chunks(router.top_k)) {
                routed[row] = chosen.to_vec();
            }
        }
        let chosen: Vec<u32> = routed
            .iter()
            .flatten()
            .map(|&(expert, _)| expert as u32)
            .collect();
        let weights: Vec<f64> = routed.iter().flatten().map(|&(_, weight)| weight).collect();
        let of: Vec<Expert> = moe.experts.iter().map(expert).collect();
        let mut y = experts(x, &chosen, &weights, router.top_k, &of);
        let shared = moe
            .shared
            .as_ref()
            .expect("the test model has a shared expert");
        add(&mut y, &all_rows(x, &expert(shared), rows.len()));
        y
    }

    fn blocks(&self) -> Vec<Vec<usize>> {
        let mut blocks: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (place, row) in self.micro_batch.rows.rows.iter().enumerate() {
            let &Row {
                doc,
                copy,
                clean,
                pos,
                ..
            } = row;
            let block = (doc, clean, copy, pos as usize / BLOCK);
            blocks.entry(block).or_default().push(place);
        }
        blocks.into_values().collect()
    }

    fn norm(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let eps = f64::from(self.model.config.rms_norm_eps);
        rms_norm(x, weight, eps)
    }
}

/// Returns `x W^T`. # Shapes: x [N, I], w [O, I] -> [N, O].
fn product(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    matmul(x, &transpose(w, [outputs, inputs]), [rows, inputs, outputs])
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn expert(swiglu: &Swiglu<Vec<f64>>) -> Expert {
    let Swiglu { gate, up, down } = swiglu.clone();
    Expert { gate, up, down }
}

/// Returns what one expert makes of every row.
fn all_rows(x: &[f64], expert: &Expert, num_rows: usize) -> Vec<f64> {
    let (chosen, weights) = (vec![0; num_rows], vec![1.0; num_rows]);
    experts(x, &chosen, &weights, 1, std::slice::from_ref(expert))
}

fn values(model: &Model) -> Values {
    let numbers = |x: &f32| f64::from(*x);
    model.weights.map(|_, weight| {
        weight
            .values()
            .to_f32()
            .f32s()
            .iter()
            .map(numbers)
            .collect()
    })
}

#[test]
fn loss_and_gradients_are_those_of_a_slow_model_that_knows_the_blocks() {
    for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
        let model = block_model(alignment);
        for micro_batch in &batches(alignment) {
            let oracle = Oracle {
                model: &model,
                micro_batch,
            };
            let mut grads = model.zero_gradients();
            let sums = weighted_nll(&model, micro_batch, Activations::Keep, &mut grads);
            let expected = oracle.loss(&values(&model));
            assert!(
                (sums.loss / expected - 1.0).abs() < 1e-5,
                "{} and {expected}",
                sums.loss
            );
            for (name, gradient) in grads.tensors() {
                assert_slope(&oracle, &name, gradient.f32s());
            }
        }
    }
}

/// Compares the largest entry of a gradient with a difference of losses.
fn assert_slope(oracle: &Oracle<'_>, name: &str, gradient: &[f32]) {
    const STEP: f64 = 1e-5;
    let largest =
        (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
    let place = largest.expect("a parameter has numbers");
    let loss_at = |step: f64| {
        let mut values = values(oracle.model);
        let mut params = values.params_mut().into_iter();
        let (_, param) = params
            .find(|(other, _)| other == name)
            .expect("it is a parameter");
        param[place] += step;
        oracle.loss(&values)
    };
    let slope = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
    let found = f64::from(gradient[place]);
    let bound = 2e-4 * slope.abs().max(1e-3);
    assert!((found - slope).abs() < bound, "{name}: {found} and {slope}");
}

#[test]
fn pools_decide_the_loss_of_the_test_model() {
    let model = block_model(LabelAlignment::Same);
    let mut config = model.config.clone();
    config.moe.as_mut().expect("it is a mixture").block_routing = None;
    let free = Model::new(config, model.weights.clone());
    for micro_batch in &batches(LabelAlignment::Same) {
        let loss = |model| score(model, micro_batch).iter().map(nll_of).sum::<f64>();
        let (loss, free) = (loss(&model), loss(&free));
        assert!((loss / free - 1.0).abs() > 1e-3, "{loss} and {free}");
    }
}
