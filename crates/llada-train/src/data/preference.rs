//! Preference pairs: two answers to a prompt, of which one is preferred.
//!
//! A pair becomes two documents, the preferred one first: what the row would be with the one answer, and
//! with the other. As with other rows, further keys are left alone.

use std::cell::OnceCell;

use llada_text::ChatTemplate;
use serde_json::{Map, Value, json};

use super::document::Document;
use super::rows::{Problem, Reader, text};

impl Reader<'_> {
    pub(super) fn pair(
        &self,
        row: &Map<String, Value>,
        template: &OnceCell<ChatTemplate>,
    ) -> Result<[Document; 2], Problem> {
        let (chosen, rejected) = (text(row, "chosen")?, text(row, "rejected")?);
        if chosen == rejected {
            return Err("`chosen` and `rejected` are the same; remove the row".into());
        }
        let document = |key: &str, answer: &str| {
            if answer.is_empty() {
                return Err(format!("`{key}` is empty; remove the row"));
            }
            let document = self.document(&answered(row, answer)?, template);
            document.map_err(|problem| format!("`{key}`: {problem}"))
        };
        Ok([document("chosen", chosen)?, document("rejected", rejected)?])
    }
}

/// Returns the row of a document in which `answer` follows the prompt of `row`, and is all that is
/// learned.
fn answered(row: &Map<String, Value>, answer: &str) -> Result<Map<String, Value>, Problem> {
    let document = match (row.get("prompt"), row.get("messages")) {
        (Some(prompt), None) => json!({ "prompt": prompt, "response": answer }),
        (None, Some(Value::Array(messages))) => {
            let tools = row.get("tools").unwrap_or(&Value::Null);
            json!({ "messages": conversation(messages, answer)?, "tools": tools })
        }
        _ => return Err("expected either `prompt` or `messages`, a list of turns".into()),
    };
    let Value::Object(document) = document else {
        unreachable!("it was built as an object")
    };
    Ok(document)
}

fn conversation(messages: &[Value], answer: &str) -> Result<Vec<Value>, Problem> {
    let mut messages = messages.to_vec();
    for message in &mut messages {
        let message = message
            .as_object_mut()
            .ok_or("`messages` must be a list of objects")?;
        message.insert("train".into(), false.into());
    }
    messages.push(json!({ "role": "assistant", "content": answer }));
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use llada_text::{Role, Tokenizer};

    use super::*;
    use crate::data::{Corpus, Overflow, Unit};
    use crate::error::Result;
    use crate::testing::{EOS, MASK};

    fn read(rows: &str) -> Result<Corpus> {
        let alphabet = "abcdefghijklmnopqrstuvwxyz .,!";
        let mut tokenizer = Tokenizer::characters(alphabet, &["<|mask|>", "<|end|>"]).unwrap();
        tokenizer.set_role(Role::Eos, "<|end|>").unwrap();
        let reader = Reader {
            unit: Unit::Pair,
            tokenizer: Some(&tokenizer),
            vocab_size: 32,
            mask_token_id: Some(MASK),
            operations: None,
            eos_token_id: Some(EOS),
            append_eos: true,
            max_len: 6,
            overflow: Overflow::Cut,
            recorded: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.jsonl");
        std::fs::write(&path, rows).unwrap();
        reader.read(&[path])
    }

    #[test]
    fn a_pair_is_two_documents_with_one_prompt() {
        let row = r#"{"prompt": "ab", "chosen": "c", "rejected": "defgh", "kind": "x"}"#;
        let corpus = read(&format!("{row}\n\n")).unwrap();
        let [chosen, rejected] = &corpus.documents[..] else {
            panic!("two documents")
        };
        assert_eq!(
            (&chosen.ids[..], &chosen.spans[0].range),
            (&[0, 1, 2, EOS][..], &(2..4))
        );
        assert_eq!(rejected.ids, [0, 1, 3, 4, 5, 6]);
        assert!(
            chosen.spans[0].ends_turn && !rejected.spans[0].ends_turn,
            "a cut answer has no end"
        );
        assert_eq!((corpus.num_cut, corpus.num_dropped), (1, 0));
    }

    #[test]
    fn a_pair_whose_prompt_fills_the_limit_is_dropped_whole() {
        let long = r#"{"prompt": "abcdef", "chosen": "c", "rejected": "d"}"#;
        let good = r#"{"prompt": "a", "chosen": "c", "rejected": "d"}"#;
        let corpus = read(&format!("{long}\n{good}\n")).unwrap();
        assert_eq!((corpus.documents.len(), corpus.num_dropped), (2, 2));
    }

    #[test]
    fn bad_rows_are_refused_by_line_and_key() {
        for (row, problem) in [
            (r#"{"prompt": "a", "chosen": "b"}"#, "`rejected` is missing"),
            (
                r#"{"prompt": "a", "chosen": "b", "rejected": "b"}"#,
                "are the same",
            ),
            (
                r#"{"prompt": "a", "chosen": "", "rejected": "b"}"#,
                "`chosen` is empty",
            ),
            (
                r#"{"prompt": "a", "chosen": "b", "rejected": 3}"#,
                "`rejected` must be a text",
            ),
            (
                r#"{"chosen": "b", "rejected": "c"}"#,
                "either `prompt` or `messages`",
            ),
            (
                r#"{"prompt": "a", "chosen": "b", "rejected": "%"}"#,
                "`rejected`:",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}"#,
                "line 1",
            ),
        ] {
            let error = read(row).unwrap_err().to_string();
            assert!(
                error.contains("line 1") && error.contains(problem),
                "{error}"
            );
        }
    }
}
