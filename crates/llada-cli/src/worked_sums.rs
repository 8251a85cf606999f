//! Worked sums: additions and subtractions written out column by column with their carries.
//!
//! A task whose quality is a number. One problem of two three-digit operands:
//! ```text
//! prompt    527+368=
//! response  7+8+0=15,2+6+1=09,5+3+0=08;895
//! ```
//! Columns come least significant first; each is `digit op digit op carry = carry' digit'`. In a
//! subtraction the carry is the borrow. The answer after `;` has no leading zeros.

use std::collections::HashSet;

use llada_diffusion::{Rng, Stream};

/// Fewest and most digits of an operand.
const DIGITS: std::ops::RangeInclusive<u32> = 2..=5;

/// One problem, `left >= right` when it is a subtraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sum {
    left: u32,
    right: u32,
    subtract: bool,
}

/// Seed and number of the problems that the shipped models were trained on.
const TRAINED_ON: (u64, u64) = (1, 300_000);

/// Returns the problems of a stream that the shipped models have never seen, each once.
pub(crate) fn unseen(seed: u64) -> impl Iterator<Item = Sum> {
    let (trained, count) = TRAINED_ON;
    let mut seen: HashSet<Sum> = (0..count).map(|index| Sum::draw(trained, index)).collect();
    (0..)
        .map(move |index| Sum::draw(seed, index))
        .filter(move |sum| seen.insert(*sum))
}

impl Sum {
    /// Draws problem `index` of the stream that `seed` names: operands of equally many digits.
    pub(crate) fn draw(seed: u64, index: u64) -> Self {
        let [kind, size, left, right] = Rng::new(seed, Stream::Data).at(0, index, 0);
        let digits = DIGITS.start() + size % (DIGITS.end() - DIGITS.start() + 1);
        let smallest = 10u32.pow(digits - 1);
        let operand = |word: u32| smallest + word % (9 * smallest);
        let (left, right) = (operand(left), operand(right));
        let subtract = kind % 2 == 1;
        if subtract && left < right {
            Self {
                left: right,
                right: left,
                subtract,
            }
        } else {
            Self {
                left,
                right,
                subtract,
            }
        }
    }

    /// The question, ending in `=`.
    pub(crate) fn prompt(&self) -> String {
        format!("{}{}{}=", self.left, self.operator(), self.right)
    }

    /// The worked columns and the answer.
    pub(crate) fn response(&self) -> String {
        let (mut left, mut right, mut carry) = (self.left, self.right, 0);
        let mut columns = Vec::new();
        while left > 0 || right > 0 {
            let (a, b, op) = (left % 10, right % 10, self.operator());
            let (next_carry, digit) = if self.subtract {
                let difference = 10 + a - b - carry;
                (1 - difference / 10, difference % 10)
            } else {
                ((a + b + carry) / 10, (a + b + carry) % 10)
            };
            columns.push(format!("{a}{op}{b}{op}{carry}={next_carry}{digit}"));
            (left, right, carry) = (left / 10, right / 10, next_carry);
        }
        format!("{};{}", columns.join(","), self.answer())
    }

    /// Whether a generated text is exactly the response.
    pub(crate) fn is_solved_by(&self, text: &str) -> bool {
        text.trim() == self.response()
    }

    /// The response with one digit replaced by another, which `seed` and `index` choose.
    pub(crate) fn wrong_response(&self, seed: u64, index: u64) -> String {
        let right = self.response();
        let digits: Vec<usize> = right
            .char_indices()
            .filter_map(|(at, c)| c.is_ascii_digit().then_some(at))
            .collect();
        let [place, change, ..] = Rng::new(seed, Stream::Data).at(1, index, 0); // epoch 0 draws the sum
        let at = digits[place as usize % digits.len()];
        let mut bytes = right.into_bytes();
        bytes[at] = b'0' + (bytes[at] - b'0' + 1 + (change % 9) as u8) % 10;
        bytes.into_iter().map(char::from).collect()
    }

    fn operator(&self) -> char {
        if self.subtract { '-' } else { '+' }
    }

    fn answer(&self) -> u32 {
        if self.subtract {
            self.left - self.right
        } else {
            self.left + self.right
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_addition_is_written_out_with_its_carries() {
        let sum = Sum {
            left: 527,
            right: 368,
            subtract: false,
        };
        assert_eq!(sum.prompt(), "527+368=");
        assert_eq!(sum.response(), "7+8+0=15,2+6+1=09,5+3+0=08;895");
    }

    #[test]
    fn a_subtraction_is_written_out_with_its_borrows() {
        let sum = Sum {
            left: 502,
            right: 487,
            subtract: true,
        };
        assert_eq!(sum.response(), "2-7-0=15,0-8-1=11,5-4-1=00;15");
    }

    #[test]
    fn a_carry_out_of_the_last_column_shows_in_the_answer() {
        let sum = Sum {
            left: 99,
            right: 10,
            subtract: false,
        };
        assert_eq!(sum.response(), "9+0+0=09,9+1+0=10;109");
    }

    #[test]
    fn a_wrong_response_differs_in_one_digit() {
        for index in 0..2000 {
            let sum = Sum::draw(7, index);
            let (right, wrong) = (sum.response(), sum.wrong_response(7, index));
            let differing: Vec<_> = right
                .chars()
                .zip(wrong.chars())
                .filter(|(a, b)| a != b)
                .collect();
            assert_eq!(right.len(), wrong.len());
            assert!(matches!(differing[..], [(a, b)] if a.is_ascii_digit() && b.is_ascii_digit()));
        }
    }

    #[test]
    fn unseen_problems_are_new_and_distinct() {
        let trained: HashSet<Sum> = (0..300_000).map(|index| Sum::draw(1, index)).collect();
        let unseen: Vec<Sum> = unseen(2).take(500).collect();
        assert!(unseen.iter().all(|sum| !trained.contains(sum)));
        assert_eq!(unseen.iter().collect::<HashSet<_>>().len(), 500);
    }

    #[test]
    fn problems_depend_on_seed_and_index_only_and_never_go_negative() {
        for index in 0..2000 {
            let sum = Sum::draw(7, index);
            assert_eq!(sum, Sum::draw(7, index));
            assert!(!sum.subtract || sum.left >= sum.right);
            assert!(sum.is_solved_by(&sum.response()));
        }
        assert_ne!(Sum::draw(7, 0), Sum::draw(8, 0));
    }
}
