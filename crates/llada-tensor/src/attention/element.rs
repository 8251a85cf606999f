//! How keys and values are stored, and multiplied.
//!
//! `f32` are multiplied as they are. With bf16, queries and weights are rounded to bf16 too, and two products are
//! added at a time. That is a chain of additions as before, since the products of a pair are added one after the
//! other, the one in the high halves first ([`Simd::dot_bf16`]): a key in the high half and the next in the low one
//! are added in their order, wherever pairs begin.

use half::bf16;

use super::products::View;
use super::tile::{Piece, QUERIES, Source};
use crate::Tensor;
use crate::gemm::{Format, Pair, Single};
use crate::simd::{Simd, bf16_bits};

/// An element of keys or values.
pub(super) trait Element: Copy + Sync {
    /// Words of the products.
    type Format: Format;

    /// Returns the elements of an array. Panics if they are others.
    fn of(tensor: &Tensor) -> &[Self];

    /// Views elements as words.
    fn words(elements: &[Self]) -> &[f32];

    /// Returns the head in the rows of some keys as words of keys: where they are, or in `memory`. Others are asked for.
    /// # Shapes: -> [words of keys, P].
    fn across_keys<'m, S: Simd>(
        s: S,
        source: Source<'m, Self>,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> View<'m>;

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
    fn of(tensor: &Tensor) -> &[Self] {
        tensor.f32s()
    }

    #[inline(always)]
    fn words(elements: &[Self]) -> &[f32] {
        elements
    }

    #[inline(always)]
    fn across_keys<'m, S: Simd>(
        s: S,
        source: Source<'m, Self>,
        piece: &Piece,
        _memory: &'m mut Vec<f32>,
    ) -> View<'m> {
        source.stored(s, piece)
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
    fn of(tensor: &Tensor) -> &[Self] {
        tensor.bf16s()
    }

    #[inline(always)]
    fn words(elements: &[Self]) -> &[f32] {
        bytemuck::cast_slice(elements)
    }

    #[inline(always)]
    fn across_keys<'m, S: Simd>(
        s: S,
        source: Source<'m, Self>,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> View<'m> {
        let dim = source.heads.dim;
        memory.resize(piece.keys.len().div_ceil(2) * dim, 0.0);
        let mut next = piece.next.clone();
        let pairs = piece.keys.clone().step_by(2);
        for (key, words) in pairs.zip(memory.chunks_exact_mut(dim)) {
            source.ask(s, next.by_ref().take(2));
            let second = match key + 1 < piece.keys.end {
                true => source.row(key + 1),
                false => &[],
            };
            pair(s, source.row(key), second, words);
        }
        View {
            values: memory,
            stride: dim,
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

/// Writes pairs of an element of each of two keys. A missing second key is zero.
#[inline(always)]
fn pair<S: Simd>(s: S, first: &[bf16], second: &[bf16], words: &mut [f32]) {
    let mut start = 0;
    while start + S::LANES <= second.len() {
        let pairs = s.pair_bf16(&first[start..], &second[start..]);
        s.store(pairs, &mut words[start..]);
        start += S::LANES;
    }
    for (i, (word, first)) in words.iter_mut().zip(first).enumerate().skip(start) {
        let second = second.get(i).map_or(0, |second| second.to_bits());
        *word = f32::from_bits(u32::from(first.to_bits()) << 16 | u32::from(second));
    }
}
