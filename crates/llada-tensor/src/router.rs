//! The sigmoid router with top-k limited to groups of experts (`model.md` 6.1), or to a pool that a
//! whole diffusion block shares (6.4).

use std::ops::Range;

use rayon::prelude::*;

use crate::parallel::rows_per_task;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Tensor};

/// Settings of the router.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterConfig {
    /// Active experts per token, A.
    pub top_k: usize,
    /// Groups of consecutive experts; 0 or 1 means no group limit.
    pub num_groups: usize,
    /// Groups kept per token.
    pub groups_kept: usize,
    /// Whether the chosen weights are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub routed_scaling: f32,
}

/// Chosen experts and their weights, A slots per row in order of descending biased score.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// Active experts per token, A.
    pub top_k: usize,
    /// Expert ids, [N, A].
    pub experts: Vec<u32>,
    /// Combination weights, [N, A].
    pub weights: Vec<f32>,
}

/// Added to the sum that weights are divided by, as the reference does.
const SUM_EPS: f32 = 1e-20;

/// Score of what is chosen already or not to be chosen.
const TAKEN: f32 = f32::NEG_INFINITY;

/// Cost of an expert of a row in element operations.
const OPS: usize = 8;

/// Chooses experts. The bias takes part in the choice only; the lower id wins ties.
/// # Shapes: logits [N, E], bias `[E]`.
///
/// # Panics
/// If `num_groups` does not divide E, or fewer than `top_k` experts are left by the group limit.
pub fn route(logits: &Tensor, bias: &Tensor, config: &RouterConfig) -> Routing {
    let (isa, [rows, num_experts]) = (Isa::active(), logits.dims2());
    check_groups(config, num_experts);
    let mut routing = Routing::of(rows, config.top_k);
    let task = rows_per_task(rows, num_experts * OPS);
    let inputs = logits.f32s().par_chunks((task * num_experts).max(1));
    routing.tasks(task).zip(inputs).for_each(|(slots, logits)| {
        let mut scores = Scores::of(isa, logits, num_experts, bias);
        for biased in scores.biased.chunks_exact_mut(num_experts) {
            limit_to_groups(biased, config);
        }
        scores.choose(config, slots);
    });
    routing
}

/// As [`route`], but all rows of a block choose from one pool: the `capacity` experts whose best score
/// in the block is largest (`model.md` 6.4). There is no group limit.
/// # Shapes: logits [N, E], bias `[E]`; the blocks follow each other and cover the rows.
///
/// # Panics
/// If the blocks do not cover the rows, or `capacity` is not within `top_k` and E.
pub fn route_blocks(
    logits: &Tensor,
    bias: &Tensor,
    blocks: &[Range<usize>],
    capacity: usize,
    config: &RouterConfig,
) -> Routing {
    let [rows, num_experts] = logits.dims2();
    assert!(
        (config.top_k..=num_experts).contains(&capacity),
        "route: top {} of {capacity} of {num_experts} experts",
        config.top_k
    );
    let mut scores = Scores::of(Isa::active(), logits.f32s(), num_experts, bias);
    let mut next = 0;
    for block in blocks {
        assert_eq!(block.start, next, "route: blocks");
        next = block.end;
        let block = block.start * num_experts..block.end * num_experts;
        limit_to_pool(&mut scores.biased[block], num_experts, capacity);
    }
    assert_eq!(next, rows, "route: blocks");
    let mut routing = Routing::of(rows, config.top_k);
    routing
        .tasks(rows)
        .for_each(|slots| scores.choose(config, slots));
    routing
}

impl Routing {
    /// Makes room for the choices of rows.
    fn of(rows: usize, top_k: usize) -> Self {
        Self {
            top_k,
            experts: vec![0; rows * top_k],
            weights: vec![0.0; rows * top_k],
        }
    }

    /// Cuts into the slots of some rows each.
    fn tasks(&mut self, rows: usize) -> impl IndexedParallelIterator<Item = Slots<'_>> {
        let slots = (rows * self.top_k).max(1);
        let weights = self.weights.par_chunks_mut(slots);
        let both = self.experts.par_chunks_mut(slots).zip(weights);
        both.map(|(experts, weights)| Slots { experts, weights })
    }
}

/// What is chosen for some rows.
struct Slots<'a> {
    /// [rows, A].
    experts: &'a mut [u32],
    /// [rows, A].
    weights: &'a mut [f32],
}

/// What experts are chosen by, and what they weigh.
struct Scores {
    num_experts: usize,
    /// Sigmoids of the logits, [rows, E].
    plain: Vec<f32>,
    /// These and the bias, [rows, E]; [`TAKEN`] where there is no number.
    biased: Vec<f32>,
}

impl Scores {
    /// # Shapes: logits [rows, E], bias `[E]`. Panics if these disagree.
    fn of(isa: Isa, logits: &[f32], num_experts: usize, bias: &Tensor) -> Self {
        assert_eq!(
            bias.len(),
            num_experts,
            "route: bias of {num_experts} experts"
        );
        let mut scores = Self {
            num_experts,
            plain: vec![0.0; logits.len()],
            biased: vec![0.0; logits.len()],
        };
        let score = Score {
            logits,
            bias: bias.f32s(),
            scores: &mut scores,
        };
        dispatch(isa, score);
        scores
    }

    /// Writes the best experts of every row and their weights.
    fn choose(&self, config: &RouterConfig, to: Slots<'_>) {
        let rows = self.plain.chunks_exact(self.num_experts);
        let rows = rows.zip(self.biased.chunks_exact(self.num_experts));
        let top_k = config.top_k.max(1);
        let experts = to.experts.chunks_exact_mut(top_k);
        let slots = experts.zip(to.weights.chunks_exact_mut(top_k));
        for ((plain, biased), (experts, weights)) in rows.zip(slots) {
            take_best(biased, experts);
            for (weight, &expert) in weights.iter_mut().zip(&*experts) {
                *weight = plain[expert as usize];
            }
            scale_weights(weights, config);
        }
    }
}

/// Computes the scores of rows.
struct Score<'a> {
    /// [rows, E].
    logits: &'a [f32],
    /// `[E]`.
    bias: &'a [f32],
    scores: &'a mut Scores,
}

impl Kernel for Score<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.bias.len().max(1);
        let plain = self.scores.plain.chunks_exact_mut(width);
        let rows = plain.zip(self.scores.biased.chunks_exact_mut(width));
        for (logits, (plain, biased)) in self.logits.chunks_exact(width).zip(rows) {
            let to = plain.chunks_mut(S::LANES).zip(biased.chunks_mut(S::LANES));
            let from = logits.chunks(S::LANES).zip(self.bias.chunks(S::LANES));
            for ((logits, bias), (plain, biased)) in from.zip(to) {
                let score = s.sigmoid(s.load_or(logits, 0.0));
                s.store_some(score, plain);
                let sum = s.add(score, s.load_or(bias, 0.0));
                s.store_some(s.max(sum, s.splat(TAKEN)), biased); // not a NaN
            }
        }
    }
}

/// Returns the gradient of the logits given that of the weights. # Shapes: dweights [N, A] -> [N, E].
///
/// The choice is a constant. With scores s, their sum t and `w_i = c * s_i / t`:
/// `ds_i = (c * dw_i - sum_j dw_j * w_j) / t`, and `dlogit = ds * s * (1 - s)`.
pub fn route_backward(
    logits: &Tensor,
    routing: &Routing,
    config: &RouterConfig,
    dweights: &[f32],
) -> Tensor {
    let [rows, num_experts] = logits.dims2();
    let top_k = routing.top_k;
    assert_eq!(dweights.len(), rows * top_k, "route_backward: dweights");
    assert_eq!(
        routing.experts.len(),
        rows * top_k,
        "route_backward: routing"
    );
    let mut dlogits = Tensor::zeros(&[rows, num_experts]);
    let mut scores = vec![0.0; top_k];
    for row in 0..rows {
        let slots = row * top_k..(row + 1) * top_k;
        let (experts, weights) = (
            &routing.experts[slots.clone()],
            &routing.weights[slots.clone()],
        );
        for (score, &expert) in scores.iter_mut().zip(experts) {
            *score = sigmoid(logits.row(row)[expert as usize]);
        }
        let (total, shared) = match normalises(config) {
            true => (score_sum(&scores), dot(&dweights[slots.clone()], weights)),
            false => (1.0, 0.0),
        };
        let dlogits = &mut dlogits.f32s_mut()[row * num_experts..(row + 1) * num_experts];
        for ((&expert, &score), dweight) in experts.iter().zip(&scores).zip(&dweights[slots]) {
            let dscore = (config.routed_scaling * dweight - shared) / total;
            dlogits[expert as usize] = dscore * score * (1.0 - score);
        }
    }
    dlogits
}

fn check_groups(config: &RouterConfig, num_experts: usize) {
    let groups = config.num_groups.max(1);
    assert_eq!(
        num_experts % groups,
        0,
        "route: {num_experts} experts in {groups} groups"
    );
    let kept = if groups > 1 {
        config.groups_kept.min(groups)
    } else {
        1
    };
    let candidates = num_experts / groups * kept;
    assert!(
        config.top_k <= candidates,
        "route: top {} of {candidates} experts",
        config.top_k
    );
}

/// Sets the scores outside the best groups to -inf. A group's score is the sum of its two largest.
fn limit_to_groups(biased: &mut [f32], config: &RouterConfig) {
    if config.num_groups <= 1 || config.groups_kept >= config.num_groups {
        return;
    }
    let group_size = biased.len() / config.num_groups;
    let mut group_scores: Vec<f32> = biased
        .chunks_exact(group_size)
        .map(sum_of_best_two)
        .collect();
    for _ in 0..config.groups_kept {
        take_largest(&mut group_scores);
    }
    for (group, score) in biased.chunks_exact_mut(group_size).zip(group_scores) {
        if score != TAKEN {
            group.fill(TAKEN);
        }
    }
}

/// Sets the scores outside the block's pool to -inf. # Shapes: biased [rows, E].
fn limit_to_pool(biased: &mut [f32], num_experts: usize, capacity: usize) {
    let mut best = vec![TAKEN; num_experts];
    for row in biased.chunks_exact(num_experts) {
        for (best, &score) in best.iter_mut().zip(row) {
            *best = best.max(score);
        }
    }
    for _ in 0..capacity {
        take_largest(&mut best);
    }
    for row in biased.chunks_exact_mut(num_experts) {
        for (score, &best) in row.iter_mut().zip(&best) {
            if best != TAKEN {
                *score = TAKEN;
            }
        }
    }
}

fn sum_of_best_two(group: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &score in group {
        if score > first {
            (first, second) = (score, first);
        } else if score > second {
            second = score;
        }
    }
    if group.len() > 1 {
        first + second
    } else {
        first
    }
}

/// Writes the indices of the largest scores in descending order, the lower one of equal ones first.
fn take_best(scores: &[f32], best: &mut [u32]) {
    let mut found = 0;
    for (index, &score) in scores.iter().enumerate() {
        let is_above = |&other: &u32| score > scores[other as usize];
        if found == best.len() && !best.last().is_some_and(is_above) {
            continue;
        }
        found = best.len().min(found + 1);
        let mut place = found - 1;
        while place > 0 && is_above(&best[place - 1]) {
            best[place] = best[place - 1];
            place -= 1;
        }
        best[place] = index as u32;
    }
}

/// Returns the index of the largest score, the lowest of equal ones, and marks it as taken.
fn take_largest(scores: &mut [f32]) -> usize {
    let mut best = 0;
    for (i, &score) in scores.iter().enumerate() {
        if score > scores[best] {
            best = i;
        }
    }
    scores[best] = TAKEN;
    best
}

fn scale_weights(weights: &mut [f32], config: &RouterConfig) {
    let total = if normalises(config) {
        score_sum(weights)
    } else {
        1.0
    };
    for weight in weights {
        *weight = *weight / total * config.routed_scaling;
    }
}

fn normalises(config: &RouterConfig) -> bool {
    config.normalise && config.top_k > 1
}

fn score_sum(scores: &[f32]) -> f32 {
    scores.iter().sum::<f32>() + SUM_EPS
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
