//! The part of an answer that counts.
//!
//! Models wrap what is asked for in prose, fences, formulas and corrections. Each function takes a
//! whole answer, never fails, and returns what a careful reader would take for the answer: wrong
//! extraction is scored as a wrong answer, so it would measure this module instead of the model.

mod code;
mod formula;
mod number;
mod words;

pub use code::{Code, program};
pub use formula::{boxed, formula, same_formula};
pub use number::{Number, number};
pub use words::{assertion, choice_letter, conclusion, first_word};
