//! Where keys and values lie for the forward pass: in rows, as a projection made them, or as they are multiplied
//! ([`Panels`](super::panels::Panels)).

use super::element::Element;
use super::products::{Columns, View};
use super::tile::{Piece, Tile};
use crate::Tensor;
use crate::gemm::Format;
use crate::simd::Simd;

/// Keys and values as the forward pass reads them. Functions with a tile are about the tile's key-value head.
pub(super) trait Stored: Copy + Sync {
    /// Their type.
    type Element: Element<Format = Self::Format>;
    /// Words of the products.
    type Format: Format;

    /// Pieces of keys begin at multiples of this, unless the keys of a run do not.
    const GRAIN: usize;

    /// Writes the products of some keys with the queries.
    /// # Shapes: columns [words of P, QUERIES], scores [keys, QUERIES].
    fn score<S: Simd>(
        &self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        columns: View<'_>,
        scores: &mut [f32],
    );

    /// Returns some keys transposed, where they are or in `memory`: [words of P, keys]. The next ones are asked for,
    /// now or as these are multiplied.
    fn key_columns<'m, S: Simd>(
        &'m self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> Columns<'m>;

    /// Returns the values of some keys as words of keys, where they are or in `memory`: [words of keys, P]. The next
    /// ones are asked for, now or as these are multiplied.
    fn value_words<'m, S: Simd>(
        &'m self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> Columns<'m>;
}

/// Keys and values row by row, [M, G*P] each.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, E> {
    pub(super) keys: &'a [E],
    pub(super) values: &'a [E],
}

impl<'a, E: Element> Rows<'a, E> {
    pub(super) fn new([keys, values]: [&'a Tensor; 2]) -> Self {
        Self {
            keys: E::of(keys),
            values: E::of(values),
        }
    }
}

impl<E: Element> Stored for Rows<'_, E> {
    type Element = E;
    type Format = E::Format;
    const GRAIN: usize = 1;

    #[inline(always)]
    fn score<S: Simd>(
        &self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        columns: View<'_>,
        scores: &mut [f32],
    ) {
        tile.score(s, piece, tile.source(self.keys), columns, scores);
    }

    #[inline(always)]
    fn key_columns<'m, S: Simd>(
        &'m self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> Columns<'m> {
        tile.source(self.keys).columns(s, piece, memory).into()
    }

    #[inline(always)]
    fn value_words<'m, S: Simd>(
        &'m self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> Columns<'m> {
        E::across_keys(s, tile.source(self.values), piece, memory).into()
    }
}
