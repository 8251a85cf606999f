//! Sudoku of 4x4 or 9x9: given digits are kept, and rows, columns and boxes hold each digit once.

use std::collections::BTreeSet;

use crate::data::{Item, plain};

/// A puzzle, its cells row by row.
pub(super) struct Puzzle {
    /// `None` is a blank.
    cells: Vec<Option<u32>>,
    /// Length of a row.
    side: usize,
}

impl Puzzle {
    pub(super) fn of(item: &Item) -> Result<Self, String> {
        let text = plain(item.fields.get("puzzle")).ok_or("expected a text in `puzzle`")?;
        let cells: Vec<char> = text
            .chars()
            .filter(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        let side = match cells.len() {
            16 => 4,
            81 => 9,
            found => {
                return Err(format!(
                    "expected 16 or 81 cells in `puzzle`, found {found}"
                ));
            }
        };
        let cells = cells
            .into_iter()
            .map(|c| c.to_digit(10).filter(|&digit| digit != 0));
        Ok(Self {
            cells: cells.collect(),
            side,
        })
    }

    /// Returns the last grid of an answer: as many digits as there are cells, whatever lies between.
    pub(super) fn grid(&self, answer: &str) -> String {
        let digits: Vec<char> = answer.chars().filter(char::is_ascii_digit).collect();
        digits[digits.len().saturating_sub(self.cells.len())..]
            .iter()
            .collect()
    }

    pub(super) fn is_solved_by(&self, grid: &str) -> bool {
        let grid: Vec<u32> = grid.chars().filter_map(|c| c.to_digit(10)).collect();
        let keeps_given = self
            .cells
            .iter()
            .zip(&grid)
            .all(|(given, digit)| given.is_none_or(|given| given == *digit));
        grid.len() == self.cells.len()
            && keeps_given
            && (0..self.side).all(|unit| self.is_full(&grid, unit))
    }

    /// Whether row, column and box number `unit` each hold every digit.
    fn is_full(&self, grid: &[u32], unit: usize) -> bool {
        let (side, width) = (self.side, self.side.isqrt());
        let corner = unit / width * width * side + unit % width * width;
        let holds_all = |cell: &dyn Fn(usize) -> usize| {
            let digits: BTreeSet<u32> = (0..side).map(|place| grid[cell(place)]).collect();
            digits.into_iter().eq(1..=side as u32)
        };
        holds_all(&|place| unit * side + place)
            && holds_all(&|place| place * side + unit)
            && holds_all(&|place| corner + place / width * side + place % width)
    }
}
