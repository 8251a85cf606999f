//! How keys and values are stored, and multiplied.
//!
//! `f32` are multiplied as they are. With bf16, queries and weights are rounded to bf16 too, and two products are
//! added at a time. That is a chain of additions as before, since the products of a pair are added one after the
//! other, the one in the high halves first ([`Simd::dot_bf16`]): a key in the high half and the next in the low one
//! are added in their order, wherever pairs begin.

use half::bf16;

use super::products::View;
use super::tile::QUERIES;
use crate::gemm::{Format, Pair, Single};
use crate::simd::{Simd, bf16_bits};

/// An element of keys or values.
pub(super) trait Element: Copy + Sync {
    /// Words of the products.
    type Format: Format;

    /// Views elements as words.
    fn words(elements: &[Self]) -> &[f32];

    /// Writes the words of the first key, or of two: pairs of an element of each. A missing second one is zero.
    fn across<S: Simd>(s: S, first: &[Self], second: &[Self], words: &mut [f32]);

    /// Turns weights into words of keys, which come to lie at the front.
    /// # Shapes: [keys, QUERIES] -> [words of keys, QUERIES].
    fn join<S: Simd>(s: S, weights: &mut [f32]);

    /// Returns weights, whose rows lie `stride` apart, as words of keys: where they are, or in `memory`.
    /// # Shapes: [queries, keys] -> [queries, words of keys].
    fn joined<'m>(weights: View<'m>, shape: [usize; 2], memory: &'m mut Vec<f32>) -> View<'m>;
}

impl Element for f32 {
    type Format = Single;

    #[inline(always)]
    fn words(elements: &[Self]) -> &[f32] {
        elements
    }

    #[inline(always)]
    fn across<S: Simd>(_s: S, first: &[Self], _second: &[Self], words: &mut [f32]) {
        words.copy_from_slice(first);
    }

    #[inline(always)]
    fn join<S: Simd>(_s: S, _weights: &mut [f32]) {}

    #[inline(always)]
    fn joined<'m>(weights: View<'m>, _shape: [usize; 2], _memory: &'m mut Vec<f32>) -> View<'m> {
        weights
    }
}

impl Element for bf16 {
    type Format = Pair;

    #[inline(always)]
    fn words(elements: &[Self]) -> &[f32] {
        bytemuck::cast_slice(elements)
    }

    #[inline(always)]
    fn across<S: Simd>(s: S, first: &[Self], second: &[Self], words: &mut [f32]) {
        let mut start = 0;
        while start + S::LANES <= second.len() {
            s.store(
                s.pair_bf16(&first[start..], &second[start..]),
                &mut words[start..],
            );
            start += S::LANES;
        }
        for (i, (word, first)) in words.iter_mut().zip(first).enumerate().skip(start) {
            let second = second.get(i).map_or(0, |second| second.to_bits());
            *word = f32::from_bits(u32::from(first.to_bits()) << 16 | u32::from(second));
        }
    }

    #[inline(always)]
    fn join<S: Simd>(s: S, weights: &mut [f32]) {
        let keys = weights.len() / QUERIES;
        for word in 0..keys.div_ceil(2) {
            for lane in (0..QUERIES).step_by(S::LANES) {
                let first = s.load(&weights[2 * word * QUERIES + lane..]);
                let second = match 2 * word + 1 < keys {
                    true => s.load(&weights[(2 * word + 1) * QUERIES + lane..]),
                    false => s.splat(0.0),
                };
                let words = s.join_bf16(second, first);
                s.store(words, &mut weights[word * QUERIES + lane..]);
            }
        }
    }

    #[inline(always)]
    fn joined<'m>(
        weights: View<'m>,
        [queries, keys]: [usize; 2],
        memory: &'m mut Vec<f32>,
    ) -> View<'m> {
        let stride = keys.div_ceil(2);
        memory.resize(queries * stride, 0.0);
        for (query, words) in memory.chunks_exact_mut(stride).enumerate() {
            let weights = &weights.values[query * weights.stride..][..keys];
            for (word, weights) in words.iter_mut().zip(weights.chunks(2)) {
                let second = weights.get(1).map_or(0, |second| bf16_bits(*second));
                *word = f32::from_bits(bf16_bits(weights[0]) << 16 | second);
            }
        }
        View {
            values: memory,
            stride,
        }
    }
}
