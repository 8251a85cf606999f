//! Codes in the order in which the kernel reads them.

use std::io;
use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::layout::{Codes, QUADS};
use crate::buffer::Buffer;
use crate::gemm::pack::{Line, PANEL};
use crate::paging::{PageFile, Paged};

/// A right operand [K, N] of codes.
///
/// A panel holds 16 columns, as [`layout`](super::layout) says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CodePanels {
    lines: Paged<Line>,
    shape: [usize; 2],
    codes: Codes,
}

impl CodePanels {
    /// Packs the rows of a weight [N, K] as they lie in a GGUF file.
    ///
    /// # Panics
    /// If K does not consist of whole blocks of the file, or the bytes are not those of the shape.
    pub(crate) fn new(codes: Codes, [n, k]: [usize; 2], blocks: &[u8]) -> Self {
        let span = codes.span();
        assert!(k.is_multiple_of(span), "{k} elements in blocks of {span}");
        let row_bytes = k / span * codes.format().block_bytes();
        assert_eq!(blocks.len(), n * row_bytes, "bytes of codes of {n} x {k}");
        let mut panels = Self {
            lines: Buffer::zeros(0).into(),
            shape: [k, n],
            codes,
        };
        let pitch = panels.pitch();
        // Columns that are missing keep a scale of zero.
        let mut lines = Buffer::zeros(pitch * n.div_ceil(PANEL));
        if !blocks.is_empty() {
            let rows = blocks.par_chunks(PANEL * row_bytes);
            let lines = lines.par_chunks_exact_mut(pitch);
            lines
                .zip(rows)
                .for_each(|(panel, rows)| pack_panel(codes, row_bytes, rows, panel));
        }
        panels.lines = lines.into();
        panels
    }

    /// Moves the codes to the end of a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn move_to(&mut self, file: &mut PageFile) -> io::Result<()> {
        self.lines.move_to(file)
    }

    /// Returns the extents, [K, N].
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Returns how elements are written.
    pub(crate) fn codes(&self) -> Codes {
        self.codes
    }

    /// Writes column `index` as numbers.
    ///
    /// # Panics
    /// If there is no such column, or `to` has not K elements.
    pub(crate) fn column(&self, index: usize, to: &mut [f32]) {
        assert!(index < self.shape[1], "column {index} of {}", self.shape[1]);
        assert_eq!(to.len(), self.shape[0], "elements of a column");
        let (codes, column) = (self.codes, index % PANEL);
        let panel = self.panel(index / PANEL);
        let to = to.chunks_mut(codes.spans_of_group() * codes.span());
        for (group, to) in panel.chunks(codes.lines_of_group()).zip(to) {
            let (head, lines) = group.split_at(codes.head_lines());
            let heads = bytemuck::cast_slice(head).chunks_exact(codes.head_len());
            let spans = heads.zip(lines.chunks_exact(codes.lines_of_span()));
            for ((head, lines), to) in spans.zip(to.chunks_exact_mut(codes.span())) {
                write_span(codes, head, lines, column, to);
            }
        }
    }

    /// Returns the bytes of memory that a product reads.
    pub(crate) fn num_bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// Returns all that lies in those of some panels that there are.
    #[inline(always)]
    pub(super) fn lines(&self, panels: Range<usize>) -> &[Line] {
        let end = (panels.end * self.pitch()).min(self.lines.len());
        &self.lines[(panels.start * self.pitch()).min(end)..end]
    }

    /// Returns a panel.
    #[inline(always)]
    pub(super) fn panel(&self, index: usize) -> &[Line] {
        let pitch = self.pitch();
        &self.lines[index * pitch..][..pitch]
    }

    /// Returns the lines from one panel to the next.
    fn pitch(&self) -> usize {
        self.codes.lines_of_panel(self.shape[0])
    }
}

/// Writes a span of a column as numbers.
fn write_span(codes: Codes, head: &[f16], lines: &[Line], column: usize, to: &mut [f32]) {
    for (quad, to) in to.chunks_exact_mut(4).enumerate() {
        let (scale, offset) = codes.scale_and_offset(head, quad, column);
        let lines = &lines[quad / QUADS * codes.bits()..];
        for (to, code) in to.iter_mut().zip(codes.quad(lines, quad % QUADS, column)) {
            *to = (i32::from(code) - codes.bias()) as f32 * scale - offset;
        }
    }
}

/// Packs up to 16 rows.
fn pack_panel(codes: Codes, row_bytes: usize, rows: &[u8], panel: &mut [Line]) {
    let block_bytes = codes.format().block_bytes();
    for (column, row) in rows.chunks_exact(row_bytes).enumerate() {
        let groups = panel.chunks_mut(codes.lines_of_group());
        for (group, blocks) in groups.zip(row.chunks(codes.spans_of_group() * block_bytes)) {
            let (head, lines) = group.split_at_mut(codes.head_lines());
            let heads = bytemuck::cast_slice_mut(head).chunks_exact_mut(codes.head_len());
            let spans = heads.zip(lines.chunks_exact_mut(codes.lines_of_span()));
            for ((head, lines), block) in spans.zip(blocks.chunks_exact(block_bytes)) {
                codes.pack(block, column, head, lines);
            }
        }
    }
}
