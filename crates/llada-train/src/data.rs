//! From JSONL files to documents.
//!
//! One row is one document:
//!
//! ```text
//! {"text": "..."}                              every token is learned
//! {"input_ids": [...], "prompt_lengths": n}    the same as ids; the first n are given, not learned
//! {"prompt": "...", "response": "..."}         the response and its EOS are learned
//! ```
//!
//! Preference pairs have a format and a method of their own, [`Reader::read_pairs`]. Other keys of a
//! row are left alone, except those of formats that are not trained on like this (`messages`, `chosen`,
//! `rejected`, `loss_spans`): they are refused by name. So is text that
//! contains the MASK id: it could not be told from noise.
//!
//! A document's number is its place in the files. Noise is drawn by that number, order by
//! (seed, epoch): neither depends on batches.

mod preference;

use std::path::PathBuf;

use llada_diffusion::{Rng, Stream};
use llada_text::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Keys of rows that need training this version does not have.
const UNSUPPORTED: [&str; 4] = ["messages", "chosen", "rejected", "loss_spans"];

/// The tokens of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Token ids, `[L]`.
    pub ids: Vec<u32>,
    /// Leading tokens that are given, not learned; 0 for plain text.
    pub prompt_len: usize,
    /// Whether an answer ends here, which may be filled up with EOS.
    pub is_answer: bool,
}

impl Document {
    /// Returns whether each token is learned, `[L]`: all after the prompt, and never the first, which
    /// has nothing before it.
    pub fn supervised(&self) -> Vec<bool> {
        (0..self.ids.len())
            .map(|i| i >= self.prompt_len.max(1))
            .collect()
    }

    fn is_learnable(&self) -> bool {
        self.ids.len() > self.prompt_len.max(1)
    }
}

/// What happens to a text longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// It becomes several documents.
    Cut,
    /// Its end is dropped.
    Truncate,
}

/// How rows become documents.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// Encodes text.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Rows of the model's embedding: larger ids are refused.
    pub vocab_size: usize,
    /// Id that no document may hold.
    pub mask_token_id: Option<u32>,
    /// Ends answers.
    pub eos_token_id: Option<u32>,
    /// Whether it ends plain text too.
    pub append_eos: bool,
    /// Longest document, in tokens.
    pub max_len: usize,
    /// What happens to longer texts. Prompt/response rows are always truncated.
    pub overflow: Overflow,
}

/// The documents of some files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Documents in the order of the files.
    pub documents: Vec<Document>,
    /// Texts that were longer than the limit.
    pub num_cut: usize,
    /// Documents left out because they had no token to learn.
    pub num_dropped: usize,
}

impl Corpus {
    /// Returns the number of tokens.
    pub fn num_tokens(&self) -> usize {
        self.documents
            .iter()
            .map(|document| document.ids.len())
            .sum()
    }
}

impl Reader<'_> {
    /// Reads files of rows.
    ///
    /// # Errors
    /// If a file cannot be read, a row is malformed (named by file and line), or no row leaves a
    /// token to learn.
    pub fn read(&self, paths: &[PathBuf]) -> Result<Corpus> {
        let mut corpus = Corpus::default();
        for path in paths {
            let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
            for (line, row) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
                self.push_row(row, &mut corpus)
                    .map_err(|problem| Error::Row {
                        path: path.clone(),
                        line,
                        problem,
                    })?;
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

    fn push_row(&self, row: &[u8], corpus: &mut Corpus) -> std::result::Result<(), String> {
        let row = std::str::from_utf8(row).map_err(|e| format!("not UTF-8: {e}"))?;
        if row.trim().is_empty() {
            return Ok(());
        }
        let row: Map<String, Value> =
            serde_json::from_str(row).map_err(|e| format!("expected a JSON object: {e}"))?;
        let document = self.document(&row)?;
        self.check_ids(&document.ids)?;
        corpus.num_cut += usize::from(document.ids.len() > self.max_len);
        for piece in self.pieces(document) {
            if piece.is_learnable() {
                corpus.documents.push(piece);
            } else {
                corpus.num_dropped += 1;
            }
        }
        Ok(())
    }

    fn document(&self, row: &Map<String, Value>) -> std::result::Result<Document, String> {
        if let Some(key) = UNSUPPORTED.into_iter().find(|&key| row.contains_key(key)) {
            return Err(format!("rows with `{key}` cannot be trained on yet"));
        }
        let text = |key: &str| match row.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(format!("`{key}` must be a text, found {other}")),
        };
        match (
            text("text")?,
            row.get("input_ids"),
            text("prompt")?,
            text("response")?,
        ) {
            (Some(text), None, None, None) => self.text_document(text),
            (None, Some(ids), None, None) => id_document(ids, row.get("prompt_lengths")),
            (None, None, Some(prompt), Some(response)) => self.answer_document(prompt, response),
            _ => Err("expected `text`, `input_ids`, or `prompt` and `response`".into()),
        }
    }

    fn text_document(&self, text: &str) -> std::result::Result<Document, String> {
        let mut ids = self.tokenizer()?.encode(text).map_err(|e| e.to_string())?;
        if ids.is_empty() {
            return Err("`text` is empty; remove the row".into());
        }
        if self.append_eos {
            ids.push(self.eos()?);
        }
        Ok(Document {
            ids,
            prompt_len: 0,
            is_answer: false,
        })
    }

    /// Encodes prompt and response apart, as in generation: no token spans the two.
    fn answer_document(
        &self,
        prompt: &str,
        response: &str,
    ) -> std::result::Result<Document, String> {
        let tokenizer = self.tokenizer()?;
        let mut ids = tokenizer.encode(prompt).map_err(|e| e.to_string())?;
        let prompt_len = ids.len();
        ids.extend(tokenizer.encode_text(response).map_err(|e| e.to_string())?);
        ids.push(self.eos()?);
        Ok(Document {
            ids,
            prompt_len,
            is_answer: true,
        })
    }

    fn tokenizer(&self) -> std::result::Result<&Tokenizer, String> {
        self.tokenizer
            .ok_or_else(|| "text needs a tokenizer; set `model.tokenizer`".into())
    }

    fn eos(&self) -> std::result::Result<u32, String> {
        let problem = "the checkpoint has no EOS token; set `eos_token_id` in its config.json";
        self.eos_token_id.ok_or_else(|| problem.into())
    }

    fn check_ids(&self, ids: &[u32]) -> std::result::Result<(), String> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(format!(
                "id {id} is not below the model's vocab_size {}",
                self.vocab_size
            ));
        }
        match self.mask_token_id.filter(|mask| ids.contains(mask)) {
            Some(mask) => Err(format!("holds the MASK id {mask}; remove the row")),
            None => Ok(()),
        }
    }

    fn pieces(&self, mut document: Document) -> Vec<Document> {
        if document.ids.len() <= self.max_len {
            return vec![document];
        }
        if self.overflow == Overflow::Truncate || document.prompt_len > 0 {
            document.ids.truncate(self.max_len);
            document.is_answer = false; // its end is missing: nothing is to be filled
            return vec![document];
        }
        let piece = |ids: &[u32]| Document {
            ids: ids.to_vec(),
            ..document
        };
        document.ids.chunks(self.max_len).map(piece).collect()
    }
}

fn id_document(ids: &Value, prompt_len: Option<&Value>) -> std::result::Result<Document, String> {
    let ids = id_list(ids).ok_or("`input_ids` must be a list of token ids")?;
    let prompt_len = match prompt_len {
        None => 0,
        Some(value) => value
            .as_u64()
            .and_then(|len| usize::try_from(len).ok())
            .filter(|&len| len <= ids.len())
            .ok_or("`prompt_lengths` must be a number of ids, at most all of them")?,
    };
    Ok(Document {
        ids,
        prompt_len,
        is_answer: prompt_len > 0,
    })
}

fn id_list(value: &Value) -> Option<Vec<u32>> {
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array()?.iter().map(id).collect()
}

/// Where a run stands in its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Pass over the data, from 0.
    pub epoch: u32,
    /// Documents of this pass that have been used.
    pub used: usize,
}

/// A document of a batch: its pass over the data, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Pass over the data.
    pub epoch: u32,
    /// Number of the document in the corpus.
    pub document: usize,
}

/// An endless, shuffled sequence of document numbers.
#[derive(Clone, Debug)]
pub struct Shuffle {
    seed: u64,
    order: Vec<usize>,
    cursor: Cursor,
}

impl Shuffle {
    /// Returns the sequence over `num_documents` documents, continued at `cursor`.
    ///
    /// # Panics
    /// If there is no document.
    pub fn new(num_documents: usize, seed: u64, cursor: Cursor) -> Self {
        assert!(num_documents > 0, "a corpus has documents");
        Self {
            seed,
            order: shuffled(num_documents, seed, cursor.epoch),
            cursor,
        }
    }

    /// Returns where the sequence stands.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }
}

impl Iterator for Shuffle {
    type Item = Drawn;

    fn next(&mut self) -> Option<Drawn> {
        if self.cursor.used >= self.order.len() {
            self.cursor = Cursor {
                epoch: self.cursor.epoch + 1,
                used: 0,
            };
            self.order = shuffled(self.order.len(), self.seed, self.cursor.epoch);
        }
        let document = self.order[self.cursor.used];
        self.cursor.used += 1;
        Some(Drawn {
            epoch: self.cursor.epoch,
            document,
        })
    }
}

/// Returns the order of one epoch (Fisher-Yates).
fn shuffled(num_documents: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let rng = Rng::new(seed, Stream::Shuffle);
    let mut order: Vec<usize> = (0..num_documents).collect();
    for last in (1..num_documents).rev() {
        let bound = u32::try_from(last + 1).expect("documents in memory are fewer than 2^32");
        order.swap(last, rng.below(epoch, last as u64, 0, bound) as usize);
    }
    order
}

#[cfg(test)]
mod tests;
