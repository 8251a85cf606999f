//! Countdown: an expression over given numbers, each used once, that makes a target.
//!
//! Values are exact fractions, so that no rounding decides.

use std::sync::LazyLock;

use regex::Regex;

use crate::data::Item;
use crate::extract::boxed;

/// A stretch that could be an expression.
static EXPRESSION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\d(][\d\s+*/()-]*").expect("a constant pattern"));
/// Deepest nesting that is read.
const MAX_DEPTH: usize = 64;

/// Returns the expression of an answer: boxed, or else the last stretch with an operator, without
/// what follows `=`.
pub(super) fn expression(answer: &str) -> String {
    let text = boxed(answer).unwrap_or_else(|| answer.to_owned());
    let text = text
        .replace(r"\times", "*")
        .replace(r"\cdot", "*")
        .replace(r"\div", "/");
    let text = text
        .replace(['×', '·'], "*")
        .replace('÷', "/")
        .replace('−', "-");
    let candidates = EXPRESSION
        .find_iter(&text)
        .map(|found| found.as_str().trim());
    let last = candidates
        .filter(|text| text.contains(['+', '-', '*', '/']))
        .last();
    last.unwrap_or_default().to_owned()
}

/// Returns whether the expression uses each number of the item once and makes its target.
pub(super) fn solves(item: &Item, expression: &str) -> Result<bool, String> {
    let numbers = item.fields.get("nums").and_then(|nums| {
        nums.as_array()?
            .iter()
            .map(|num| num.as_i64().map(i128::from))
            .collect::<Option<Vec<_>>>()
    });
    let mut numbers = numbers.ok_or("expected a list of whole numbers in `nums`")?;
    let target = item
        .fields
        .get("target")
        .and_then(serde_json::Value::as_i64);
    let target = target.ok_or("expected a whole number in `target`")?;
    let mut parser = Parser {
        text: expression.as_bytes(),
        at: 0,
        used: Vec::new(),
    };
    let value = parser.sum(0).filter(|_| parser.rest_is_blank());
    parser.used.sort_unstable();
    numbers.sort_unstable();
    Ok(parser.used == numbers
        && value
            == Some(Fraction {
                top: i128::from(target),
                bottom: 1,
            }))
}

/// A fraction in lowest terms with a positive denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fraction {
    top: i128,
    bottom: i128,
}

impl Fraction {
    fn new(top: i128, bottom: i128) -> Option<Self> {
        let mut divisor = (top.checked_abs()?, bottom.checked_abs()?);
        while divisor.1 != 0 {
            divisor = (divisor.1, divisor.0 % divisor.1);
        }
        let sign = bottom.signum();
        (bottom != 0).then(|| Self {
            top: sign * top / divisor.0,
            bottom: sign * bottom / divisor.0,
        })
    }

    fn apply(self, operator: u8, other: Self) -> Option<Self> {
        let product = |a: i128, b: i128| a.checked_mul(b);
        let (left, right) = (
            product(self.top, other.bottom)?,
            product(other.top, self.bottom)?,
        );
        match operator {
            b'+' => Self::new(
                left.checked_add(right)?,
                product(self.bottom, other.bottom)?,
            ),
            b'-' => Self::new(
                left.checked_sub(right)?,
                product(self.bottom, other.bottom)?,
            ),
            b'*' => Self::new(
                product(self.top, other.top)?,
                product(self.bottom, other.bottom)?,
            ),
            _ => Self::new(left, right),
        }
    }
}

/// Reads sums of products of numbers and parentheses; `None` for anything else and for 1/0.
struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    used: Vec<i128>,
}

impl Parser<'_> {
    fn sum(&mut self, depth: usize) -> Option<Fraction> {
        let mut value = self.product(depth)?;
        while let Some(operator) = self.take(b"+-") {
            value = value.apply(operator, self.product(depth)?)?;
        }
        Some(value)
    }

    fn product(&mut self, depth: usize) -> Option<Fraction> {
        let mut value = self.atom(depth)?;
        while let Some(operator) = self.take(b"*/") {
            value = value.apply(operator, self.atom(depth)?)?;
        }
        Some(value)
    }

    fn atom(&mut self, depth: usize) -> Option<Fraction> {
        if self.take(b"(").is_some() {
            let value = (depth < MAX_DEPTH).then(|| self.sum(depth + 1))??;
            return self.take(b")").map(|_| value);
        }
        self.skip_blanks();
        let digits = self.text[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let digits = std::str::from_utf8(&self.text[self.at..self.at + digits]).ok()?;
        let number: i128 = digits.parse().ok()?;
        self.at += digits.len();
        self.used.push(number);
        Fraction::new(number, 1)
    }

    fn take(&mut self, any: &[u8]) -> Option<u8> {
        self.skip_blanks();
        let byte = *self.text.get(self.at).filter(|byte| any.contains(byte))?;
        self.at += 1;
        Some(byte)
    }

    fn skip_blanks(&mut self) {
        self.at += self.text[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
    }

    fn rest_is_blank(&mut self) -> bool {
        self.skip_blanks();
        self.at == self.text.len()
    }
}
