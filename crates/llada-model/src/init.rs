//! New weights from a seed (last rule of `model.md` section 3).

use std::convert::Infallible;

use llada_diffusion::{Rng, Stream};
use llada_tensor::{Codes, Precision, Tensor, Weight};

use crate::{Config, ParamKind, ParamSpec, Weights};

impl Weights<Weight> {
    /// Draws the weights of a new model. Matrix products with them will use `precision`.
    ///
    /// Projections, embedding and head are N(0, `initializer_range`), routers uniform within
    /// 1 / sqrt(D), norms one, biases zero. Values depend on the seed and on the parameter's place in
    /// the model only.
    pub fn random(config: &Config, seed: u64, precision: Precision) -> Self {
        let rng = Rng::new(seed, Stream::Init);
        let mut param = 0;
        let Ok(weights) = Self::build(config, |spec| {
            param += 1;
            let always_f32 = spec.kind.is_always_f32();
            let precision = if always_f32 {
                Precision::F32
            } else {
                precision
            };
            Ok::<_, Infallible>(Weight::new(draw(spec, config, &rng, param), precision))
        });
        weights
    }

    /// Draws a model whose matrices, embedding and head are random codes: only its shape and its speed are
    /// real. Rows that are no whole number of blocks, and all else, are as in [`Weights::random`].
    pub fn random_codes(config: &Config, seed: u64, codes: Codes) -> Self {
        let rng = Rng::new(seed, Stream::Init);
        let span = codes.format().block_values();
        // Rows as different as those of a trained model, which do not all use the same experts.
        let [embedding, matrix] =
            [1.0, config.initializer_range].map(|spread| BlockPool::new(codes, spread, &rng));
        let mut param = 0;
        let Ok(weights) = Self::build(config, |spec| {
            param += 1;
            let values = match spec.shape[..] {
                [rows, width] if !spec.kind.is_always_f32() && width.is_multiple_of(span) => {
                    let pool = match spec.kind {
                        ParamKind::Embedding => &embedding,
                        _ => &matrix,
                    };
                    pool.draw([rows, width], rng.at(0, param, 0)[0].into())
                }
                _ => draw(spec, config, &rng, param),
            };
            Ok::<_, Infallible>(Weight::new(values, Precision::F32))
        });
        weights
    }
}

/// Blocks of normal numbers, of which random weights of codes consist: quantising all would take minutes.
struct BlockPool {
    codes: Codes,
    blocks: Vec<u8>,
}

impl BlockPool {
    /// Power of two of the number of blocks.
    const LOG_BLOCKS: u32 = 10;

    fn new(codes: Codes, spread: f32, rng: &Rng) -> Self {
        let format = codes.format();
        let len = format.block_values() << Self::LOG_BLOCKS;
        let values: Vec<f32> = (0..len as u32)
            .map(|i| spread * rng.normal(0, 0, i))
            .collect();
        let mut blocks = Vec::new();
        format.quantise(&values, &mut blocks);
        Self { codes, blocks }
    }

    fn draw(&self, shape: [usize; 2], seed: u64) -> Tensor {
        let format = self.codes.format();
        let bytes = format.block_bytes();
        let mut blocks = vec![0; shape[0] * shape[1] / format.block_values() * bytes];
        let mut state = seed;
        for block in blocks.chunks_exact_mut(bytes) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15); // Weyl's sequence, mixed as in SplitMix64
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let index = (mixed >> (u64::BITS - Self::LOG_BLOCKS)) as usize;
            block.copy_from_slice(&self.blocks[index * bytes..][..bytes]);
        }
        Tensor::from_codes(self.codes, shape, &blocks)
    }
}

/// Draws the parameter that is number `param` of the walk.
fn draw(spec: &ParamSpec, config: &Config, rng: &Rng, param: u64) -> Tensor {
    let bound = 1.0 / (config.hidden_size as f32).sqrt();
    let value = |index: u64| {
        let (high, low) = ((index >> 32) as u32, index as u32); // the two halves of the index
        match spec.kind {
            ParamKind::Embedding | ParamKind::Matrix | ParamKind::Head => {
                config.initializer_range * rng.normal(high, param, low)
            }
            ParamKind::Router => bound * (2.0 * rng.uniform(high, param, low) - 1.0),
            ParamKind::Norm => 1.0,
            ParamKind::Bias | ParamKind::ExpertBias => 0.0,
        }
    };
    Tensor::from_f32(
        &spec.shape,
        (0..spec.num_elements() as u64).map(value).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::from_json(include_str!("../../../testdata/golden/model/config.json")).unwrap()
    }

    #[test]
    fn one_seed_gives_one_model_and_another_seed_another() {
        let embedding = |seed| {
            Weights::random(&config(), seed, Precision::F32)
                .embedding
                .values()
                .f32s()
                .to_vec()
        };
        assert_eq!(embedding(1), embedding(1));
        assert_ne!(embedding(1), embedding(2));
    }

    #[test]
    fn parameters_of_equal_shape_differ() {
        let weights = Weights::random(&config(), 1, Precision::F32);
        let queries = |layer: usize| weights.layers[layer].qkv.values().f32s().to_vec();
        assert_ne!(queries(0), queries(1));
    }

    #[test]
    fn every_kind_is_drawn_as_the_rules_say() {
        let config = config();
        let weights = Weights::random(&config, 7, Precision::Bf16);
        let specs = Weights::specs(&config).into_params();
        for ((name, spec), (_, weight)) in specs.iter().zip(weights.params()) {
            let values = weight.values().f32s();
            let mean_square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
            let (expected, tolerance) = match spec.kind {
                ParamKind::Norm => (1.0, 0.0),
                ParamKind::Bias | ParamKind::ExpertBias => (0.0, 0.0),
                ParamKind::Router => ((1.0 / 3.0_f32 / 64.0).sqrt(), 0.005), // sd of the uniform
                ParamKind::Embedding | ParamKind::Matrix | ParamKind::Head => (0.02, 0.002),
            };
            assert!(
                (mean_square.sqrt() - expected).abs() <= tolerance,
                "{name}: {mean_square}"
            );
        }
    }

    #[test]
    fn routers_and_norms_are_multiplied_in_f32() {
        let weights = Weights::random(&config(), 7, Precision::Bf16);
        assert_eq!(weights.norm.precision(), Precision::F32);
        assert_eq!(weights.embedding.precision(), Precision::Bf16);
    }
}
