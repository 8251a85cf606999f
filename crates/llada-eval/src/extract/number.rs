//! The final number of an answer.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::boxed;

/// Numbers as people write them: signs, thousands, fractions and mixed numbers, exponents.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    let digits = r"(?:\d{1,3}(?:,\d{3})+\b(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)";
    let latex = r"\\[dt]?frac\s*\{\s*(?P<top>-?\d+)\s*\}\s*\{\s*(?P<bottom>\d+)\s*\}";
    let mixed = r"(?P<whole>\d+)\s+(?P<part>\d+)\s*/\s*(?P<of>\d+)";
    let plain =
        format!(r"(?P<num>{digits})(?:e(?P<exp>[-+]?\d+))?(?:\s*/\s*(?P<den>\d+(?:\.\d+)?))?");
    let sign = r"(?P<sign>[-−+]?)\s?\\?[$€£]?\s?";
    Regex::new(&format!("{sign}(?:{latex}|{mixed}|{plain})")).expect("constant patterns")
});
static MARK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)####|\banswer\b[^\n.\d]{0,40}?(?:\bis\b|:|=)").expect("a constant pattern")
});

/// A number with the text it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    /// As written.
    pub text: String,
    /// Its value.
    pub value: f64,
}

impl Number {
    /// Returns whether two numbers are the same up to rounding in the tenth digit.
    pub fn same(&self, other: &Self) -> bool {
        let scale = self.value.abs().max(other.value.abs()).max(1.0);
        (self.value - other.value).abs() <= 1e-9 * scale
    }
}

/// Returns the number that an answer ends in: of the last `\boxed{}`, after the last `####` or "the
/// answer is", or else the last of all. Units, currencies and percent signs do not matter.
pub fn number(answer: &str) -> Option<Number> {
    let answer = answer
        .replace("{,}", ",")
        .replace(r"\,", "")
        .replace(r"\!", "");
    let from_box = boxed(&answer).and_then(|text| numbers(&text).pop());
    let marked = || {
        let after = MARK
            .find_iter(&answer)
            .last()
            .map(|found| &answer[found.end()..])?;
        concluded(after)
    };
    from_box.or_else(marked).or_else(|| numbers(&answer).pop())
}

/// Returns the number of a conclusion: its first, or the first after the last `=` of its sentence.
fn concluded(after: &str) -> Option<Number> {
    let line = after.trim_start().lines().next()?;
    let sentence = line.split(". ").next()?;
    let result = sentence.rsplit('=').next()?;
    numbers(result)
        .into_iter()
        .next()
        .or_else(|| numbers(line).into_iter().next())
}

fn numbers(text: &str) -> Vec<Number> {
    NUMBER
        .captures_iter(text)
        .filter_map(|found| read(text, &found))
        .collect()
}

fn read(text: &str, found: &Captures<'_>) -> Option<Number> {
    let whole = found.get(0)?;
    let part = |name: &str| {
        found
            .name(name)
            .and_then(|part| part.as_str().replace(',', "").parse::<f64>().ok())
    };
    let before = text[..whole.start()].chars().next_back();
    // `5-3` subtracts and `10-12` is a range: only a sign that follows no operand is one.
    let is_operator = before.is_some_and(|c| c.is_alphanumeric() || c == ')');
    let is_negative = matches!(&found["sign"], "-" | "−") && !is_operator;
    let size = if let (Some(top), Some(bottom)) = (part("top"), part("bottom")) {
        top / bottom
    } else if let (Some(whole), Some(part), Some(of)) = (part("whole"), part("part"), part("of")) {
        whole + part / of
    } else {
        part("num")? * 10f64.powf(part("exp").unwrap_or(0.0)) / part("den").unwrap_or(1.0)
    };
    let value = if is_negative { -size } else { size };
    value.is_finite().then(|| Number {
        text: whole.as_str().trim().to_owned(),
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_number_is_found_in_many_shapes() {
        let cases = [
            ("She makes 9 * 2 = $<<9*2=18>>18 a day.\n#### 18", 18.0),
            ("#### 1,234", 1234.0),
            ("#### -5", -5.0),
            ("The answer is 18.", 18.0),
            ("The answer is **18** dollars, not 20.", 18.0),
            ("So the final answer is: $2,125.50 in total", 2125.5),
            ("Answer: 3 * 6 = 18 eggs", 18.0),
            ("the answer is 12. There were 5 of them at first.", 12.0),
            (r"Thus \boxed{42}. Check: 40 + 2.", 42.0),
            (r"\boxed{\$1{,}000}", 1000.0),
            (r"\boxed{\frac{3}{4}}", 0.75),
            (r"\boxed{-\frac{1}{2}}", -0.5),
            (r"we get $\boxed{25\%}$", 25.0),
            ("It takes 1 1/2 hours", 1.5),
            ("It is 3/4", 0.75),
            ("about 1.5e3 units", 1500.0),
            ("First 5, then 7 apples", 7.0),
            ("The range is 10-12", 12.0),
            ("it was −7 degrees", -7.0),
            ("20%", 20.0),
            (".5 litres", 0.5),
            ("\\text{Total} = 18\\text{ km}", 18.0),
            ("He has 1,2 and 3", 3.0),
            ("x = -3", -3.0),
            ("The answer is\n\n72", 72.0),
        ];
        for (answer, expected) in cases {
            let found = number(answer).unwrap_or_else(|| panic!("no number in {answer:?}"));
            assert!(
                (found.value - expected).abs() < 1e-9,
                "{answer:?}: {found:?}"
            );
        }
    }

    #[test]
    fn an_answer_without_digits_has_no_number() {
        assert_eq!(number("I do not know."), None);
        assert_eq!(number("1/0"), None);
    }

    #[test]
    fn near_numbers_are_not_the_same() {
        let number = |text: &str| number(text).unwrap();
        assert!(number("0.5").same(&number("1/2")));
        assert!(!number("18").same(&number("18.001")));
        assert!(!number("1000000").same(&number("1000001")));
    }
}
