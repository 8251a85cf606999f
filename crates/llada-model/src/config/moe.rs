//! Keys of the mixture-of-experts layers.

use super::keys::Keys;
use crate::Error;

/// Settings of the mixture-of-experts layers.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeConfig {
    /// Routed experts, E.
    pub num_experts: usize,
    /// Active experts per token, A.
    pub num_experts_per_tok: usize,
    /// Inner width of a routed expert, F.
    pub moe_intermediate_size: usize,
    /// Inner width of the shared expert; 0 when there is none.
    pub shared_intermediate_size: usize,
    /// Groups of consecutive experts; 1 means no group limit.
    pub n_group: usize,
    /// Groups a token may choose from.
    pub topk_group: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the weights of the chosen experts.
    pub routed_scaling_factor: f32,
    /// Whether a bias takes part in the choice of experts.
    pub expert_bias: bool,
    /// Routing per diffusion block instead of per token (LLaDA2.2).
    pub block_routing: Option<BlockRouting>,
}

/// Routing of a whole diffusion block through one pool of experts (`model.md` 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRouting {
    /// Experts in the pool.
    pub expert_capacity: usize,
    /// Rows that share a pool.
    pub block_size: usize,
}

const MAX_EXPERTS: usize = 1 << 14;
const MAX_INTERMEDIATE: usize = 1 << 20;
/// Experts over all layers: bounds the length of the parameter list.
const MAX_EXPERTS_IN_ALL: usize = 1 << 20;

/// Reads the settings, `None` when there are no experts.
pub(super) fn parse(keys: Keys<'_>, num_layers: usize) -> Result<Option<MoeConfig>, Error> {
    let num_experts = keys.count("num_experts", MAX_EXPERTS)?.unwrap_or(0);
    if num_experts == 0 {
        return Ok(None);
    }
    let in_all = num_experts * num_layers;
    keys.require(
        in_all <= MAX_EXPERTS_IN_ALL,
        "num_experts",
        "at most 1048576 over all layers",
    )?;
    check_scores(keys)?;
    let num_experts_per_tok = keys.size("num_experts_per_tok", num_experts)?;
    let (n_group, topk_group) = groups(keys, num_experts, num_experts_per_tok)?;
    let moe_intermediate_size = keys.size("moe_intermediate_size", MAX_INTERMEDIATE)?;
    let scaling = keys.positive("routed_scaling_factor")?;
    let scaling = scaling.ok_or_else(|| keys.refuse("routed_scaling_factor", "a number"))?;
    Ok(Some(MoeConfig {
        num_experts,
        num_experts_per_tok,
        moe_intermediate_size,
        shared_intermediate_size: shared_intermediate_size(keys, moe_intermediate_size)?,
        n_group,
        topk_group,
        norm_topk_prob: keys.flag("norm_topk_prob")?.unwrap_or(true),
        routed_scaling_factor: scaling as f32,
        expert_bias: keys.flag("moe_router_enable_expert_bias")?.unwrap_or(true),
        block_routing: block_routing(keys, num_experts, num_experts_per_tok)?,
    }))
}

fn check_scores(keys: Keys<'_>) -> Result<(), Error> {
    let score = keys.text("score_function")?.unwrap_or("sigmoid");
    let expected = "\"sigmoid\", the only score function implemented";
    keys.require(score == "sigmoid", "score_function", expected)
}

/// Inner width of the shared expert: all shared experts are one wide one.
fn shared_intermediate_size(keys: Keys<'_>, moe_intermediate_size: usize) -> Result<usize, Error> {
    let num_shared = keys.count("num_shared_experts", 64)?.unwrap_or(0);
    let each = keys.count("moe_shared_expert_intermediate_size", MAX_INTERMEDIATE)?;
    Ok(num_shared * each.unwrap_or(moe_intermediate_size))
}

/// Reads `(n_group, topk_group)`; 0 or absent means one group, that is no limit.
fn groups(keys: Keys<'_>, num_experts: usize, top_k: usize) -> Result<(usize, usize), Error> {
    let n_group = keys.count("n_group", num_experts)?.unwrap_or(0);
    let topk_group = keys.count("topk_group", num_experts)?.unwrap_or(0);
    if n_group <= 1 || topk_group == 0 {
        return Ok((1, 1));
    }
    let divides = format!("a divisor of `num_experts` ({num_experts}) that leaves 2 or more each");
    let group_size = num_experts / n_group;
    keys.require(
        num_experts.is_multiple_of(n_group) && group_size >= 2,
        "n_group",
        divides,
    )?;
    let enough = format!(
        "at most `n_group` ({n_group}) and keep at least `num_experts_per_tok` ({top_k}) experts"
    );
    let holds = topk_group <= n_group && top_k <= topk_group * group_size;
    keys.require(holds, "topk_group", enough)?;
    Ok((n_group, topk_group))
}

fn block_routing(
    keys: Keys<'_>,
    num_experts: usize,
    top_k: usize,
) -> Result<Option<BlockRouting>, Error> {
    let Some(expert_capacity) = keys.count("expert_capacity", num_experts)? else {
        return Ok(None);
    };
    let at_least = format!("from `num_experts_per_tok` ({top_k}) to `num_experts` ({num_experts})");
    keys.require(expert_capacity >= top_k, "expert_capacity", at_least)?;
    let block_size = keys
        .count("block_size", super::parse::MAX_POSITIONS)?
        .unwrap_or(0);
    let expected = "a power of two, because `expert_capacity` asks for block routing";
    keys.require(block_size.is_power_of_two(), "block_size", expected)?;
    Ok(Some(BlockRouting {
        expert_capacity,
        block_size,
    }))
}
