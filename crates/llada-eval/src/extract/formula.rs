//! Formulas: what is boxed, and when two are the same.

use std::sync::LazyLock;

use regex::Regex;

use super::conclusion;

/// Pairs of a pattern and what replaces it, in this order.
static REWRITES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        (
            r"\\(?:left|right|displaystyle|,|!|;|:|quad|qquad)(?:\b|\s|$)?",
            "",
        ),
        (
            r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{([^{}]*)\}",
            "$1",
        ),
        (r"\\[dt]frac", r"\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\frac{${1}}{${2}}"),
        (r"\\sqrt\s*(\d)", r"\sqrt{$1}"),
        (r"\^\s*\{?\\circ\}?|°", ""),
        (r"\\?[%$]", ""),
        (r"\\(?:cdot|times)", "*"),
        (r"\\(?:leq|le)\b", "<="),
        (r"\\(?:geq|ge)\b", ">="),
        (r"\{,\}", ","),
        (r"(\d),(\d{3})\b", "${1}${2}"),
        (r"(\d),(\d{3})", "${1}${2}"), // matches do not overlap: millions need a second pass
        (r"\s+", ""),
        (r"\\frac\{(-?\d+)\}\{(\d+)\}", "$1/$2"),
        (r"\^\{(\w)\}", "^$1"),
        (r"^[a-zA-Z]\\?(?:=|\\in)", ""),
        (r"(?:degrees?|units?|cm|km|dollars|square\w*)(?:\^\d)?$", ""),
        (r"\.$", ""),
    ];
    let compile = |(pattern, by)| (Regex::new(pattern).expect("a constant pattern"), by);
    rules.into_iter().map(compile).collect()
});

/// Returns the content of the last `\boxed{}` or `\fbox{}`, braces nested as they may be.
pub fn boxed(answer: &str) -> Option<String> {
    let marks = [r"\boxed", r"\fbox"].into_iter();
    let (start, mark) = marks
        .filter_map(|mark| Some((answer.rfind(mark)?, mark)))
        .max()?;
    let rest = answer[start + mark.len()..].trim_start();
    let Some(inner) = rest.strip_prefix('{') else {
        return rest.split([' ', '$', '\n']).next().map(str::to_owned); // `\boxed 5`
    };
    let mut depth = 1;
    for (at, c) in inner.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Some(inner[..at].trim().to_owned());
        }
    }
    None // cut off inside
}

/// Returns the formula that an answer ends in: the last box, or else the conclusion.
pub fn formula(answer: &str) -> String {
    boxed(answer).unwrap_or_else(|| {
        let line = conclusion(answer);
        let between = line
            .rsplit('$')
            .nth(1)
            .filter(|formula| !formula.trim().is_empty());
        between.unwrap_or(&line).trim().to_owned()
    })
}

/// Returns whether two formulas are the same in their normal form, or have the same value.
///
/// There is no algebra: `x+1` and `1+x` differ, as in the published scripts.
pub fn same_formula(left: &str, right: &str) -> bool {
    let (left, right) = (normal(left), normal(right));
    match (value(&left), value(&right)) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
        _ => !left.is_empty() && left == right,
    }
}

fn normal(formula: &str) -> String {
    let mut text = formula.trim().to_owned();
    for (pattern, by) in REWRITES.iter() {
        // Replacements name groups as `$1`; thousands need a second pass.
        let by = by
            .replace("$1$2", "${1}${2}")
            .replace("{$1}{$2}", "{${1}}{${2}}");
        text = pattern.replace_all(&text, by.as_str()).into_owned();
    }
    text
}

/// Returns the value of a number or a fraction of numbers.
fn value(text: &str) -> Option<f64> {
    let (top, bottom) = text.split_once('/').unwrap_or((text, "1"));
    let value = top.parse::<f64>().ok()? / bottom.parse::<f64>().ok()?;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_box_counts_with_its_nested_braces() {
        assert_eq!(
            boxed(r"\boxed{1} so \boxed{\frac{a}{b^{2}}}.").as_deref(),
            Some(r"\frac{a}{b^{2}}")
        );
        assert_eq!(boxed(r"it is \fbox{7}").as_deref(), Some("7"));
        assert_eq!(boxed(r"$\boxed 5$").as_deref(), Some("5"));
        assert_eq!(boxed(r"\boxed{\text{(A)}}").as_deref(), Some(r"\text{(A)}"));
        assert_eq!(boxed(r"\boxed{\frac{1}{2"), None);
        assert_eq!(boxed("no box"), None);
    }

    #[test]
    fn without_a_box_the_conclusion_counts() {
        assert_eq!(formula("We see.\nThe answer is $x^2$."), "x^2");
        assert_eq!(formula("We see.\nThe answer is 5."), "5");
    }

    #[test]
    fn ways_of_writing_the_same_are_the_same() {
        for (left, right) in [
            (r"\frac{1}{2}", r"\dfrac12"),
            (r"\frac{1}{2}", "0.5"),
            ("1/2", ".5"),
            (r"90^\circ", "90"),
            (r"90^{\circ}", "90 degrees"),
            (r"50\%", "50"),
            (r"\$1,000,000", "1000000"),
            (r"10{,}000", "10000"),
            (r"\left(1, 2\right)", "(1,2)"),
            (r"\sqrt3", r"\sqrt{3}"),
            (r"x = 5", "5"),
            (r"\text{Monday}", "Monday"),
            (r"5\text{ cm}", "5"),
            (r"x^{2}", "x^2"),
            (r"\tfrac{3}{4}", "3/4"),
        ] {
            assert!(
                same_formula(left, right),
                "{left} {right}: {} {}",
                normal(left),
                normal(right)
            );
        }
    }

    #[test]
    fn different_formulas_are_different() {
        for (left, right) in [
            ("x+1", "1+x"),
            ("5", "6"),
            ("(1,2)", "(2,1)"),
            ("", ""),
            (r"\pi", "3.14"),
        ] {
            assert!(!same_formula(left, right), "{left} {right}");
        }
    }
}
