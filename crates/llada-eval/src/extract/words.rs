//! Words: conclusions, letters of choices, literals of assertions.

use std::sync::LazyLock;

use regex::Regex;

static CONCLUSION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)\banswer(?: is|:)\s*:?\s*").expect("a constant pattern"));
static LETTER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i:\b(?:answer|option|choice)\b(?: is|:)?)[\s:*(\[$]*([A-J])\b|(?:^|\n)[\s*(\[]*([A-J])(?:[\s).:\]*]|$)|\\boxed\{\(?([A-J])\)?\}")
        .expect("a constant pattern")
});

/// Returns what follows the last "answer is" or "answer:" in its line, or else the last line, without
/// marks and the final full stop.
pub fn conclusion(answer: &str) -> String {
    let after = CONCLUSION
        .find_iter(answer)
        .last()
        .map(|found| &answer[found.end()..]);
    let line = after.and_then(|after| after.lines().find(|line| !line.trim().is_empty()));
    let last = || answer.lines().rfind(|line| !line.trim().is_empty());
    let line = line.or_else(last).unwrap_or_default().trim();
    let line = line.trim_matches(|c| "*\"`".contains(c));
    let line = line.strip_suffix('.').unwrap_or(line);
    line.trim_matches(|c| "*\"`".contains(c)).trim().to_owned()
}

/// Returns the first word without punctuation around.
pub fn first_word(answer: &str) -> String {
    let word = answer.split_whitespace().next().unwrap_or_default();
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned()
}

/// Returns the letter of a choice: said to be the answer, or at the start of a line.
pub fn choice_letter(answer: &str) -> Option<char> {
    let found = LETTER.captures_iter(answer).last()?;
    let letter = found.iter().skip(1).flatten().next()?;
    letter.as_str().chars().next()
}

/// Returns the literal after `==` of the last assertion, or else the conclusion.
pub fn assertion(answer: &str) -> String {
    let answer = answer.rsplit("[ANSWER]").next().unwrap_or(answer);
    let answer = answer.split("[/ANSWER]").next().unwrap_or(answer);
    let lines = answer.lines().map(|line| line.trim().trim_matches('`'));
    let mut asserted = lines
        .filter(|line| line.starts_with("assert "))
        .filter_map(|line| line.split_once(") =="));
    match asserted.next_back() {
        Some((_, literal)) => literal.trim().to_owned(),
        None => {
            let line = conclusion(answer);
            line.split_once("==")
                .map_or(line.clone(), |(_, literal)| literal.trim().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conclusion_is_what_the_answer_is() {
        for (answer, expected) in [
            ("Let's see. So the answer is (B).", "(B)"),
            ("The answer is **True**.", "True"),
            ("Answer: no", "no"),
            ("Long text\nvalid\n", "valid"),
            ("the answer is 3. Wait, the answer is 4.", "4"),
            ("The answer is:\n\n] ] >", "] ] >"),
        ] {
            assert_eq!(conclusion(answer), expected, "{answer}");
        }
    }

    #[test]
    fn letters_of_choices_are_found_in_many_shapes() {
        for (answer, expected) in [
            ("B", Some('B')),
            ("(C)", Some('C')),
            ("D. because", Some('D')),
            ("The correct answer is B.", Some('B')),
            ("The answer is (A)", Some('A')),
            ("**Answer: C**", Some('C')),
            (r"so \boxed{D}", Some('D')),
            ("The best option is\n\nB) water", Some('B')),
            ("none of them", None),
        ] {
            assert_eq!(choice_letter(answer), expected, "{answer}");
        }
    }

    #[test]
    fn the_literal_of_an_assertion_may_hold_anything() {
        assert_eq!(
            assertion("[ANSWER]\nassert f([1]) == [1, 2]\n[/ANSWER]"),
            "[1, 2]"
        );
        assert_eq!(assertion("assert f('a==b') == 'x'"), "'x'");
        assert_eq!(
            assertion("The output is as follows. Answer: 'abc'"),
            "'abc'"
        );
        assert_eq!(assertion("[ANSWER] 5 [/ANSWER]"), "5");
    }
}
