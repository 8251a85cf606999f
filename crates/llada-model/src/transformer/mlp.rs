//! The MLP half of a layer: dense SwiGLU, or routed experts with a shared one (`model.md` 6).

use std::ops::Range;

use llada_tensor::{
    ExpertGrads, ExpertWeights, ExpertsSaved, Gradient, LinearBackward, RouterConfig, Routing,
    SwigluGrads, Tensor, Weight, add_assign, experts, experts_backward, join, linear, route,
    route_backward, route_blocks, swiglu, swiglu_backward,
};

use super::adapted::{Noise, Site};
use super::router::{RouterStats, z_loss_backward};
use crate::{Config, Mlp, Moe, MoeConfig, Swiglu};

/// What the backward needs beside the MLP's input.
#[derive(Debug)]
pub(super) enum MlpSaved {
    Dense(SwigluSaved),
    Moe(Box<MoeSaved>),
}

#[derive(Debug)]
pub(super) struct SwigluSaved {
    /// [N, F].
    gate: Tensor,
    /// [N, F].
    up: Tensor,
}

impl SwigluSaved {
    fn new(weights: &Swiglu<Weight>, x: &Tensor, noise: Noise<'_>) -> Self {
        Self {
            gate: noise.linear(x, &weights.gate, None),
            up: noise.linear(x, &weights.up, None),
        }
    }
}

#[derive(Debug)]
pub(super) struct MoeSaved {
    /// [N, E].
    router_logits: Tensor,
    routing: Routing,
    experts: ExpertsSaved,
    shared: Option<SwigluSaved>,
    /// Weight of the z-loss on the router's logits.
    z_weight: f32,
}

impl MlpSaved {
    /// Returns what the router of layer `layer` did; `None` if the MLP is dense.
    pub(super) fn router_stats(&self, layer: usize) -> Option<RouterStats> {
        match self {
            Self::Dense(_) => None,
            Self::Moe(saved) => Some(RouterStats::of(layer, &saved.router_logits, &saved.routing)),
        }
    }

    /// Adds the z-loss with this weight to what the backward differentiates.
    pub(super) fn set_z_weight(&mut self, weight: f32) {
        if let Self::Moe(saved) = self {
            saved.z_weight = weight;
        }
    }

    /// Returns the experts that the rows used; none if the MLP is dense.
    pub(super) fn experts(&self) -> &[u32] {
        match self {
            Self::Dense(_) => &[],
            Self::Moe(saved) => &saved.routing.experts,
        }
    }
}

/// x [N, D] -> [N, D]. The diffusion blocks cover the rows if the model routes them as a whole.
pub(super) fn mlp_forward(
    config: &Config,
    mlp: &Mlp<Weight>,
    x: &Tensor,
    blocks: &[Range<usize>],
    noise: Noise<'_>,
) -> (Tensor, MlpSaved) {
    match mlp {
        Mlp::Dense(swiglu) => {
            let (y, saved) = swiglu_forward(swiglu, x, noise);
            (y, MlpSaved::Dense(saved))
        }
        Mlp::Moe(moe) => {
            let (y, saved) = moe_forward(moe_config(config), moe, x, blocks, noise);
            (y, MlpSaved::Moe(Box::new(saved)))
        }
    }
}

/// Computes again what the backward needs; of a dense MLP that is less than its output.
pub(super) fn mlp_again(
    config: &Config,
    mlp: &Mlp<Weight>,
    x: &Tensor,
    blocks: &[Range<usize>],
    noise: Noise<'_>,
) -> MlpSaved {
    match mlp {
        Mlp::Dense(swiglu) => MlpSaved::Dense(SwigluSaved::new(swiglu, x, noise)),
        Mlp::Moe(_) => mlp_forward(config, mlp, x, blocks, noise).1,
    }
}

/// dy [N, D] -> dx [N, D].
///
/// # Panics
/// If weights, record and gradients are not of one kind: they come from one model.
pub(super) fn mlp_backward(
    config: &Config,
    mlp: &Mlp<Weight>,
    x: &Tensor,
    saved: MlpSaved,
    dy: &Tensor,
    noise: Noise<'_>,
    grads: &mut Mlp<Gradient>,
) -> Tensor {
    match (mlp, saved, grads) {
        (Mlp::Dense(swiglu), MlpSaved::Dense(saved), Mlp::Dense(grads)) => {
            swiglu_mlp_backward(swiglu, x, saved, dy, noise, grads)
        }
        (Mlp::Moe(moe), MlpSaved::Moe(saved), Mlp::Moe(grads)) => moe_backward(
            &router_config(moe_config(config)),
            moe,
            x,
            *saved,
            dy,
            noise,
            grads,
        ),
        _ => panic!("weights, record and gradients of different models"),
    }
}

fn swiglu_forward(weights: &Swiglu<Weight>, x: &Tensor, noise: Noise<'_>) -> (Tensor, SwigluSaved) {
    let saved = SwigluSaved::new(weights, x, noise);
    let inner = swiglu(&saved.gate, &saved.up);
    let y = noise.at(Site::MlpInner).linear(&inner, &weights.down, None);
    (y, saved)
}

fn swiglu_mlp_backward(
    weights: &Swiglu<Weight>,
    x: &Tensor,
    saved: SwigluSaved,
    dy: &Tensor,
    noise: Noise<'_>,
    grads: &mut Swiglu<Gradient>,
) -> Tensor {
    let down = noise.at(Site::MlpInner).backward(dy, &weights.down);
    let dinner = down.input(); // [N, F]
    let SwigluGrads { gate, up, y: inner } = swiglu_backward(saved.gate, saved.up, dinner);
    down.weight(&inner, &mut grads.down);
    let gate = noise.backward(&gate, &weights.gate);
    let up = noise.backward(&up, &weights.up);
    gate.weight(x, &mut grads.gate);
    up.weight(x, &mut grads.up);
    let mut dx = gate.input();
    up.add_input(&mut dx);
    dx
}

fn moe_forward(
    config: &MoeConfig,
    moe: &Moe<Weight>,
    x: &Tensor,
    blocks: &[Range<usize>],
    noise: Noise<'_>,
) -> (Tensor, MoeSaved) {
    let routed = || {
        let router_logits = linear(x, &moe.router, None);
        let (bias, router) = (moe.expert_bias.values(), router_config(config));
        let routing = match config.block_routing {
            Some(routing) => {
                let capacity = routing.expert_capacity;
                route_blocks(&router_logits, bias, blocks, capacity, &router)
            }
            None => route(&router_logits, bias, &router),
        };
        let (y, saved) = experts(x, &routing, &expert_weights(moe));
        (router_logits, routing, y, saved)
    };
    // With few rows each product is short, and threads wait less the more there is to do.
    let shared = || Some(swiglu_forward(moe.shared.as_ref()?, x, noise));
    let ((router_logits, routing, mut y, experts), shared) = join(routed, shared);
    let shared = shared.map(|(out, saved)| {
        add_assign(&mut y, &out);
        saved
    });
    (
        y,
        MoeSaved {
            router_logits,
            routing,
            experts,
            shared,
            z_weight: 0.0,
        },
    )
}

fn moe_backward(
    config: &RouterConfig,
    moe: &Moe<Weight>,
    x: &Tensor,
    saved: MoeSaved,
    dy: &Tensor,
    noise: Noise<'_>,
    grads: &mut Moe<Gradient>,
) -> Tensor {
    let weights = expert_weights(moe);
    let mut expert_grads: Vec<_> = grads.experts.iter_mut().map(expert_grads).collect();
    let (mut dx, dweights) = experts_backward(
        x,
        &saved.routing,
        &weights,
        saved.experts,
        dy,
        &mut expert_grads,
    );
    let mut dlogits = route_backward(&saved.router_logits, &saved.routing, config, &dweights);
    z_loss_backward(&saved.router_logits, saved.z_weight, &mut dlogits);
    let router = LinearBackward::new(&dlogits, &moe.router);
    router.weight(x, &mut grads.router);
    router.add_input(&mut dx);
    if let (Some(shared), Some(saved), Some(grads)) = (&moe.shared, saved.shared, &mut grads.shared)
    {
        let dshared = swiglu_mlp_backward(shared, x, saved, dy, noise, grads);
        add_assign(&mut dx, &dshared);
    }
    dx
}

/// # Panics
/// If the model has no experts; called for MoE layers only.
fn moe_config(config: &Config) -> &MoeConfig {
    let moe = config.moe.as_ref();
    moe.expect("a model with MoE layers has their settings")
}

fn router_config(moe: &MoeConfig) -> RouterConfig {
    RouterConfig {
        top_k: moe.num_experts_per_tok,
        num_groups: moe.n_group,
        groups_kept: moe.topk_group,
        normalise: moe.norm_topk_prob,
        routed_scaling: moe.routed_scaling_factor,
    }
}

fn expert_weights(moe: &Moe<Weight>) -> Vec<ExpertWeights<'_>> {
    moe.experts
        .iter()
        .map(|e| ExpertWeights {
            gate: &e.gate,
            up: &e.up,
            down: &e.down,
        })
        .collect()
}

fn expert_grads(grads: &mut Swiglu<Gradient>) -> ExpertGrads<'_> {
    ExpertGrads {
        gate: &mut grads.gate,
        up: &mut grads.up,
        down: &mut grads.down,
    }
}
