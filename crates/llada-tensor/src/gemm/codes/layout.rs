//! How codes and their scales lie in a panel: group after group, as they are read.
//!
//! A group is one block of the file or two, so that its scales fill whole lines; these come first, then the
//! codes of its blocks of 32 elements. A line holds a word of four bytes for each of 16 columns. A block is
//! eight fours; four q of one column lies
//!
//! ```text
//! 8 bits   in line q
//! 4 bits   in line q % 4: in the low halves of the bytes for q < 4, in the high halves above
//! 5 bits   as 4, and one bit of every byte of line 4
//! 6 bits   as 4, and two bits of every byte of line 4 + q / 4
//! ```

use half::f16;

use super::BLOCK;
use crate::BlockFormat;
use crate::gemm::pack::{Line, PANEL};
use crate::quant::{affine, symmetric};

/// Numbers of two bytes in a line.
const NUMBERS: usize = size_of::<Line>() / size_of::<f16>();
/// Fours of codes of a block.
pub(super) const QUADS: usize = BLOCK / 4;
/// Fours of codes of half a block.
pub(super) const HALF: usize = QUADS / 2;
/// The bit of a byte above its low half.
pub(super) const HIGH: usize = 4;

/// Format of a weight of codes, by GGUF's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codes {
    /// Four bits per element: `(q - 8) * scale`, an `f16` scale per 32 elements.
    Q4_0,
    /// A byte per element: `q * scale`, as above. In memory the sign bit is flipped: `(q - 128) * scale`.
    Q8_0,
    /// Four bits per element: `d * scale * q - dmin * offset`, small numbers for 32 elements under
    /// `f16` ones for 256.
    Q4K,
    /// Five bits per element, otherwise as [`Codes::Q4K`].
    Q5K,
    /// Six bits per element: `d * scale * (q - 32)`, a small number for 16 elements under an `f16` one for 256.
    Q6K,
}

impl Codes {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Q4_0, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// Returns the format of these codes in files.
    pub const fn format(self) -> BlockFormat {
        match self {
            Self::Q4_0 => BlockFormat::Q4_0,
            Self::Q8_0 => BlockFormat::Q8_0,
            Self::Q4K => BlockFormat::Q4K,
            Self::Q5K => BlockFormat::Q5K,
            Self::Q6K => BlockFormat::Q6K,
        }
    }

    /// Returns the bits of an element, which is also the number of lines of a block.
    pub(super) const fn bits(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4K => 4,
            Self::Q5K => 5,
            Self::Q6K => 6,
            Self::Q8_0 => 8,
        }
    }

    /// Returns whether the other operand is rounded to multiples of powers of two, which is faster. Its error grows by
    /// half, to 0.8 % of normal numbers; beside what four or five bits lose that is little.
    pub(super) const fn has_binary_units(self) -> bool {
        self.bits() <= 5
    }

    /// Returns what is subtracted from a code.
    pub(super) fn bias(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q8_0 => 128,
            Self::Q4K | Self::Q5K => 0,
            Self::Q6K => 32,
        }
    }

    /// Returns the elements of a block of the file, whose scales lie together.
    pub(super) const fn span(self) -> usize {
        self.format().block_values()
    }

    /// Returns the blocks of a group.
    pub(super) const fn blocks_of_group(self) -> usize {
        self.spans_of_group() * self.span() / BLOCK
    }

    /// Returns the lines of the scales of a group.
    pub(super) const fn head_lines(self) -> usize {
        self.spans_of_group() * self.head_len() / NUMBERS
    }

    /// Returns the lines of a panel of columns of some elements.
    pub(super) const fn lines_of_panel(self, elements: usize) -> usize {
        let blocks = elements / BLOCK;
        blocks.div_ceil(self.blocks_of_group()) * self.head_lines() + blocks * self.bits()
    }

    /// Returns the lines of a group; only the last one of a panel can be shorter.
    pub(super) const fn lines_of_group(self) -> usize {
        self.head_lines() + self.blocks_of_group() * self.bits()
    }

    /// Returns the lines of the codes of a span.
    pub(super) const fn lines_of_span(self) -> usize {
        self.span() / BLOCK * self.bits()
    }

    /// Returns the spans whose scales together fill lines.
    pub(super) const fn spans_of_group(self) -> usize {
        if self.head_len().is_multiple_of(NUMBERS) {
            1
        } else {
            2
        }
    }

    /// Returns the numbers of two bytes that the scales of a span of 16 columns take.
    pub(super) const fn head_len(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q8_0 => PANEL,
            Self::Q4K | Self::Q5K => 2 * PANEL + 2 * 8 * PANEL / 2,
            Self::Q6K => PANEL + 16 * PANEL / 2,
        }
    }

    /// Writes a block of a file to a column: its scales to the head of the span, its codes to the lines.
    pub(super) fn pack(self, block: &[u8], column: usize, head: &mut [f16], lines: &mut [Line]) {
        match self {
            Self::Q4_0 => {
                let [low, high] = [0, 4].map(|shift| move |byte: &u8| byte >> shift & 15);
                let codes = block[2..]
                    .iter()
                    .map(low)
                    .chain(block[2..].iter().map(high));
                head[column] = f16::from_le_bytes([block[0], block[1]]);
                self.pack_codes(codes, column, lines);
            }
            Self::Q8_0 => {
                head[column] = f16::from_le_bytes([block[0], block[1]]);
                self.pack_codes(block[2..].iter().map(|q| q ^ 0x80), column, lines);
            }
            Self::Q4K => self.pack_affine(affine::unpack::<4>(block), column, head, lines),
            Self::Q5K => self.pack_affine(affine::unpack::<5>(block), column, head, lines),
            Self::Q6K => {
                let block = symmetric::unpack(block);
                let (d, small) = head.split_at_mut(PANEL);
                d[column] = block.d;
                scatter(block.scales, column, bytemuck::cast_slice_mut(small));
                self.pack_codes(block.codes.into_iter().flatten(), column, lines);
            }
        }
    }

    fn pack_affine(
        self,
        block: affine::Block,
        column: usize,
        head: &mut [f16],
        lines: &mut [Line],
    ) {
        let (halves, small) = head.split_at_mut(2 * PANEL);
        (halves[column], halves[PANEL + column]) = (block.d, block.dmin);
        let numbers = block.scales.into_iter().chain(block.offsets);
        scatter(
            numbers.map(u8::cast_signed),
            column,
            bytemuck::cast_slice_mut(small),
        );
        self.pack_codes(block.codes.into_iter().flatten(), column, lines);
    }

    /// Writes the codes of whole blocks to a column.
    fn pack_codes(self, codes: impl Iterator<Item = u8>, column: usize, lines: &mut [Line]) {
        let mut codes = codes;
        for lines in lines.chunks_exact_mut(self.bits()) {
            let quads: [u32; QUADS] = std::array::from_fn(|_| {
                u32::from_le_bytes(std::array::from_fn(|_| codes.next().unwrap_or(0)))
            });
            for (index, line) in lines.iter_mut().enumerate() {
                line.0[column] = f32::from_bits(self.word(&quads, index));
            }
        }
    }

    /// Returns what a line holds of the codes of a column.
    fn word(self, quads: &[u32; QUADS], line: usize) -> u32 {
        let high = |quad: usize, mask: u32, shift: usize| (quads[quad] >> 4 & mask) << shift;
        match (self, line) {
            (Self::Q8_0, _) => quads[line],
            (_, 0..4) => quads[line] & LOW | (quads[line + HALF] & LOW) << 4,
            (Self::Q6K, _) => (0..HALF)
                .map(|i| high(i + (line - HALF) * HALF, PAIRS, pair_at(i)))
                .fold(0, |word, bits| word | bits),
            _ => (0..QUADS)
                .map(|i| high(i, BITS, bit_at(i)))
                .fold(0, |word, bits| word | bits),
        }
    }

    /// Returns four codes of a column of a block.
    pub(super) fn quad(self, lines: &[Line], quad: usize, column: usize) -> [u8; 4] {
        let word = |line: usize| lines[line].0[column].to_bits();
        if self == Self::Q8_0 {
            return word(quad).to_le_bytes();
        }
        let low = word(quad % HALF) >> (quad / HALF * 4) & LOW;
        let high = match self {
            Self::Q5K => word(HALF) >> bit_at(quad) & BITS,
            Self::Q6K => word(HALF + quad / HALF) >> pair_at(quad % HALF) & PAIRS,
            _ => 0,
        };
        (low | high << 4).to_le_bytes()
    }

    /// Returns what a code of a column is multiplied by, and what is subtracted then, in the four of a span.
    pub(super) fn scale_and_offset(self, head: &[f16], quad: usize, column: usize) -> (f32, f32) {
        let half = |index: usize| head[index * PANEL + column].to_f32();
        let small = |first: usize, index: usize| {
            let small: &[i8] = bytemuck::cast_slice(&head[first * PANEL..]);
            f32::from(small[index * PANEL + column])
        };
        match self {
            Self::Q4_0 | Self::Q8_0 => (half(0), 0.0),
            Self::Q4K | Self::Q5K => {
                let sub = quad / QUADS;
                (half(0) * small(2, sub), half(1) * small(2, 8 + sub))
            }
            Self::Q6K => (half(0) * small(1, quad / HALF), 0.0),
        }
    }
}

/// The low halves of four bytes.
const LOW: u32 = 0x0f0f_0f0f;
/// A bit of each of four bytes.
const BITS: u32 = 0x0101_0101;
/// Two bits of each of four bytes.
const PAIRS: u32 = 0x0303_0303;

/// Returns where the fifth bits of a four lie in a byte: from 4 on for the first half of a block, then from 0.
#[inline(always)]
pub(super) fn bit_at(quad: usize) -> usize {
    (HIGH + quad) % 8
}

/// Returns where the two high bits of a four of half a block lie in a byte: at 4, 6, 0 and 2.
#[inline(always)]
pub(super) fn pair_at(quad: usize) -> usize {
    (HIGH + 2 * quad) % 8
}

/// Writes the small numbers of a column.
fn scatter(numbers: impl IntoIterator<Item = i8>, column: usize, to: &mut [i8]) {
    let to = to[column..].iter_mut().step_by(PANEL);
    to.zip(numbers).for_each(|(to, number)| *to = number);
}
