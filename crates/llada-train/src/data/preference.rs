//! Preference pairs: two answers to a prompt, of which one is preferred.
//!
//! ```text
//! {"prompt": "...", "chosen": "...", "rejected": "..."}
//! {"messages": [...], "chosen": "...", "rejected": "..."}      the conversation before the answer
//! ```
//!
//! A pair becomes two documents that follow each other, the preferred one first. As with other rows,
//! further keys are left alone.

use std::path::PathBuf;

use llada_text::Conversation;
use serde::Deserialize;
use serde_json::Value;

use super::{Corpus, Document, Reader};
use crate::error::{Error, Result};

/// A line of a preference file.
#[derive(Deserialize)]
struct Row {
    prompt: Option<String>,
    messages: Option<Vec<Value>>,
    chosen: String,
    rejected: String,
}

/// What an answer follows and how it ends.
struct Prompt {
    ids: Vec<u32>,
    end: u32,
}

impl Reader<'_> {
    /// Reads files of preference pairs. Longer answers than fit are truncated; pairs of which an
    /// answer is left without a token are dropped.
    ///
    /// # Errors
    /// As [`Self::read`], and if the two answers of a row are the same.
    pub fn read_pairs(&self, paths: &[PathBuf]) -> Result<Corpus> {
        let mut corpus = Corpus::default();
        for path in paths {
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            let lines = (1..).zip(text.lines());
            for (line, row) in lines.filter(|(_, row)| !row.trim().is_empty()) {
                let pair = self.pair(row).map_err(|problem| Error::Row {
                    path: path.clone(),
                    line,
                    problem,
                })?;
                self.push_pair(pair, &mut corpus);
            }
        }
        if corpus.documents.is_empty() {
            let paths: Vec<_> = paths
                .iter()
                .map(|path| format!("`{}`", path.display()))
                .collect();
            return Err(Error::NoDocuments {
                paths: paths.join(", "),
            });
        }
        Ok(corpus)
    }

    fn push_pair(&self, pair: [Document; 2], corpus: &mut Corpus) {
        let is_long = |document: &Document| document.ids.len() > self.max_len;
        corpus.num_cut += pair.iter().filter(|document| is_long(document)).count();
        let pair = pair.map(|mut document| {
            document.is_answer &= !is_long(&document); // its end is missing: nothing is to be filled
            document.ids.truncate(self.max_len);
            document
        });
        if pair.iter().all(Document::is_learnable) {
            corpus.documents.extend(pair);
        } else {
            corpus.num_dropped += 1;
        }
    }

    fn pair(&self, row: &str) -> std::result::Result<[Document; 2], String> {
        let row: Row = serde_json::from_str(row).map_err(|e| {
            format!("expected `prompt` or `messages`, `chosen` and `rejected`: {e}")
        })?;
        if row.chosen == row.rejected {
            return Err("`chosen` and `rejected` are the same; remove the row".into());
        }
        let prompt = self.preference_prompt(&row)?;
        let answer = |key: &str, answer: &str| -> std::result::Result<Document, String> {
            let mut ids = prompt.ids.clone();
            let text = self.tokenizer()?.encode_text(answer);
            ids.extend(text.map_err(|e| format!("`{key}`: {e}"))?);
            if ids.len() == prompt.ids.len() {
                return Err(format!("`{key}` is empty; remove the row"));
            }
            ids.push(prompt.end);
            self.check_ids(&ids)?;
            Ok(Document {
                ids,
                prompt_len: prompt.ids.len(),
                is_answer: true,
            })
        };
        Ok([
            answer("chosen", &row.chosen)?,
            answer("rejected", &row.rejected)?,
        ])
    }

    /// Encodes a prompt, and says what ends the answer: EOS after plain text, the end of the turn in
    /// a conversation.
    fn preference_prompt(&self, row: &Row) -> std::result::Result<Prompt, String> {
        let tokenizer = self.tokenizer()?;
        match (&row.prompt, &row.messages) {
            (Some(prompt), None) => Ok(Prompt {
                ids: tokenizer.encode(prompt).map_err(|e| e.to_string())?,
                end: self.eos()?,
            }),
            (None, Some(messages)) => {
                let template = tokenizer.chat_template().map_err(|e| e.to_string())?;
                let conversation = Conversation::new(messages.clone()).with_generation_prompt();
                let ids = tokenizer.encode_chat(&template, &conversation);
                let missing = "the tokenizer has no token that ends a turn; give `prompt` instead";
                Ok(Prompt {
                    ids: ids.map_err(|e| format!("`messages`: {e}"))?,
                    end: tokenizer.specials().role_end.ok_or(missing)?,
                })
            }
            _ => Err("expected either `prompt` or `messages`, found both or neither".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use llada_text::{Role, Tokenizer};

    use super::*;
    use crate::data::Overflow;
    use crate::testing::{EOS, MASK};

    fn read(rows: &str) -> Result<Corpus> {
        let alphabet = "abcdefghijklmnopqrstuvwxyz .,!";
        let mut tokenizer = Tokenizer::characters(alphabet, &["<|mask|>", "<|end|>"]).unwrap();
        tokenizer.set_role(Role::Eos, "<|end|>").unwrap();
        let reader = Reader {
            tokenizer: Some(&tokenizer),
            vocab_size: 32,
            mask_token_id: Some(MASK),
            eos_token_id: Some(EOS),
            append_eos: true,
            max_len: 6,
            overflow: Overflow::Cut,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.jsonl");
        std::fs::write(&path, rows).unwrap();
        reader.read_pairs(&[path])
    }

    #[test]
    fn a_pair_is_two_documents_with_one_prompt() {
        let row = r#"{"prompt": "ab", "chosen": "c", "rejected": "defgh", "kind": "x"}"#;
        let corpus = read(&format!("{row}\n\n")).unwrap();
        let [chosen, rejected] = &corpus.documents[..] else {
            panic!("two documents")
        };
        assert_eq!(
            (&chosen.ids[..], chosen.prompt_len),
            (&[0, 1, 2, EOS][..], 2)
        );
        assert_eq!(rejected.ids, [0, 1, 3, 4, 5, 6]);
        assert!(
            chosen.is_answer && !rejected.is_answer,
            "a cut answer has no end"
        );
        assert_eq!((corpus.num_cut, corpus.num_dropped), (1, 0));
    }

    #[test]
    fn a_pair_whose_prompt_fills_the_limit_is_dropped_whole() {
        let long = r#"{"prompt": "abcdef", "chosen": "c", "rejected": "d"}"#;
        let good = r#"{"prompt": "a", "chosen": "c", "rejected": "d"}"#;
        let corpus = read(&format!("{long}\n{good}\n")).unwrap();
        assert_eq!((corpus.documents.len(), corpus.num_dropped), (2, 1));
    }

    #[test]
    fn bad_rows_are_refused_by_line_and_key() {
        for (row, problem) in [
            (
                r#"{"prompt": "a", "chosen": "b"}"#,
                "missing field `rejected`",
            ),
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
                "invalid type",
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
