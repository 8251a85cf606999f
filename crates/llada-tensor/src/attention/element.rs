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
use crate::gemm::{Format, PANEL, Pair, Single};
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

    /// Writes a key, whose words lie sixteen apart.
    fn write_key(key: &[f32], words: &mut [f32]);

    /// Writes the value of a word's first or second key, by its `place` 0 or 1. # Shapes: `[P]`, words `[P]`.
    fn write_value(value: &[f32], place: usize, words: &mut [f32]);

    /// Writes words of the values of two keys that are stored in different ones: the first at `place` of its words, the
    /// second, if there is one, at the other. # Shapes: `[P]` each.
    fn pair_values(place: usize, first: &[f32], second: Option<&[f32]>, words: &mut [f32]);

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
    fn write_key(key: &[f32], words: &mut [f32]) {
        for (word, x) in words.iter_mut().step_by(PANEL).zip(key) {
            *word = *x;
        }
    }

    #[inline(always)]
    fn write_value(value: &[f32], _place: usize, words: &mut [f32]) {
        words.copy_from_slice(value);
    }

    #[inline(always)]
    fn pair_values(_place: usize, first: &[f32], _second: Option<&[f32]>, words: &mut [f32]) {
        words.copy_from_slice(&first[..words.len()]);
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
    fn write_key(key: &[f32], words: &mut [f32]) {
        for (word, x) in words.iter_mut().step_by(PANEL).zip(key.chunks_exact(2)) {
            *word = f32::from_bits(bf16_bits(x[0]) | bf16_bits(x[1]) << 16);
        }
    }

    #[inline(always)]
    fn write_value(value: &[f32], place: usize, words: &mut [f32]) {
        for (word, x) in words.iter_mut().zip(value) {
            let bits = match place {
                0 => word.to_bits() & 0xffff | bf16_bits(*x) << 16,
                _ => word.to_bits() & 0xffff_0000 | bf16_bits(*x),
            };
            *word = f32::from_bits(bits);
        }
    }

    #[inline(always)]
    fn pair_values(place: usize, first: &[f32], second: Option<&[f32]>, words: &mut [f32]) {
        // What lies in the high half at place 0 lies in the low one at place 1.
        let (up, down) = if place == 0 { (0, 0) } else { (16, 16) };
        for (word, first) in words.iter_mut().zip(first) {
            *word = f32::from_bits(first.to_bits() << up & 0xffff_0000);
        }
        for (word, second) in words.iter_mut().zip(second.unwrap_or_default()) {
            let bits = word.to_bits() | second.to_bits() >> down & 0xffff;
            *word = f32::from_bits(bits);
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
            let (pairs, last) = weights.as_chunks::<2>();
            for (word, [first, second]) in words.iter_mut().zip(pairs) {
                *word = f32::from_bits(bf16_bits(*first) << 16 | bf16_bits(*second));
            }
            for (word, first) in words.iter_mut().skip(pairs.len()).zip(last) {
                *word = f32::from_bits(bf16_bits(*first) << 16);
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
