//! Instructions that a program can check, named as in IFEval (arXiv:2311.07911).
//!
//! Strict: the answer is checked as it is. Words and sentences are split by blanks and by `.!?`, not by
//! the tokenizers of the published script; languages are not detected, so that kind is refused.

use serde_json::{Map, Value};

use crate::data::Item;

/// Returns the names of the item's instructions that an answer does not follow.
pub(super) fn failed(item: &Item, answer: &str) -> Result<Vec<String>, String> {
    let names = item
        .fields
        .get("instruction_id_list")
        .and_then(Value::as_array);
    let names = names.ok_or("expected a list in `instruction_id_list`")?;
    let arguments = item.fields.get("kwargs").and_then(Value::as_array);
    let arguments = arguments.filter(|list| list.len() == names.len());
    let arguments = arguments.ok_or("expected a list in `kwargs`, as long as the instructions")?;
    let mut failed = Vec::new();
    for (name, arguments) in names.iter().zip(arguments) {
        let name = name
            .as_str()
            .ok_or("expected texts in `instruction_id_list`")?;
        let arguments = arguments
            .as_object()
            .ok_or("expected objects in `kwargs`")?;
        if answer.trim().is_empty() || !follows(name, &Arguments(arguments), answer)? {
            failed.push(name.to_owned());
        }
    }
    Ok(failed)
}

/// The arguments of one instruction.
struct Arguments<'a>(&'a Map<String, Value>);

impl Arguments<'_> {
    fn text(&self, name: &str) -> Result<&str, String> {
        self.0
            .get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("`{name}` must be a text"))
    }

    fn number(&self, name: &str) -> Result<usize, String> {
        let number = self
            .0
            .get(name)
            .and_then(Value::as_f64)
            .filter(|number| *number >= 0.0);
        number
            .map(|number| number as usize)
            .ok_or_else(|| format!("`{name}` must be a number"))
    }

    fn texts(&self, name: &str) -> Result<Vec<&str>, String> {
        let list = self.0.get(name).and_then(Value::as_array);
        let texts = list.and_then(|list| list.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| format!("`{name}` must be a list of texts"))
    }

    /// Compares as the relation says, which is one of two.
    fn holds(&self, relation: &str, found: usize, wanted: usize) -> Result<bool, String> {
        match self.text(relation)? {
            "at least" => Ok(found >= wanted),
            "less than" => Ok(found < wanted),
            other => Err(format!(
                "`{relation}`: expected `at least` or `less than`, found `{other}`"
            )),
        }
    }
}

fn follows(name: &str, arguments: &Arguments<'_>, answer: &str) -> Result<bool, String> {
    match name.split_once(':') {
        Some(("keywords", kind)) => keywords(kind, arguments, answer),
        Some(("length_constraints", kind)) => length(kind, arguments, answer),
        Some(("detectable_format" | "detectable_content", kind)) => format(kind, arguments, answer),
        Some(("change_case", kind)) => case(kind, arguments, answer),
        _ => around(name, arguments, answer),
    }
    .map_err(|message| format!("instruction `{name}`: {message}"))
}

fn unknown() -> Result<bool, String> {
    Err("there is no check for it; leave such rows out of the data".to_owned())
}

fn keywords(kind: &str, arguments: &Arguments<'_>, answer: &str) -> Result<bool, String> {
    let text = answer.to_lowercase();
    let has = |word: &str| text.contains(&word.to_lowercase());
    match kind {
        "existence" => Ok(arguments.texts("keywords")?.into_iter().all(has)),
        "forbidden_words" => {
            let said: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
            let words = arguments.texts("forbidden_words")?;
            Ok(!words
                .iter()
                .any(|word| said.contains(&word.to_lowercase().as_str())))
        }
        "frequency" => {
            let found = text
                .matches(&arguments.text("keyword")?.to_lowercase())
                .count();
            arguments.holds("relation", found, arguments.number("frequency")?)
        }
        "letter_frequency" => {
            let found = text
                .matches(&arguments.text("letter")?.to_lowercase())
                .count();
            arguments.holds("let_relation", found, arguments.number("let_frequency")?)
        }
        _ => unknown(),
    }
}

fn length(kind: &str, arguments: &Arguments<'_>, answer: &str) -> Result<bool, String> {
    match kind {
        "number_words" => {
            let words = answer.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '\'');
            let found = words.filter(|word| !word.is_empty()).count();
            arguments.holds("relation", found, arguments.number("num_words")?)
        }
        "number_sentences" => {
            let sentences = answer.split_inclusive(['.', '!', '?']);
            let found = sentences
                .filter(|text| text.chars().any(char::is_alphanumeric))
                .count();
            arguments.holds("relation", found, arguments.number("num_sentences")?)
        }
        "number_paragraphs" => {
            let found = answer
                .split("***")
                .filter(|text| !text.trim().is_empty())
                .count();
            Ok(found == arguments.number("num_paragraphs")?)
        }
        "nth_paragraph_first_word" => {
            let paragraphs: Vec<&str> = answer
                .split("\n\n")
                .filter(|text| !text.trim().is_empty())
                .collect();
            let nth = arguments
                .number("nth_paragraph")?
                .checked_sub(1)
                .and_then(|at| paragraphs.get(at));
            let first = nth
                .and_then(|text| text.split_whitespace().next())
                .unwrap_or_default();
            let first = first
                .trim_matches(|c: char| !c.is_alphanumeric())
                .to_lowercase();
            let wanted = arguments.text("first_word")?.to_lowercase();
            Ok(paragraphs.len() == arguments.number("num_paragraphs")? && first == wanted)
        }
        _ => unknown(),
    }
}

fn format(kind: &str, arguments: &Arguments<'_>, answer: &str) -> Result<bool, String> {
    match kind {
        "number_bullet_lists" => {
            let is_bullet = |line: &&str| {
                let line = line.trim_start();
                line.starts_with("- ") || line.starts_with("* ")
            };
            Ok(answer.lines().filter(is_bullet).count() == arguments.number("num_bullets")?)
        }
        "number_highlighted_sections" => {
            let found = answer
                .replace("**", "*")
                .split('*')
                .skip(1)
                .step_by(2)
                .filter(|text| !text.trim().is_empty())
                .count();
            Ok(found >= arguments.number("num_highlights")?)
        }
        "title" => Ok(between(answer, "<<", ">>").is_some_and(|title| !title.trim().is_empty())),
        "json_format" => {
            let text = answer
                .trim()
                .trim_start_matches("```json")
                .trim_matches('`');
            Ok(serde_json::from_str::<Value>(text.trim()).is_ok())
        }
        "multiple_sections" => {
            let mark = arguments.text("section_spliter")?;
            let found = answer.matches(mark).count();
            Ok(found >= arguments.number("num_sections")?)
        }
        "constrained_response" => {
            let options = [
                "My answer is yes.",
                "My answer is no.",
                "My answer is maybe.",
            ];
            Ok(options.iter().any(|option| answer.contains(option)))
        }
        "postscript" => Ok(answer
            .to_lowercase()
            .contains(&arguments.text("postscript_marker")?.to_lowercase())),
        "number_placeholders" => {
            let found = answer
                .split('[')
                .skip(1)
                .filter(|text| text.contains(']'))
                .count();
            Ok(found >= arguments.number("num_placeholders")?)
        }
        _ => unknown(),
    }
}

fn case(kind: &str, arguments: &Arguments<'_>, answer: &str) -> Result<bool, String> {
    match kind {
        "english_capital" => Ok(answer.to_uppercase() == answer),
        "english_lowercase" => Ok(answer.to_lowercase() == answer),
        "capital_word_frequency" => {
            let is_capital = |word: &&str| {
                word.chars().any(char::is_alphabetic) && word.to_uppercase() == **word
            };
            let found = answer.split_whitespace().filter(is_capital).count();
            arguments.holds(
                "capital_relation",
                found,
                arguments.number("capital_frequency")?,
            )
        }
        _ => unknown(),
    }
}

fn around(name: &str, arguments: &Arguments<'_>, answer: &str) -> Result<bool, String> {
    let text = answer.trim();
    match name {
        "punctuation:no_comma" => Ok(!text.contains(',')),
        "startend:quotation" => Ok(text.len() > 1 && text.starts_with('"') && text.ends_with('"')),
        "startend:end_checker" => {
            let end = arguments.text("end_phrase")?.trim().to_lowercase();
            Ok(text.trim_matches('"').to_lowercase().ends_with(&end))
        }
        "combination:two_responses" => {
            let parts: Vec<&str> = text
                .split("******")
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .collect();
            Ok(parts.len() == 2 && parts[0] != parts[1])
        }
        "combination:repeat_prompt" => {
            let prompt = arguments.text("prompt_to_repeat")?.trim().to_lowercase();
            Ok(text.to_lowercase().starts_with(&prompt))
        }
        _ => unknown(),
    }
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.split_once(open)?
        .1
        .split_once(close)
        .map(|(inner, _)| inner)
}
