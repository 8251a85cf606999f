//! Keys and values of texts that grow, stored as they are multiplied.

use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use super::Heads;
use super::element::Element;
use super::products::{Columns, View, add_product};
use super::stored::Stored;
use super::tile::{Piece, QUERIES, Tile, ask};
use crate::gemm::{Format, Line, PANEL};
use crate::parallel::{join, rows_per_task};
use crate::simd::Simd;
use crate::{Precision, Tensor};

/// Room for the keys and values of M rows, which come and go row by row; see [`attention_paged`](super::attention_paged).
///
/// They lie as they are multiplied. A word is an `f32` or two bf16. Keys lie in panels of sixteen rows,
/// [M/16, G, words of P, 16], of whose words each holds neighbours of a row; values, [words of M, G, P], in words of
/// neighbouring rows, the first one in the high half.
#[derive(Debug)]
pub struct KeyValues {
    precision: Precision,
    heads: Heads,
    rows: usize,
    /// With room to begin at a cache line.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KeyValues {
    /// Reserves room for `rows` rows, which are rounded to `precision`; it comes into use row by row. Returns nothing
    /// if memory is lacking.
    ///
    /// # Panics
    /// If P is odd in bf16.
    pub fn new(precision: Precision, rows: usize, heads: Heads) -> Option<Self> {
        let depth = depth(precision);
        assert!(
            heads.dim.is_multiple_of(depth),
            "keys and values: {heads:?} in {precision:?}"
        );
        let width = heads.key_value.checked_mul(heads.dim)? / depth;
        let len = rows.checked_next_multiple_of(PANEL)?.checked_mul(width)?;
        Some(Self {
            precision,
            heads,
            rows,
            keys: zeros(len)?,
            values: zeros(len)?,
        })
    }

    /// Returns the bytes that one row takes.
    pub fn bytes_per_row(precision: Precision, heads: Heads) -> usize {
        2 * heads.key_value * heads.dim * size_of::<f32>() / depth(precision)
    }

    /// Writes row i of `keys` and `values` to row `slots[i]`, rounded to nearest, ties to even.
    /// # Shapes: keys and values [slots, G*P].
    ///
    /// # Panics
    /// If shapes disagree or there is no such row.
    pub fn write(&mut self, slots: &[u32], keys: &Tensor, values: &Tensor) {
        let shape = [slots.len(), self.heads.key_value * self.heads.dim];
        assert_eq!(keys.dims2(), shape, "rows of keys");
        assert_eq!(values.dims2(), shape, "rows of values");
        let last = slots.iter().max().map_or(0, |&slot| slot as usize);
        assert!(
            slots.is_empty() || last < self.rows,
            "row {last} of {}",
            self.rows
        );
        match self.precision {
            Precision::F32 => self.write_as::<f32>(slots, keys, values),
            Precision::Bf16 => self.write_as::<bf16>(slots, keys, values),
        }
    }

    fn write_as<E: Element>(&mut self, slots: &[u32], keys: &Tensor, values: &Tensor) {
        let (heads, depth) = (self.heads, E::Format::DEPTH);
        let (stored_keys, stored_values) = (lines_mut(&mut self.keys), lines_mut(&mut self.values));
        let by_head = |row| <[f32]>::chunks_exact(row, heads.dim).enumerate();
        let mut write_keys = || {
            for (i, &slot) in slots.iter().enumerate() {
                let (panel, lane) = (slot as usize / PANEL, slot as usize % PANEL);
                for (head, key) in by_head(keys.row(i)) {
                    let start = heads.offset(panel, head) / depth * PANEL + lane;
                    E::write_key(key, &mut stored_keys[start..]);
                }
            }
        };
        let mut write_values = || {
            for (i, &slot) in slots.iter().enumerate() {
                for (head, value) in by_head(values.row(i)) {
                    let start = heads.offset(slot as usize / depth, head);
                    let words = &mut stored_values[start..][..heads.dim];
                    E::write_value(value, slot as usize % depth, words);
                }
            }
        };
        // Handing over takes longer than writing a few rows.
        match rows_per_task(slots.len(), heads.key_value * heads.dim) < slots.len() {
            true => _ = join(write_keys, write_values),
            false => {
                write_keys();
                write_values();
            }
        }
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn num_rows(&self) -> usize {
        self.rows
    }

    /// Returns whether a row holds the key-value heads.
    pub(super) fn has(&self, heads: Heads) -> bool {
        (self.heads.key_value, self.heads.dim) == (heads.key_value, heads.dim)
    }
}

fn depth(precision: Precision) -> usize {
    match precision {
        Precision::F32 => <f32 as Element>::Format::DEPTH,
        Precision::Bf16 => <bf16 as Element>::Format::DEPTH,
    }
}

/// Returns `len` zeros and room to begin at a cache line, or nothing if memory is lacking.
///
/// The system hands zeroed pages out when they are first written, so rows that are never used cost
/// nothing; but asking it for zeroed memory aborts where it refuses, hence the trial before. Memory that is
/// aligned from the start would be cleared at once.
fn zeros(len: usize) -> Option<Vec<f32>> {
    let len = len.checked_add(PANEL)?;
    Vec::<f32>::new().try_reserve_exact(len).ok()?;
    Some(vec![0.0; len])
}

/// Returns the words from the first cache line on.
fn lines(words: &[f32]) -> &[f32] {
    let (_, lines, _) = bytemuck::pod_align_to::<f32, Line>(words);
    bytemuck::cast_slice(lines)
}

fn lines_mut(words: &mut [f32]) -> &mut [f32] {
    let (_, lines, _) = bytemuck::pod_align_to_mut::<f32, Line>(words);
    bytemuck::cast_slice_mut(lines)
}

/// What [`KeyValues`] hold.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, E> {
    keys: &'a [f32],
    values: &'a [f32],
    element: PhantomData<E>,
}

impl<'a, E: Element> Panels<'a, E> {
    pub(super) fn new(stored: &'a KeyValues) -> Self {
        Self {
            keys: lines(&stored.keys),
            values: lines(&stored.values),
            element: PhantomData,
        }
    }

    /// Returns the words of a panel of keys, and those of panels that follow.
    #[inline(always)]
    fn panels(&self, tile: &Tile<'_>, panel: usize) -> &'a [f32] {
        let words = tile.heads().offset(panel, tile.head()) / E::Format::DEPTH;
        &self.keys[words * PANEL..]
    }

    /// Returns the words of values that a key's is in, and those of values that follow.
    #[inline(always)]
    fn words(&self, tile: &Tile<'_>, key: usize) -> &'a [f32] {
        &self.values[tile.heads().offset(key / E::Format::DEPTH, tile.head())..]
    }

    /// Asks for the panels of the next keys.
    #[inline(always)]
    fn ask_keys<S: Simd>(&self, s: S, tile: &Tile<'_>, next: &Range<usize>) {
        for panel in next.start / PANEL..next.end.div_ceil(PANEL) {
            let words = tile.heads().dim / E::Format::DEPTH;
            ask(s, &self.panels(tile, panel)[..words * PANEL]);
        }
    }
}

impl<E: Element> Stored for Panels<'_, E> {
    type Element = E;
    type Format = E::Format;
    const GRAIN: usize = PANEL;

    #[inline(always)]
    fn score<S: Simd>(
        &self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        columns: View<'_>,
        scores: &mut [f32],
    ) {
        self.ask_keys(s, tile, &piece.next);
        scores.fill(0.0);
        let words = tile.heads().dim / E::Format::DEPTH;
        let (mut key, mut scores) = (piece.keys.start, scores);
        while key < piece.keys.end {
            let lane = key % PANEL;
            let keys = (PANEL - lane).min(piece.keys.end - key);
            let panel = View {
                values: &self.panels(tile, key / PANEL)[lane..],
                stride: PANEL,
            };
            let shape = [keys, words, tile.width::<S>()];
            add_product::<S, E::Format, true>(s, shape, panel, columns.into(), scores, QUERIES);
            scores = &mut scores[keys * QUERIES..];
            key += keys;
        }
    }

    #[inline(always)]
    fn key_columns<'m, S: Simd>(
        &'m self,
        _s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> Columns<'m> {
        let (heads, words) = (tile.heads(), tile.heads().dim / E::Format::DEPTH);
        let lane = piece.keys.start % PANEL;
        let panels = self.panels(tile, piece.keys.start / PANEL);
        if lane == 0 {
            let panel = heads.key_value * words * PANEL;
            return Columns {
                values: panels,
                stride: PANEL,
                panel,
                ahead: piece.ahead(PANEL) * panel as isize,
            };
        }
        // The keys of a panel from a lane on: vectors begin at its first.
        let len = piece.keys.len();
        memory.resize(words * PANEL, 0.0);
        for (to, from) in memory
            .chunks_exact_mut(PANEL)
            .zip(panels.chunks_exact(PANEL))
        {
            to[..len].copy_from_slice(&from[lane..][..len]);
        }
        View {
            values: memory,
            stride: PANEL,
        }
        .into()
    }

    #[inline(always)]
    fn value_words<'m, S: Simd>(
        &'m self,
        _s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> Columns<'m> {
        let (heads, depth, keys) = (tile.heads(), E::Format::DEPTH, piece.keys.clone());
        if keys.start.is_multiple_of(depth) && keys.end.is_multiple_of(depth) {
            let stride = heads.key_value * heads.dim;
            return Columns {
                values: self.words(tile, keys.start),
                stride: black_box(stride),
                panel: PANEL,
                ahead: piece.ahead(depth) * stride as isize,
            };
        }
        // A word holds the value of a key that is not among these.
        memory.resize(keys.len().div_ceil(depth) * heads.dim, 0.0);
        for (key, words) in keys
            .clone()
            .step_by(depth)
            .zip(memory.chunks_exact_mut(heads.dim))
        {
            let next = (key + 1 < keys.end).then(|| self.words(tile, key + 1));
            E::pair_values(key % depth, self.words(tile, key), next, words);
        }
        View {
            values: memory,
            stride: heads.dim,
        }
        .into()
    }
}
