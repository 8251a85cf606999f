//! Codes in the order in which the kernel reads them.

use half::f16;
use rayon::prelude::*;

use super::BLOCK;
use crate::gemm::pack::{Line, PANEL, words, words_mut};

/// Format of a weight of codes: blocks of an `f16` scale and 32 elements, by GGUF's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codes {
    /// Four bits per element: `(q - 8) * scale`.
    Q4_0,
    /// A byte per element: `q * scale`. In memory the sign bit is flipped: `(q - 128) * scale`.
    Q8_0,
}

impl Codes {
    /// Elements that share a scale.
    pub const BLOCK: usize = BLOCK;

    /// Returns what is subtracted from a code.
    pub(super) fn bias(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q8_0 => 128,
        }
    }

    /// Returns the lines that a block of 32 elements of 16 columns takes.
    fn lines(self) -> usize {
        match self {
            Self::Q4_0 => 4,
            Self::Q8_0 => 8,
        }
    }

    /// Returns four codes of a column of a block.
    fn quad(self, lines: &[Line], quad: usize, column: usize) -> [u8; 4] {
        let word = |line: &Line| line.0[column].to_bits().to_le_bytes();
        match (self, quad) {
            (Self::Q8_0, _) => word(&lines[quad]),
            (Self::Q4_0, 0..4) => word(&lines[quad]).map(|pair| pair & 0x0f),
            (Self::Q4_0, _) => word(&lines[quad - 4]).map(|pair| pair >> 4),
        }
    }

    /// Returns the bits of an element.
    pub fn bits(self) -> usize {
        match self {
            Self::Q4_0 => 4,
            Self::Q8_0 => 8,
        }
    }

    /// Returns the bytes of a block of one column in a file: its scale and its codes.
    pub fn block_bytes(self) -> usize {
        size_of::<f16>() + BLOCK * self.lines() / 8
    }
}

/// A right operand [K, N] of codes.
///
/// A panel holds 16 columns: the scales of its blocks, then their codes. A line of codes holds four
/// elements of k of every column; with nibbles, the four that are 16 further in the high halves.
#[derive(Clone, Debug)]
pub(crate) struct CodePanels {
    lines: Vec<Line>,
    shape: [usize; 2],
    codes: Codes,
}

impl CodePanels {
    /// Packs the rows of a weight [N, K] as they lie in a GGUF file: blocks of a scale and 32 codes.
    ///
    /// # Panics
    /// If K is not a multiple of 32, or the bytes are not those of the shape.
    pub(crate) fn new(codes: Codes, [n, k]: [usize; 2], blocks: &[u8]) -> Self {
        assert!(k.is_multiple_of(BLOCK), "{k} elements in blocks of {BLOCK}");
        let row_bytes = k / BLOCK * codes.block_bytes();
        assert_eq!(blocks.len(), n * row_bytes, "bytes of codes of {n} x {k}");
        let mut panels = Self::zeros(codes, [k, n]);
        let pitch = panels.pitch();
        if !blocks.is_empty() {
            let rows = blocks.par_chunks(PANEL * row_bytes);
            let lines = panels.lines.par_chunks_exact_mut(pitch);
            lines
                .zip(rows)
                .for_each(|(panel, rows)| pack_panel(codes, k / BLOCK, rows, panel));
        }
        panels
    }

    /// Returns panels in which every scale is zero.
    fn zeros(codes: Codes, shape: [usize; 2]) -> Self {
        let mut panels = Self {
            lines: Vec::new(),
            shape,
            codes,
        };
        let count = panels.pitch() * shape[1].div_ceil(PANEL);
        panels.lines = vec![Line([0.0; PANEL]); count];
        panels
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
        let (scales, lines) = self.panel(index / PANEL);
        let column = index % PANEL;
        let blocks = lines.chunks_exact(self.codes.lines());
        for (block, (to, lines)) in to.chunks_exact_mut(BLOCK).zip(blocks).enumerate() {
            let scale = scales[block * PANEL + column].to_f32();
            for (quad, to) in to.chunks_exact_mut(4).enumerate() {
                let codes = self.codes.quad(lines, quad, column);
                for (to, code) in to.iter_mut().zip(codes) {
                    *to = (i32::from(code) - self.codes.bias()) as f32 * scale;
                }
            }
        }
    }

    /// Returns the bytes of memory that a product reads.
    pub(crate) fn num_bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// Returns a panel: its scales, 16 for every block, and its lines of codes.
    #[inline(always)]
    pub(super) fn panel(&self, index: usize) -> (&[f16], &[Line]) {
        let pitch = self.pitch();
        let (scales, codes) =
            self.lines[index * pitch..][..pitch].split_at(scale_lines(self.blocks()));
        (bytemuck::cast_slice(words(scales)), codes)
    }

    fn blocks(&self) -> usize {
        self.shape[0] / BLOCK
    }

    /// Returns the lines from one panel to the next.
    fn pitch(&self) -> usize {
        scale_lines(self.blocks()) + self.blocks() * self.codes.lines()
    }
}

/// Equal codes and scales, bit by bit.
impl PartialEq for CodePanels {
    fn eq(&self, other: &Self) -> bool {
        let [ours, theirs] =
            [self, other].map(|panels| bytemuck::cast_slice::<_, u8>(words(&panels.lines)));
        (self.shape, self.codes) == (other.shape, other.codes) && ours == theirs
    }
}

/// Returns the lines that the scales of a panel take.
fn scale_lines(blocks: usize) -> usize {
    blocks.div_ceil(2)
}

/// Packs up to 16 rows; the columns of missing ones keep a scale of zero.
fn pack_panel(codes: Codes, blocks: usize, rows: &[u8], panel: &mut [Line]) {
    let (scales, lines) = panel.split_at_mut(scale_lines(blocks));
    let scales: &mut [u8] = bytemuck::cast_slice_mut(words_mut(scales));
    let lines: &mut [u8] = bytemuck::cast_slice_mut(words_mut(lines));
    let flip = match codes {
        Codes::Q4_0 => 0,
        Codes::Q8_0 => 0x80,
    };
    let block_bytes = codes.block_bytes();
    for (column, row) in rows.chunks_exact(blocks * block_bytes).enumerate() {
        for (index, block) in row.chunks_exact(block_bytes).enumerate() {
            let (scale, block) = block.split_at(size_of::<f16>());
            scales[(index * PANEL + column) * 2..][..2].copy_from_slice(scale);
            for (line, quad) in block.chunks_exact(4).enumerate() {
                let line = index * codes.lines() + line;
                let word = &mut lines[(line * PANEL + column) * 4..][..4];
                for (to, from) in word.iter_mut().zip(quad) {
                    *to = from ^ flip;
                }
            }
        }
    }
}
