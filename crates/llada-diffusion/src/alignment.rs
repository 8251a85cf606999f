//! Label alignment: which row's output decides which position.
//!
//! An autoregressive parent predicts token i from row i - 1. The published block-diffusion models
//! predict token i from row i itself, the row that holds MASK: labels are on the `same` row. A
//! conversion may keep the parent's habit instead and stay `shifted`; it then starts out *being* the
//! parent at block size 1 and has less to relearn. The choice is a property of a checkpoint.
//!
//! Shifted, the row that predicts a masked position i of block k is
//!
//! ```text
//! i is not the first of its block   the noisy row i - 1, whatever it holds
//! i is the first of its block       the clean row i - 1: the last of block k - 1, which sees
//!                                   blocks up to k - 1 only, so it does not know the answer
//! i = 0                             none: nothing comes before it, it is never predicted
//! ```

use crate::BlockSize;
use crate::names::names;

/// Which row predicts a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LabelAlignment {
    /// Row i predicts token i.
    #[default]
    Same,
    /// Row i - 1 predicts token i, as in the autoregressive parent.
    Shifted,
}

names!(LabelAlignment, "label alignment", { Same => "same", Shifted => "shifted" });

/// The row that predicts a position: its half of the batch, and its own position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predictor {
    /// A row of the noisy block that is being denoised.
    Noisy(usize),
    /// The last row of the finished block before it.
    Clean(usize),
}

impl LabelAlignment {
    /// Returns the row that predicts `position`, or `None` for position 0 of shifted labels.
    pub fn predictor(self, position: usize, block_size: BlockSize) -> Option<Predictor> {
        match self {
            Self::Same => Some(Predictor::Noisy(position)),
            Self::Shifted if block_size.starts_at(position) => {
                position.checked_sub(1).map(Predictor::Clean)
            }
            Self::Shifted => Some(Predictor::Noisy(position - 1)),
        }
    }

    /// Takes the positions that no row predicts out of the supervised ones.
    ///
    /// Do this before drawing noise and counting denominators: position 0 of shifted labels is then
    /// never masked (it is the start token, given in decoding too) and never in a denominator.
    pub fn restrict(self, supervised: &mut [bool]) {
        if let (Self::Shifted, Some(first)) = (self, supervised.first_mut()) {
            *first = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_words_of_a_checkpoint() {
        for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
            assert_eq!(alignment.to_string().parse(), Ok(alignment));
        }
        let error = "left".parse::<LabelAlignment>().unwrap_err();
        let expected = "unknown label alignment `left`; expected one of `same`, `shifted`";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn same_labels_are_predicted_in_place() {
        for i in 0..8 {
            let predictor = LabelAlignment::Same.predictor(i, BlockSize::new(3).unwrap());
            assert_eq!(predictor, Some(Predictor::Noisy(i)));
        }
    }

    #[test]
    fn shifted_labels_come_from_the_block_before_at_a_block_start() {
        use Predictor::{Clean, Noisy};
        let size = BlockSize::new(3).unwrap();
        let rows = (0..7).map(|i| LabelAlignment::Shifted.predictor(i, size));
        let expected = [
            None,
            Some(Noisy(0)),
            Some(Noisy(1)),
            Some(Clean(2)),
            Some(Noisy(3)),
            Some(Noisy(4)),
            Some(Clean(5)),
        ];
        assert!(rows.eq(expected));
    }

    #[test]
    fn only_shifted_labels_lose_position_zero() {
        let mut supervised = [true, true, false];
        LabelAlignment::Same.restrict(&mut supervised);
        assert_eq!(supervised, [true, true, false]);
        LabelAlignment::Shifted.restrict(&mut supervised);
        assert_eq!(supervised, [false, true, false]);
        LabelAlignment::Shifted.restrict(&mut []);
    }
}
