//! The sigmoid router with group-limited top-k (`model.md` 6.1), by sorting.

use crate::RouterConfig;

/// Returns the chosen experts of one row with their weights, best first.
/// # Shapes: logits `[E]`, bias `[E]`.
pub fn route(logits: &[f64], bias: &[f64], config: &RouterConfig) -> Vec<(usize, f64)> {
    let scores: Vec<f64> = logits
        .iter()
        .map(|logit| 1.0 / (1.0 + (-logit).exp()))
        .collect();
    let biased: Vec<f64> = scores
        .iter()
        .zip(bias)
        .map(|(score, bias)| score + bias)
        .collect();
    let groups = config.num_groups.max(1);
    let group_size = logits.len() / groups;
    let group_scores: Vec<f64> = biased
        .chunks(group_size)
        .map(|group| descending(group).iter().take(2).map(|&i| group[i]).sum())
        .collect();
    let kept = if groups > 1 { config.groups_kept } else { 1 };
    let best_groups = &descending(&group_scores)[..kept];
    let chosen: Vec<usize> = descending(&biased)
        .into_iter()
        .filter(|expert| best_groups.contains(&(expert / group_size)))
        .take(config.top_k)
        .collect();
    let total: f64 = match config.normalise && config.top_k > 1 {
        true => chosen.iter().map(|&expert| scores[expert]).sum::<f64>() + 1e-20,
        false => 1.0,
    };
    let scaling = f64::from(config.routed_scaling);
    chosen
        .into_iter()
        .map(|expert| (expert, scores[expert] / total * scaling))
        .collect()
}

/// Returns the indices by descending value, the lower of equal ones first.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}
