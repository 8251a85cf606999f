//! A right operand of which runs of columns have codes of several kinds.

use std::io;

use super::layout::Codes;
use super::panels::CodePanels;
use crate::paging::PageFile;

/// A right operand [K, N] of codes: queries, keys and values may come from files that have them in different
/// types.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CodeMatrix {
    /// Side by side, at least one.
    parts: Vec<CodePanels>,
}

impl CodeMatrix {
    /// Packs the rows of a weight [N, K], run after run as they lie in a GGUF file.
    ///
    /// # Panics
    /// If there is none, K does not consist of whole blocks of the file, or the bytes are no whole rows.
    pub(crate) fn new(k: usize, runs: &[(Codes, &[u8])]) -> Self {
        assert!(!runs.is_empty(), "a matrix of codes has rows");
        let parts = runs.iter().map(|(codes, blocks)| {
            let row_bytes = k / codes.span() * codes.format().block_bytes();
            CodePanels::new(*codes, [blocks.len() / row_bytes.max(1), k], blocks)
        });
        Self {
            parts: parts.collect(),
        }
    }

    /// Returns the extents, [K, N].
    pub(crate) fn shape(&self) -> [usize; 2] {
        let [k, _] = self.parts[0].shape();
        [k, self.parts.iter().map(|part| part.shape()[1]).sum()]
    }

    /// Returns the runs of columns.
    pub(super) fn parts(&self) -> &[CodePanels] {
        &self.parts
    }

    /// Returns all columns, if they are in one run.
    pub(super) fn whole(&self) -> Option<&CodePanels> {
        match &self.parts[..] {
            [whole] => Some(whole),
            _ => None,
        }
    }

    /// Returns how the elements of the first run are written.
    pub(crate) fn codes(&self) -> Codes {
        self.parts[0].codes()
    }

    /// Writes column `index` as numbers.
    ///
    /// # Panics
    /// If there is no such column, or `to` has not K elements.
    pub(crate) fn column(&self, mut index: usize, to: &mut [f32]) {
        for part in &self.parts {
            let [_, n] = part.shape();
            match index.checked_sub(n) {
                Some(behind) => index = behind,
                None => return part.column(index, to),
            }
        }
        panic!("column {index} behind the last one");
    }

    /// Returns the bytes of memory that a product reads.
    pub(crate) fn num_bytes(&self) -> usize {
        self.parts.iter().map(CodePanels::num_bytes).sum()
    }

    /// Moves the codes to the end of a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn move_to(&mut self, file: &mut PageFile) -> io::Result<()> {
        self.parts
            .iter_mut()
            .try_for_each(|part| part.move_to(file))
    }
}
