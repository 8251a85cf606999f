//! The least time that this machine could take for the forwards of a run: what they must read at the
//! rate of its caches or memory, or what they must multiply at the rate of its cores.
//!
//! Both are floors: norms, activations, the embedding, keys and values of the same forward and the last
//! layer's attention are left out. Rates are measured, not taken from data sheets.

use llada_engine::{Method, Options, Request};
use llada_model::{KvStore, Mlp, Model, ParamKind, Weights};
use llada_tensor::{DType, Precision, Weight, product_rate, read_rate};
use serde::Serialize;

use super::serve::Run;

/// The floor of a run, and how far from it the run was.
#[derive(Debug, Serialize)]
pub(super) struct Limit {
    /// Of weights, experts, keys and values, per forward.
    pub bytes_per_forward: f64,
    pub flops_per_forward: f64,
    /// Measured on a working set of `bytes_per_forward`, which a cache may hold.
    pub bytes_per_second: f64,
    /// Measured with the run's precision.
    pub flops_per_second: f64,
    pub seconds_per_forward_floor: f64,
    pub seconds_per_forward: f64,
    /// `seconds_per_forward_floor / seconds_per_forward`: 1 is perfect.
    pub share: f64,
    pub bound: Bound,
}

/// Which of the two floors is the higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Bound {
    Reads,
    Arithmetic,
}

impl Bound {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Arithmetic => "arithmetic",
        }
    }
}

impl Limit {
    /// Measures the machine and returns the floor of `run`, whose products had the given precision.
    pub(super) fn of(run: &Run, model: &Model, options: &Options, products: Precision) -> Self {
        let work = Work::of(run, model, options);
        let forwards = run.stats.forwards as f64;
        let (bytes, flops) = (work.bytes / forwards, work.flops / forwards);
        let (bytes_per_second, flops_per_second) =
            (read_rate(bytes as usize), product_rate(products));
        let (reads, arithmetic) = (bytes / bytes_per_second, flops / flops_per_second);
        let seconds = run.elapsed.as_secs_f64() / forwards;
        Self {
            bytes_per_forward: bytes,
            flops_per_forward: flops,
            bytes_per_second,
            flops_per_second,
            seconds_per_forward_floor: reads.max(arithmetic),
            seconds_per_forward: seconds,
            share: reads.max(arithmetic) / seconds,
            bound: if reads > arithmetic {
                Bound::Reads
            } else {
                Bound::Arithmetic
            },
        }
    }
}

/// What all forwards of a run must do.
struct Work {
    bytes: f64,
    flops: f64,
}

impl Work {
    fn of(run: &Run, model: &Model, options: &Options) -> Self {
        let (stats, costs) = (&run.stats, Costs::of(model));
        let config = &model.config;
        let seen = run.served.iter().map(|(request, answer)| {
            Seen::of(request, &answer.steps_per_block, options.block_size)
        });
        let seen = seen.fold(Seen::default(), |sum, seen| Seen {
            keys: sum.keys + seen.keys,
            pairs: sum.pairs + seen.pairs,
        });
        let experts: u64 = stats.experts_per_layer.iter().sum();
        let key_bytes = KvStore::bytes_per_row(config, options.kv_precision);
        // A product with all keys and one with all values, two operations each.
        let flops_per_pair = 4 * config.num_attention_heads * config.head_dim;
        let attending_layers = config.num_hidden_layers - 1;
        Self {
            bytes: stats.forwards as f64 * costs.layers.bytes
                + run.head_passes as f64 * costs.outputs.bytes
                + experts as f64 * costs.expert_bytes
                + (seen.keys * key_bytes) as f64,
            flops: stats.rows as f64 * costs.layers.flops
                + stats.head_rows as f64 * costs.outputs.flops
                + (seen.pairs * flops_per_pair * attending_layers) as f64,
        }
    }
}

/// What a part of the model costs: bytes once per forward, operations for each row.
#[derive(Default)]
struct Cost {
    bytes: f64,
    flops: f64,
}

/// Costs of a model's matrices. Bytes of routed experts are apart, for they depend on the routing.
#[derive(Default)]
struct Costs {
    /// All layers but the last.
    layers: Cost,
    /// The last layer and the head, which compute only rows that decide a token.
    outputs: Cost,
    /// One routed expert.
    expert_bytes: f64,
}

impl Costs {
    fn of(model: &Model) -> Self {
        let mut costs = Self {
            expert_bytes: expert_bytes(model),
            ..Self::default()
        };
        let last_layer = format!("model.layers.{}.", model.config.num_hidden_layers - 1);
        let moe = model.config.moe.as_ref();
        let used = moe.map_or(0.0, |moe| {
            moe.num_experts_per_tok as f64 / moe.num_experts as f64
        });
        let is_tied = model.weights.head.is_none();
        let specs = Weights::specs(&model.config).into_params();
        for ((name, spec), (_, weight)) in specs.iter().zip(model.weights.params()) {
            let is_product = match spec.kind {
                ParamKind::Matrix | ParamKind::Router | ParamKind::Head => true,
                ParamKind::Embedding => is_tied,
                _ => false,
            };
            if !is_product {
                continue;
            }
            let is_output = !name.starts_with("model.layers.") || name.starts_with(&last_layer);
            let cost = if is_output {
                &mut costs.outputs
            } else {
                &mut costs.layers
            };
            if name.contains(".experts.") {
                cost.flops += used * 2.0 * spec.num_elements() as f64;
            } else {
                cost.flops += 2.0 * spec.num_elements() as f64;
                cost.bytes += packed_bytes(weight);
            }
        }
        costs
    }
}

/// Returns the bytes of a routed expert; experts are alike.
fn expert_bytes(model: &Model) -> f64 {
    let layers = model.weights.layers.iter();
    let expert = layers
        .filter_map(|layer| match &layer.mlp {
            Mlp::Moe(moe) => moe.experts.first(),
            Mlp::Dense(_) => None,
        })
        .next();
    expert.map_or(0.0, |expert| {
        let matrices = [&expert.gate, &expert.up, &expert.down];
        matrices.map(packed_bytes).iter().sum()
    })
}

/// Returns the bytes of a matrix in the layout that products read.
fn packed_bytes(weight: &Weight) -> f64 {
    if matches!(weight.values().dtype(), DType::Codes(_)) {
        return weight.values().num_bytes() as f64;
    }
    let size = match weight.precision() {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    };
    (weight.values().len() * size) as f64
}

/// Keys before the active block that the steps of a request saw.
#[derive(Default)]
struct Seen {
    /// Once per step.
    keys: usize,
    /// Once per step and row.
    pairs: usize,
}

impl Seen {
    fn of(request: &Request, steps_per_block: &[usize], block_size: Option<usize>) -> Self {
        let block_size = match request.method {
            Method::BlockDiffusion => request.block_length.or(block_size),
            Method::Autoregression => None,
        };
        // Without any block length the engine refuses block diffusion.
        let block_size = block_size.unwrap_or(1);
        let first = request.prompt.len() / block_size;
        let keys = (first..)
            .zip(steps_per_block)
            .map(|(block, steps)| block * block_size * steps)
            .sum();
        Self {
            keys,
            pairs: keys * block_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_block_reads_the_blocks_before_it() {
        let request = Request::new(vec![1; 9], 8);
        let seen = Seen::of(&request, &[3, 2], Some(4));
        // Two blocks precede the first active one, three the second.
        assert_eq!(seen.keys, 3 * 8 + 2 * 12);
        assert_eq!(seen.pairs, 4 * seen.keys);
    }

    #[test]
    fn a_token_of_autoregression_sees_all_tokens_before_it() {
        let request = Request {
            method: Method::Autoregression,
            ..Request::new(vec![1; 9], 8)
        };
        let seen = Seen::of(&request, &[1, 1, 1], Some(4));
        assert_eq!((seen.keys, seen.pairs), (9 + 10 + 11, 9 + 10 + 11));
    }
}
