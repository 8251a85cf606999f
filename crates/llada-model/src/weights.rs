//! The tree of parameters, and the one walk that gives them names and an order.
//!
//! [`Weights<T>`] has a `T` per parameter: a weight, a gradient, a pair of moments, a file range.
//! Shapes are stated once, in [`Weights::specs`]; names and order once, in [`Weights::try_map`].
//! Counting, loading, saving, initialisation and the optimiser are all built from these two.
//!
//! Dimension letters: D hidden · H query heads · G key-value heads · P head dim · V vocabulary ·
//! E experts · F ffn.

use std::convert::Infallible;

use crate::Config;

/// All parameters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights<T> {
    /// Token embedding, `[V, D]`.
    pub embedding: T,
    /// Layers, first to last.
    pub layers: Vec<LayerWeights<T>>,
    /// Final norm, `[D]`.
    pub norm: T,
    /// Output head, `[V, D]`; `None` when it is the embedding.
    pub head: Option<T>,
}

/// Parameters of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerWeights<T> {
    /// Norm before attention, `[D]`.
    pub input_norm: T,
    /// Fused projection, `[(H + 2G) * P, D]`: rows of all query heads, then key, then value heads.
    pub qkv: T,
    /// Bias of the fused projection, `[(H + 2G) * P]`.
    pub qkv_bias: Option<T>,
    /// Norm of each query head, `[P]`.
    pub query_norm: Option<T>,
    /// Norm of each key head, `[P]`.
    pub key_norm: Option<T>,
    /// Output projection of attention, `[D, H * P]`.
    pub dense: T,
    /// Bias of the output projection, `[D]`.
    pub dense_bias: Option<T>,
    /// Norm before the feed-forward part, `[D]`.
    pub post_norm: T,
    /// Feed-forward part.
    pub mlp: Mlp<T>,
}

/// The feed-forward part of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Mlp<T> {
    /// One SwiGLU for every token.
    Dense(Swiglu<T>),
    /// A mixture of experts.
    Moe(Moe<T>),
}

/// `down(silu(gate x) * up x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Swiglu<T> {
    /// Gate projection, `[F, D]`.
    pub gate: T,
    /// Up projection, `[F, D]`.
    pub up: T,
    /// Down projection, `[D, F]`.
    pub down: T,
}

/// Router, routed experts and the shared expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe<T> {
    /// Router, `[E, D]`.
    pub router: T,
    /// Bias that takes part in the choice of experts only, `[E]`. A buffer: it has no gradient.
    pub expert_bias: T,
    /// Routed experts.
    pub experts: Vec<Swiglu<T>>,
    /// The expert that every token uses.
    pub shared: Option<Swiglu<T>>,
}

/// What a parameter is for: decides decay, initialisation and element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// Token embedding.
    Embedding,
    /// Scale of a norm.
    Norm,
    /// Projection of attention or of a feed-forward part.
    Matrix,
    /// Bias of a projection.
    Bias,
    /// Router of a mixture of experts.
    Router,
    /// Load-balancing bias of a router.
    ExpertBias,
    /// Output head.
    Head,
}

impl ParamKind {
    /// Returns whether gradients update the parameter (all but the expert bias).
    pub fn is_trainable(self) -> bool {
        self != Self::ExpertBias
    }

    /// Returns whether weight decay applies: only to projections (`training.md` section 9).
    pub fn decays(self) -> bool {
        self == Self::Matrix
    }

    /// Returns whether the parameter is held in `f32` whatever the file says: small tensors whose
    /// rounding would change routing or statistics (`model.md` section 7).
    pub fn is_always_f32(self) -> bool {
        matches!(
            self,
            Self::Norm | Self::Bias | Self::Router | Self::ExpertBias
        )
    }
}

/// Name, shape and purpose of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// Name in a LLaDA2 checkpoint on the Hub, whatever the family of the model.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// What the parameter is for.
    pub kind: ParamKind,
}

impl ParamSpec {
    /// Returns the number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Shape and purpose, before the walk adds the name.
type Shape = (ParamKind, Vec<usize>);

impl Weights<ParamSpec> {
    /// Lists the parameters that `config` calls for.
    pub fn specs(config: &Config) -> Self {
        let named = |name: &str, (kind, shape)| ParamSpec {
            name: name.to_owned(),
            shape,
            kind,
        };
        shapes(config).map_into(named)
    }
}

impl<T> Weights<T> {
    /// Makes every parameter of `config` with `make`, in the order of the walk.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn build<E>(
        config: &Config,
        mut make: impl FnMut(&ParamSpec) -> Result<T, E>,
    ) -> Result<Self, E> {
        Weights::specs(config).try_map(|_, spec| make(&spec))
    }

    /// Replaces every parameter; `f` receives its name and value. This is the walk that defines the
    /// names and their order.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<U, E>(
        self,
        mut f: impl FnMut(&str, T) -> Result<U, E>,
    ) -> Result<Weights<U>, E> {
        let embedding = f("model.word_embeddings.weight", self.embedding)?;
        let layers = (0..).zip(self.layers).map(|(i, layer): (usize, _)| {
            layer.try_map(&format!("model.layers.{i}"), &mut f) // each layer before the next
        });
        Ok(Weights {
            embedding,
            layers: layers.collect::<Result<_, E>>()?,
            norm: f("model.norm.weight", self.norm)?,
            head: self
                .head
                .map(|head| f("lm_head.weight", head))
                .transpose()?,
        })
    }

    /// Replaces every parameter by a function that cannot fail.
    pub fn map_into<U>(self, mut f: impl FnMut(&str, T) -> U) -> Weights<U> {
        let Ok(mapped) = self.try_map(|name, value| Ok::<_, Infallible>(f(name, value)));
        mapped
    }

    /// Makes a tree of the same form from borrowed parameters.
    pub fn map<U>(&self, mut f: impl FnMut(&str, &T) -> U) -> Weights<U> {
        self.as_ref().map_into(|name, value| f(name, value))
    }

    /// Visits every parameter.
    pub fn for_each(&self, mut f: impl FnMut(&str, &T)) {
        self.as_ref().map_into(|name, value| f(name, value));
    }

    /// Visits every parameter for writing.
    pub fn for_each_mut(&mut self, mut f: impl FnMut(&str, &mut T)) {
        self.as_mut().map_into(|name, value| f(name, value));
    }

    /// Lists the parameters with their names. Trees of one config have equal names in equal order,
    /// so lists of several trees can be zipped.
    pub fn params(&self) -> Vec<(String, &T)> {
        self.as_ref().into_params()
    }

    /// Lists the parameters for writing, in the order of [`Weights::params`].
    pub fn params_mut(&mut self) -> Vec<(String, &mut T)> {
        self.as_mut().into_params()
    }

    /// Lists the parameters by value, in the order of [`Weights::params`].
    pub fn into_params(self) -> Vec<(String, T)> {
        let mut params = Vec::new();
        self.map_into(|name, value| params.push((name.to_owned(), value)));
        params
    }
}

impl<T> LayerWeights<T> {
    fn try_map<U, E>(
        self,
        prefix: &str,
        f: &mut impl FnMut(&str, T) -> Result<U, E>,
    ) -> Result<LayerWeights<U>, E> {
        let mut map = |suffix: &str, value: T| f(&format!("{prefix}.{suffix}"), value);
        Ok(LayerWeights {
            input_norm: map("input_layernorm.weight", self.input_norm)?,
            qkv: map("attention.query_key_value.weight", self.qkv)?,
            qkv_bias: self
                .qkv_bias
                .map(|v| map("attention.query_key_value.bias", v))
                .transpose()?,
            query_norm: self
                .query_norm
                .map(|v| map("attention.query_layernorm.weight", v))
                .transpose()?,
            key_norm: self
                .key_norm
                .map(|v| map("attention.key_layernorm.weight", v))
                .transpose()?,
            dense: map("attention.dense.weight", self.dense)?,
            dense_bias: self
                .dense_bias
                .map(|v| map("attention.dense.bias", v))
                .transpose()?,
            post_norm: map("post_attention_layernorm.weight", self.post_norm)?,
            mlp: self.mlp.try_map(&format!("{prefix}.mlp"), f)?,
        })
    }
}

impl<T> Mlp<T> {
    fn try_map<U, E>(
        self,
        prefix: &str,
        f: &mut impl FnMut(&str, T) -> Result<U, E>,
    ) -> Result<Mlp<U>, E> {
        Ok(match self {
            Mlp::Dense(swiglu) => Mlp::Dense(swiglu.try_map(prefix, f)?),
            Mlp::Moe(moe) => Mlp::Moe(moe.try_map(prefix, f)?),
        })
    }
}

impl<T> Swiglu<T> {
    fn try_map<U, E>(
        self,
        prefix: &str,
        f: &mut impl FnMut(&str, T) -> Result<U, E>,
    ) -> Result<Swiglu<U>, E> {
        Ok(Swiglu {
            gate: f(&format!("{prefix}.gate_proj.weight"), self.gate)?,
            up: f(&format!("{prefix}.up_proj.weight"), self.up)?,
            down: f(&format!("{prefix}.down_proj.weight"), self.down)?,
        })
    }
}

impl<T> Moe<T> {
    fn try_map<U, E>(
        self,
        prefix: &str,
        f: &mut impl FnMut(&str, T) -> Result<U, E>,
    ) -> Result<Moe<U>, E> {
        let router = f(&format!("{prefix}.gate.weight"), self.router)?;
        let expert_bias = f(&format!("{prefix}.gate.expert_bias"), self.expert_bias)?;
        let experts = (0..)
            .zip(self.experts)
            .map(|(e, expert): (usize, _)| expert.try_map(&format!("{prefix}.experts.{e}"), f));
        let experts = experts.collect::<Result<_, E>>()?;
        let shared = self
            .shared
            .map(|s| s.try_map(&format!("{prefix}.shared_experts"), f));
        Ok(Moe {
            router,
            expert_bias,
            experts,
            shared: shared.transpose()?,
        })
    }
}

/// Defines `as_ref` or `as_mut`: the same tree holding references.
macro_rules! borrowed {
    ($borrow:ident, $iter:ident, $($mutable:tt)?) => {
        impl<T> Weights<T> {
            fn $borrow(&$($mutable)? self) -> Weights<&$($mutable)? T> {
                Weights {
                    embedding: &$($mutable)? self.embedding,
                    layers: self.layers.$iter().map(LayerWeights::$borrow).collect(),
                    norm: &$($mutable)? self.norm,
                    head: self.head.$borrow(),
                }
            }
        }

        impl<T> LayerWeights<T> {
            fn $borrow(&$($mutable)? self) -> LayerWeights<&$($mutable)? T> {
                LayerWeights {
                    input_norm: &$($mutable)? self.input_norm,
                    qkv: &$($mutable)? self.qkv,
                    qkv_bias: self.qkv_bias.$borrow(),
                    query_norm: self.query_norm.$borrow(),
                    key_norm: self.key_norm.$borrow(),
                    dense: &$($mutable)? self.dense,
                    dense_bias: self.dense_bias.$borrow(),
                    post_norm: &$($mutable)? self.post_norm,
                    mlp: match &$($mutable)? self.mlp {
                        Mlp::Dense(swiglu) => Mlp::Dense(swiglu.$borrow()),
                        Mlp::Moe(moe) => Mlp::Moe(moe.$borrow()),
                    },
                }
            }
        }

        impl<T> Moe<T> {
            fn $borrow(&$($mutable)? self) -> Moe<&$($mutable)? T> {
                Moe {
                    router: &$($mutable)? self.router,
                    expert_bias: &$($mutable)? self.expert_bias,
                    experts: self.experts.$iter().map(Swiglu::$borrow).collect(),
                    shared: self.shared.$borrow().map(Swiglu::$borrow),
                }
            }
        }

        impl<T> Swiglu<T> {
            fn $borrow(&$($mutable)? self) -> Swiglu<&$($mutable)? T> {
                Swiglu {
                    gate: &$($mutable)? self.gate,
                    up: &$($mutable)? self.up,
                    down: &$($mutable)? self.down,
                }
            }
        }
    };
}

borrowed!(as_ref, iter,);
borrowed!(as_mut, iter_mut, mut);

/// States the shape and purpose of every parameter.
fn shapes(config: &Config) -> Weights<Shape> {
    let vocab_by_hidden = vec![config.vocab_size, config.hidden_size];
    Weights {
        embedding: (ParamKind::Embedding, vocab_by_hidden.clone()),
        layers: (0..config.num_hidden_layers)
            .map(|layer| layer_shapes(config, layer))
            .collect(),
        norm: (ParamKind::Norm, vec![config.hidden_size]),
        head: (!config.tie_word_embeddings).then_some((ParamKind::Head, vocab_by_hidden)),
    }
}

fn layer_shapes(config: &Config, layer: usize) -> LayerWeights<Shape> {
    let (hidden, head_dim) = (config.hidden_size, config.head_dim);
    let query_rows = config.num_attention_heads * head_dim;
    let qkv_rows = query_rows + 2 * config.num_key_value_heads * head_dim;
    let head_norm = config
        .use_qk_norm
        .then_some((ParamKind::Norm, vec![head_dim]));
    LayerWeights {
        input_norm: (ParamKind::Norm, vec![hidden]),
        qkv: (ParamKind::Matrix, vec![qkv_rows, hidden]),
        qkv_bias: config
            .use_qkv_bias
            .then_some((ParamKind::Bias, vec![qkv_rows])),
        query_norm: head_norm.clone(),
        key_norm: head_norm,
        dense: (ParamKind::Matrix, vec![hidden, query_rows]),
        dense_bias: config
            .use_dense_bias
            .then_some((ParamKind::Bias, vec![hidden])),
        post_norm: (ParamKind::Norm, vec![hidden]),
        mlp: mlp_shapes(config, layer),
    }
}

fn mlp_shapes(config: &Config, layer: usize) -> Mlp<Shape> {
    let hidden = config.hidden_size;
    let swiglu = |ffn: usize| Swiglu {
        gate: (ParamKind::Matrix, vec![ffn, hidden]),
        up: (ParamKind::Matrix, vec![ffn, hidden]),
        down: (ParamKind::Matrix, vec![hidden, ffn]),
    };
    let Some(moe) = config.moe_at(layer) else {
        return Mlp::Dense(swiglu(config.intermediate_size));
    };
    Mlp::Moe(Moe {
        router: (ParamKind::Router, vec![moe.num_experts, hidden]),
        expert_bias: (ParamKind::ExpertBias, vec![moe.num_experts]),
        experts: vec![swiglu(moe.moe_intermediate_size); moe.num_experts],
        shared: (moe.shared_intermediate_size > 0).then(|| swiglu(moe.shared_intermediate_size)),
    })
}
