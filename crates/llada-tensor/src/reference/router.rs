//! The sigmoid router (`model.md` 6.1 and 6.4), by sorting.

use crate::RouterConfig;

/// Returns the chosen experts of one row with their weights, best first.
/// # Shapes: logits `[E]`, bias `[E]`.
pub fn route(logits: &[f64], bias: &[f64], config: &RouterConfig) -> Vec<(usize, f64)> {
    let biased = biased(logits, bias);
    let groups = config.num_groups.max(1);
    let group_size = logits.len() / groups;
    let group_scores: Vec<f64> = biased
        .chunks(group_size)
        .map(|group| descending(group).iter().take(2).map(|&i| group[i]).sum())
        .collect();
    let kept = if groups > 1 { config.groups_kept } else { 1 };
    let best_groups = &descending(&group_scores)[..kept];
    let is_left = |expert: &usize| best_groups.contains(&(expert / group_size));
    choose(logits, &biased, is_left, config)
}

/// Returns the same for every row of a block whose rows choose from `capacity` experts.
/// # Shapes: logits [rows, E], bias `[E]` -> [rows, A].
pub fn route_block(
    logits: &[f64],
    bias: &[f64],
    capacity: usize,
    config: &RouterConfig,
) -> Vec<(usize, f64)> {
    let rows: Vec<&[f64]> = logits.chunks(bias.len()).collect();
    let scores: Vec<Vec<f64>> = rows.iter().map(|row| biased(row, bias)).collect();
    let best: Vec<f64> = (0..bias.len())
        .map(|expert| {
            scores
                .iter()
                .map(|row| row[expert])
                .fold(f64::NEG_INFINITY, f64::max)
        })
        .collect();
    let pool = &descending(&best)[..capacity];
    rows.iter()
        .zip(&scores)
        .flat_map(|(logits, scores)| choose(logits, scores, |expert| pool.contains(expert), config))
        .collect()
}

/// Returns the best experts of a row among those that are left, with their weights.
fn choose(
    logits: &[f64],
    biased: &[f64],
    is_left: impl Fn(&usize) -> bool,
    config: &RouterConfig,
) -> Vec<(usize, f64)> {
    let order = descending(biased).into_iter();
    let chosen: Vec<usize> = order.filter(is_left).take(config.top_k).collect();
    let score = |&expert: &usize| sigmoid(logits[expert]);
    let total: f64 = match config.normalise && config.top_k > 1 {
        true => chosen.iter().map(score).sum::<f64>() + 1e-20,
        false => 1.0,
    };
    let scaling = f64::from(config.routed_scaling);
    let weight = |expert| (expert, score(&expert) / total * scaling);
    chosen.into_iter().map(weight).collect()
}

fn biased(logits: &[f64], bias: &[f64]) -> Vec<f64> {
    let scores = logits.iter().map(|&logit| sigmoid(logit));
    scores.zip(bias).map(|(score, bias)| score + bias).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Returns the indices by descending value, the lower of equal ones first.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}
