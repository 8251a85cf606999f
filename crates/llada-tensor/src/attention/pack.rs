//! Copies of what one task reads, laid out for vectors.

use super::products::View;
use super::segments::Segment;
use super::tile::Tile;
use crate::simd::Simd;

/// Keys or values of all key-value heads, [M, G*P].
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) values: &'a [f32],
    /// G.
    pub(super) heads: usize,
    /// P.
    pub(super) dim: usize,
}

impl<'a> Source<'a> {
    /// Returns where one head of one key begins.
    pub(super) fn offset(&self, key: usize, head: usize) -> usize {
        (key * self.heads + head) * self.dim
    }

    fn row(&self, key: usize, head: usize) -> &'a [f32] {
        &self.values[self.offset(key, head)..][..self.dim]
    }
}

/// Returns `len` rounded up to whole vectors.
#[inline(always)]
pub(super) fn padded<S: Simd>(len: usize) -> usize {
    len.next_multiple_of(S::LANES)
}

/// Returns `len` zeros in reused memory.
#[inline(always)]
pub(super) fn zeroed(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    memory.clear();
    memory.resize(len, 0.0);
    memory
}

/// Packs one head as [keys, padded P].
#[inline(always)]
pub(super) fn pack_rows<'m, S: Simd>(
    _: S,
    source: Source<'_>,
    segment: &Segment,
    head: usize,
    memory: &'m mut Vec<f32>,
) -> View<'m> {
    let stride = padded::<S>(source.dim);
    let values = zeroed(memory, segment.num_keys * stride);
    for (to, key) in values.chunks_exact_mut(stride).zip(segment.keys()) {
        to[..source.dim].copy_from_slice(source.row(key, head));
    }
    View { values, stride }
}

/// Packs one head transposed, as [P, keys and at least one vector more]: a vector may begin at any key.
#[inline(always)]
pub(super) fn pack_columns<'m, S: Simd>(
    _: S,
    source: Source<'_>,
    segment: &Segment,
    head: usize,
    memory: &'m mut Vec<f32>,
) -> View<'m> {
    let stride = padded::<S>(segment.num_keys + S::LANES);
    let values = zeroed(memory, source.dim * stride);
    for (column, key) in segment.keys().enumerate() {
        for (to, x) in values.chunks_exact_mut(stride).zip(source.row(key, head)) {
            to[column] = *x;
        }
    }
    View { values, stride }
}

/// Packs the queries of a tile, times `factor`, as [queries, padded P]. # Shapes: x [N, H*P].
#[inline(always)]
pub(super) fn pack_queries<'m, S: Simd>(
    _: S,
    x: &[f32],
    tile: &Tile<'_>,
    dim: usize,
    factor: f32,
    memory: &'m mut Vec<f32>,
) -> View<'m> {
    let stride = padded::<S>(dim);
    let values = zeroed(memory, tile.num_queries() * stride);
    for (query, to) in values.chunks_exact_mut(stride).enumerate() {
        let from = &x[tile.query(query) * dim..][..dim];
        for (to, x) in to.iter_mut().zip(from) {
            *to = x * factor;
        }
    }
    View { values, stride }
}
