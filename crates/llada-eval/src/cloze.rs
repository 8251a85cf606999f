//! Choices among continuations, made out of whole texts.

use serde_json::{Map, Value, json};

/// Choices of a cloze task: the true continuation and those of the next rows.
const CLOZE_CHOICES: usize = 4;

/// Makes choices among continuations out of whole texts: the first half of each text, at the end of
/// a sentence, goes on as it does or as the next rows do. The right place moves from row to row.
pub(crate) fn cloze(rows: &[Map<String, Value>]) -> Vec<Map<String, Value>> {
    let texts = rows.iter().filter_map(|row| row.get("text")?.as_str());
    let halves: Vec<(&str, &str)> = texts.filter_map(halves).collect();
    if halves.len() < CLOZE_CHOICES {
        return Vec::new();
    }
    let row = |(index, (context, _)): (usize, &(&str, &str))| {
        let gold = index % CLOZE_CHOICES;
        let others = (1..CLOZE_CHOICES).map(|step| halves[(index + step) % halves.len()].1);
        let mut choices: Vec<&str> = others.collect();
        choices.insert(gold, halves[index].1);
        let fields = [
            ("context", json!(context)),
            ("choices", json!(choices)),
            ("answer", json!(gold)),
        ];
        Map::from_iter(fields.map(|(name, value)| (name.to_owned(), value)))
    };
    halves.iter().enumerate().map(row).collect()
}

/// Splits a text after the sentence that crosses its middle; the continuation is one sentence.
fn halves(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let ends: Vec<usize> = text.match_indices(". ").map(|(at, _)| at + 1).collect();
    let index = ends.iter().position(|&end| end >= text.len() / 2)?;
    let end = ends.get(index + 1).copied().unwrap_or(text.len());
    Some((&text[..ends[index]], &text[ends[index]..end]))
}
