//! Groups of parameters, as users name them.

use crate::{ParamKind, ParamSpec};

/// Tensors that share a choice: of a format, of being trained, of having an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TensorGroup {
    /// Token embedding.
    Embedding,
    /// Output head.
    Head,
    /// Norms and biases: always `f32`.
    Norms,
    /// Routers and their biases: always `f32`.
    Router,
    /// Projections of attention.
    Attention,
    /// Feed-forward parts of dense layers.
    Dense,
    /// Routed experts.
    Experts,
    /// Shared experts.
    Shared,
}

impl TensorGroup {
    /// Every group.
    pub const ALL: [Self; 8] = [
        Self::Embedding,
        Self::Head,
        Self::Norms,
        Self::Router,
        Self::Attention,
        Self::Dense,
        Self::Experts,
        Self::Shared,
    ];

    /// Returns the name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Norms => "norms",
            Self::Router => "router",
            Self::Attention => "attention",
            Self::Dense => "dense",
            Self::Experts => "experts",
            Self::Shared => "shared",
        }
    }

    /// Returns whether its tensors are `f32` whatever is asked for.
    pub fn is_always_f32(self) -> bool {
        matches!(self, Self::Norms | Self::Router)
    }

    /// Returns the group of a parameter.
    pub fn of(spec: &ParamSpec) -> Self {
        let has = |part: &str| spec.name.contains(part);
        match spec.kind {
            ParamKind::Embedding => Self::Embedding,
            ParamKind::Head => Self::Head,
            ParamKind::Norm | ParamKind::Bias => Self::Norms,
            ParamKind::Router | ParamKind::ExpertBias => Self::Router,
            ParamKind::Matrix if has(".attention.") => Self::Attention,
            ParamKind::Matrix if has(".shared_experts.") => Self::Shared,
            ParamKind::Matrix if has(".experts.") => Self::Experts,
            ParamKind::Matrix => Self::Dense,
        }
    }
}
