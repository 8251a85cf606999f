//! Python out of an answer.

use std::sync::LazyLock;

use regex::Regex;

/// Imports that answers use without saying so; published harnesses grant them as well.
const IMPORTS: &str = "\
import math, re, sys, copy, datetime, itertools, collections, heapq, statistics, functools, hashlib, string, bisect, operator, random, cmath
from typing import *
from collections import *
";

/// Names that a fence gives to Python.
const PYTHON: [&str; 5] = ["", "python", "py", "python3", "python 3"];

static DEFINITION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^(?:async )?def +([A-Za-z_]\w*)").expect("a constant pattern")
});
const ASSIGNMENT: &str =
    r"[\w.]+(?:\[.*\])?(?:\s*,\s*[\w.]+)*\s*(?::\s*[\w\[\], .]+)?(?:[-+*/%|&]|//|\*\*)?=(?:[^=]|$)";
/// Unindented lines that may stand above the first opening.
static CONSTANT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!("^(?:#|{ASSIGNMENT})")).expect("a constant pattern"));
/// Lines with which a program begins.
static OPENING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:async )?(?:def \w+\s*\(|class \w+\s*[:(]|import \w|from [\w.]+ import\b|@\w+)")
        .expect("a constant pattern")
});
/// Unindented lines with which a program may go on. Prose begins with words, too, so that every
/// form here needs what a sentence lacks.
static STATEMENT: LazyLock<Regex> = LazyLock::new(|| {
    let forms = [
        r"#",
        r"[)\]}]",
        r#"(?:[rbf]?["'])"#,
        r"(?:if|elif|for|while|with|try|else|except|finally)\b.*:\s*(?:#.*)?$",
        r"(?:assert|return|raise|del|global) ",
        r"pass$",
        ASSIGNMENT,
        r"[\w.]+\(",
    ];
    Regex::new(&format!("^(?:{})", forms.join("|"))).expect("constant patterns")
});
/// Where the continuation of a function ends in the text of a model that goes on.
static BEYOND: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^(?:def |class |async def |@\w|if __name__|print\(|#|assert |```|<\|)")
        .expect("a constant pattern")
});

/// What is known of the program that an answer should contain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Code<'a> {
    /// Function that tests will call.
    pub entry: Option<&'a str>,
    /// Beginning of the program, which the answer may continue instead of repeating.
    pub stem: Option<&'a str>,
}

/// Returns the program in an answer, ready for tests to be appended.
///
/// Of several fenced blocks the first that defines the entry counts: later ones show its use. An
/// answer without any definition continues the stem. A single function with another name than the
/// entry is made known under that name too.
pub fn program(answer: &str, known: Code<'_>) -> String {
    let answer = answer.replace("\r\n", "\n");
    let answer = between_markers(&answer);
    let code = match fenced(answer, known.entry) {
        Some(block) => block,
        None => unfenced(answer),
    };
    let stem = known.stem.unwrap_or_default();
    let whole = if is_program(&code) || stem.is_empty() {
        preamble(stem, known.entry) + &code + &alias(&code, known.entry)
    } else {
        format!("{}\n{}", stem.trim_end(), continuation(&code))
    };
    with_imports(&whole)
}

/// Returns what stands between the marks that MBPP's few-shot prompts use.
fn between_markers(answer: &str) -> &str {
    let answer = answer
        .split_once("[BEGIN]")
        .map_or(answer, |(_, after)| after);
    answer
        .split_once("[DONE]")
        .map_or(answer, |(before, _)| before)
}

/// Returns the fenced block that counts; a fence that is never closed goes on to the end.
fn fenced(answer: &str, entry: Option<&str>) -> Option<String> {
    let blocks = blocks(answer);
    let defines_entry = |code: &&String| entry.is_some_and(|entry| defines(code, entry));
    let chosen = blocks.iter().find(defines_entry);
    let chosen = chosen.or_else(|| blocks.iter().find(|code| DEFINITION.is_match(code)));
    chosen.or(blocks.first()).cloned()
}

fn blocks(answer: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, bool, String)> = None;
    for line in answer.lines() {
        let mark = ["```", "~~~"]
            .into_iter()
            .find(|mark| line.trim_start().starts_with(mark));
        match (&mut open, mark) {
            (None, Some(mark)) => {
                let info = line
                    .trim_start()
                    .trim_start_matches(['`', '~'])
                    .trim()
                    .to_lowercase();
                open = Some((mark, PYTHON.contains(&info.as_str()), String::new()));
            }
            (Some((opened, is_python, code)), Some(mark)) if *opened == mark => {
                blocks.extend(is_python.then(|| std::mem::take(code)));
                open = None;
            }
            (Some((_, _, code)), _) => *code += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks.extend(
        open.filter(|(_, is_python, _)| *is_python)
            .map(|(_, _, code)| code),
    );
    blocks.retain(|code| !code.trim().is_empty());
    blocks.into_iter().map(|code| dedented(&code)).collect()
}

/// Takes away what indents a program as a whole, as inside a list; bodies keep theirs.
fn dedented(code: &str) -> String {
    let Some(first) = code.lines().find(|line| !line.trim().is_empty()) else {
        return code.to_owned();
    };
    let indent = &first[..first.len() - first.trim_start().len()];
    if indent.is_empty() || !OPENING.is_match(first.trim_start()) {
        return code.to_owned();
    }
    let lines = code
        .lines()
        .map(|line| line.strip_prefix(indent).unwrap_or(line));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Returns the program inside prose, or the whole answer if it has no beginning of one.
fn unfenced(answer: &str) -> String {
    let lines: Vec<&str> = answer.lines().collect();
    let Some(start) = lines.iter().position(|line| OPENING.is_match(line)) else {
        return answer.to_owned();
    };
    // What is indented before it is the rest of the stem's function, and the opening is another's.
    if lines[..start]
        .iter()
        .any(|line| line.starts_with([' ', '\t']) && !line.trim().is_empty())
    {
        return answer.to_owned();
    }
    let is_above = |line: &&&str| line.trim().is_empty() || CONSTANT.is_match(line);
    let above = lines[..start].iter().rev().take_while(is_above).count();
    let mut quote = None;
    let mut code = String::new();
    for line in &lines[start - above..] {
        let is_code = quote.is_some()
            || line.trim().is_empty()
            || line.starts_with([' ', '\t'])
            || OPENING.is_match(line)
            || STATEMENT.is_match(line);
        if !is_code {
            break;
        }
        quote = after_line(quote, line);
        code += &format!("{line}\n");
    }
    code.trim_start_matches('\n').to_owned()
}

/// Returns the triple quote that is open after a line.
fn after_line(mut open: Option<&'static str>, line: &str) -> Option<&'static str> {
    let mut rest = line;
    loop {
        let next = match open {
            Some(mark) => rest.find(mark).map(|at| (at, mark)),
            None => ["\"\"\"", "'''"]
                .into_iter()
                .filter_map(|mark| Some((rest.find(mark)?, mark)))
                .min(),
        };
        let Some((at, mark)) = next else { return open };
        rest = &rest[at + mark.len()..];
        open = if open.is_some() { None } else { Some(mark) };
    }
}

/// Returns whether code stands alone: something is defined at its left margin, and no body precedes.
fn is_program(code: &str) -> bool {
    let mut indents = code
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(indent);
    let is_body = indents.next().is_some_and(|first| first > 0);
    // A body whose first line lost its indentation goes on less indented than that line's own block.
    let block = indents.next().unwrap_or(0);
    let is_stripped_body = indents.any(|indent| 0 < indent && indent < block);
    !is_body && !is_stripped_body && DEFINITION.is_match(code)
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn defines(code: &str, entry: &str) -> bool {
    DEFINITION
        .captures_iter(code)
        .any(|found| &found[1] == entry)
}

/// Returns what precedes the entry's definition in the stem: imports, and functions that it calls.
fn preamble(stem: &str, entry: Option<&str>) -> String {
    let found = DEFINITION
        .captures_iter(stem)
        .find(|found| Some(&found[1]) == entry);
    let end = found.map_or(0, |found| found.get(0).map_or(0, |whole| whole.start()));
    stem[..end].to_owned()
}

/// Returns a line that makes the only function known under the entry's name.
fn alias(code: &str, entry: Option<&str>) -> String {
    let names: Vec<String> = DEFINITION
        .captures_iter(code)
        .map(|found| found[1].into())
        .collect();
    match (entry, &names[..]) {
        (Some(entry), [name]) if name != entry => format!("\n{entry} = {name}\n"),
        _ => String::new(),
    }
}

/// Returns the body of the stem's function: up to where the model writes something else, and
/// indented, for decoding drops the blanks at the start of an answer.
fn continuation(answer: &str) -> String {
    let answer = answer.trim_start_matches('\n');
    let start = answer.find('\n').map_or(answer.len(), |at| at + 1);
    let beyond = BEYOND.find(&answer[start..]);
    let body = &answer[..beyond.map_or(answer.len(), |found| start + found.start())];
    let body = body.trim_end();
    let mut lines = body.lines().skip_while(|line| line.trim().is_empty());
    let first = lines.next().unwrap_or_default();
    let rest: Vec<&str> = lines.collect();
    let indent = if first.starts_with([' ', '\t']) {
        ""
    } else {
        "    "
    };
    // A body that lost its indentation as a whole gets it back as a whole.
    let is_flat = !indent.is_empty()
        && rest
            .iter()
            .any(|line| !line.is_empty() && !line.starts_with([' ', '\t']));
    let rest = rest
        .iter()
        .map(|line| format!("{}{line}\n", if is_flat { indent } else { "" }));
    format!("{indent}{first}\n{}", rest.collect::<String>())
}

/// Puts the granted imports first; `from __future__` must stay in front of them.
fn with_imports(code: &str) -> String {
    let is_future = |line: &&str| line.starts_with("from __future__");
    let (future, rest): (Vec<&str>, Vec<&str>) = code.lines().partition(is_future);
    let future: String = future.iter().map(|line| format!("{line}\n")).collect();
    format!("{future}{IMPORTS}{}\n", rest.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEM: &str = "from typing import List\n\ndef helper(x):\n    return x\n\ndef add(a, b):\n    \"\"\"Adds.\"\"\"\n";
    const FULL: &str = "def add(a, b):\n    return a + b\n";

    fn extracted(answer: &str) -> String {
        let known = Code {
            entry: Some("add"),
            stem: Some(STEM),
        };
        let code = program(answer, known);
        code.strip_prefix(IMPORTS)
            .expect("imports come first")
            .trim_end()
            .to_owned()
            + "\n"
    }

    fn whole(code: &str) -> String {
        format!("from typing import List\n\ndef helper(x):\n    return x\n\n{code}")
    }

    #[test]
    fn the_code_of_a_fence_counts_and_prose_around_it_does_not() {
        let fences = [
            "```python\n",
            "```\n",
            "```py\n",
            "~~~python\n",
            "  ```Python\n",
        ];
        for open in fences {
            let close = if open.contains('~') { "~~~" } else { "```" };
            let answer = format!("Sure, here it is:\n\n{open}{FULL}{close}\nIt adds = simple.");
            assert_eq!(extracted(&answer), whole(FULL), "{open}");
        }
    }

    #[test]
    fn an_unclosed_fence_goes_on_to_the_end() {
        assert_eq!(extracted(&format!("```python\n{FULL}")), whole(FULL));
    }

    #[test]
    fn of_several_fences_the_first_that_defines_the_entry_counts() {
        let answer = format!(
            "```bash\npip install x\n```\n```python\nimport os\n```\n```python\n{FULL}```\n\
             ```python\nprint(add(1, 2))\n```\n```\n3\n```"
        );
        assert_eq!(extracted(&answer), whole(FULL));
    }

    #[test]
    fn a_program_without_a_fence_ends_where_prose_begins() {
        let answer = format!("The function is\n\n{FULL}\nThis function returns the sum of both.");
        assert_eq!(extracted(&answer), whole(FULL));
    }

    #[test]
    fn constants_and_docstrings_at_the_margin_belong_to_a_program() {
        let code = "import os\nLIMIT = 3\ndef add(a, b):\n    \"\"\"Adds\nboth numbers.\n\"\"\"\n    return a + b\n";
        assert_eq!(extracted(code), whole(code));
    }

    #[test]
    fn constants_above_the_first_function_belong_to_a_program() {
        let code = "# as in the book\nLIMIT = 3\nx, y = [0] * LIMIT, {}\n\ndef add(a, b):\n    return a + b\n";
        for prose in ["", "The function is\n\n", "Here:\n"] {
            assert_eq!(extracted(&format!("{prose}{code}")), whole(code), "{prose}");
        }
    }

    #[test]
    fn a_body_continues_the_stem() {
        let expected = format!("{}\n    c = a\n    return c + b\n", STEM.trim_end());
        for answer in [
            "    c = a\n    return c + b\n",
            "c = a\n    return c + b",
            "c = a\nreturn c + b",
            "```python\n    c = a\n    return c + b\n```",
            "    c = a\n    return c + b\n\ndef other():\n    pass\n",
            "    c = a\n    return c + b\n\nprint(add(1, 2))",
            "    c = a\n    return c + b\n\n# tests\nassert True",
        ] {
            assert_eq!(extracted(answer), expected, "{answer}");
        }
    }

    #[test]
    fn a_body_that_begins_with_a_function_and_lost_its_first_blanks_is_still_a_body() {
        let answer = "def plus(x):\n        y = x\n        return y + b\n\n    return plus(a)\n";
        assert_eq!(
            extracted(answer),
            format!("{}\n    {answer}", STEM.trim_end())
        );
    }

    #[test]
    fn a_function_of_another_name_is_known_under_that_of_the_entry() {
        let code = extracted("```python\ndef plus(a, b):\n    return a + b\n```");
        assert!(code.ends_with("\nadd = plus\n"), "{code}");
    }

    #[test]
    fn one_of_two_other_functions_is_not_guessed() {
        let code = extracted("```python\ndef f(a):\n    return a\ndef g(a):\n    return a\n```");
        assert!(!code.contains("add ="), "{code}");
    }

    #[test]
    fn marks_of_few_shot_prompts_are_no_code() {
        let known = Code::default();
        for answer in [
            format!("[BEGIN]\n{FULL}[DONE]\nNext"),
            format!("{FULL}[DONE] x"),
        ] {
            assert_eq!(
                program(&answer, known).trim_end(),
                (IMPORTS.to_owned() + FULL).trim_end()
            );
        }
    }

    #[test]
    fn a_program_that_is_indented_as_a_whole_is_moved_to_the_margin() {
        let answer = "1. Write:\n   ```python\n   def add(a, b):\n       return a + b\n   ```";
        assert_eq!(extracted(answer), whole(FULL));
    }

    #[test]
    fn future_imports_stay_in_front() {
        let code = program(
            &format!("from __future__ import annotations\n{FULL}"),
            Code::default(),
        );
        assert!(
            code.starts_with("from __future__ import annotations\nimport math"),
            "{code}"
        );
    }
}
