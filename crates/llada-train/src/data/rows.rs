//! From rows to documents.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use llada_diffusion::Operations;
use llada_text::{ChatTemplate, Tokenizer};
use serde_json::{Map, Value};

use super::chat::Renderer;
use super::document::{Document, Span};
use super::files::{Row, expand, for_each_row};
use super::order::Unit;
use crate::error::{Error, Result};

/// Keys of pairs.
const PAIR_KEYS: [&str; 2] = ["chosen", "rejected"];

/// What is wrong with a row and what to do.
pub(super) type Problem = String;

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
    /// What a row holds.
    pub unit: Unit,
    /// Encodes text.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Rows of the model's embedding: larger ids are refused.
    pub vocab_size: usize,
    /// Id that no document may hold.
    pub mask_token_id: Option<u32>,
    /// Operations that rows may not hold, if they are what the model is to learn.
    pub operations: Option<Operations>,
    /// Ends answers.
    pub eos_token_id: Option<u32>,
    /// Whether it ends plain text too.
    pub append_eos: bool,
    /// Longest document, in tokens.
    pub max_len: usize,
    /// What happens to longer texts. Rows with answers are always truncated.
    pub overflow: Overflow,
    /// Block size in which rows must have been decoded, if the steps of that are what is learned.
    pub recorded: Option<usize>,
}

/// The documents of some files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Documents in the order of the files, those of a pair together.
    pub documents: Vec<Document>,
    /// Rows that were read, the ones left out included.
    pub num_rows: usize,
    /// Rows that were longer than the limit.
    pub num_cut: usize,
    /// Documents left out because they, or the other of their pair, had no token to learn.
    pub num_dropped: usize,
    /// Rows left out because they hold the MASK id.
    pub num_with_mask: usize,
}

impl Corpus {
    /// Returns the number of tokens.
    pub fn num_tokens(&self) -> usize {
        let lens = self.documents.iter().map(|document| document.ids.len());
        lens.sum()
    }

    /// Adds the documents of another corpus after these.
    pub fn append(&mut self, other: Self) {
        self.documents.extend(other.documents);
        self.num_rows += other.num_rows;
        self.num_cut += other.num_cut;
        self.num_dropped += other.num_dropped;
        self.num_with_mask += other.num_with_mask;
    }
}

impl Reader<'_> {
    /// Reads files of rows, and directories of such files.
    ///
    /// # Errors
    /// If a file cannot be read, a row is malformed (named by file and line), or no row leaves a
    /// token to learn.
    pub fn read(&self, paths: &[PathBuf]) -> Result<Corpus> {
        let corpus = self.survey(paths, &mut Err)?;
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

    /// Reads what can be read, and hands every malformed row to `problem`.
    ///
    /// # Errors
    /// If a file cannot be read, and as `problem`.
    pub fn survey(
        &self,
        paths: &[PathBuf],
        problem: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<Corpus> {
        let mut corpus = Corpus::default();
        let template = OnceCell::new();
        for path in paths {
            for file in expand(path)? {
                for_each_row(&file, &mut |line, row| {
                    corpus.num_rows += 1;
                    let pushed = self.push_row(row, &template, &mut corpus);
                    pushed.or_else(|text| problem(at(&file, line, text)))
                })?;
            }
        }
        Ok(corpus)
    }

    fn push_row(
        &self,
        row: Row,
        template: &OnceCell<ChatTemplate>,
        corpus: &mut Corpus,
    ) -> std::result::Result<(), Problem> {
        let documents = self.documents(&row?, template)?;
        for document in &documents {
            self.check_ids(&document.ids)?;
        }
        let mut all_ids = documents.iter().flat_map(|document| &document.ids);
        if all_ids.any(|&id| Some(id) == self.mask_token_id) {
            corpus.num_with_mask += 1;
            return Ok(());
        }
        let is_long = |document: &Document| document.ids.len() > self.max_len;
        corpus.num_cut += usize::from(documents.iter().any(is_long));
        let pieces = documents
            .into_iter()
            .flat_map(|document| self.pieces(document));
        for unit in pieces.collect::<Vec<_>>().chunks(self.unit.size()) {
            if unit.iter().any(|piece| piece.spans.is_empty()) {
                corpus.num_dropped += unit.len();
            } else {
                corpus.documents.extend_from_slice(unit);
            }
        }
        Ok(())
    }

    fn documents(
        &self,
        row: &Map<String, Value>,
        template: &OnceCell<ChatTemplate>,
    ) -> std::result::Result<Vec<Document>, Problem> {
        if self.unit == Unit::Pair {
            return self.pair(row, template).map(Vec::from);
        }
        match PAIR_KEYS.into_iter().find(|&key| row.contains_key(key)) {
            Some(key) => Err(format!(
                "rows with `{key}` are preference pairs, for recipes with `[dpo]`"
            )),
            None => Ok(vec![self.document(row, template)?]),
        }
    }

    pub(super) fn document(
        &self,
        row: &Map<String, Value>,
        template: &OnceCell<ChatTemplate>,
    ) -> std::result::Result<Document, Problem> {
        if let Some(block_size) = self.recorded {
            return self.recorded_document(row, block_size);
        }
        let forms = ["text", "input_ids", "messages", "prompt"];
        let given: Vec<_> = forms
            .into_iter()
            .filter(|&key| row.contains_key(key))
            .collect();
        match given[..] {
            ["text"] => self.text_document(text(row, "text")?),
            ["input_ids"] => id_document(row),
            ["messages"] => self.chat_document(row, template),
            ["prompt"] => self.answer_document(text(row, "prompt")?, text(row, "response")?),
            _ => Err("expected `text`, `input_ids`, `messages`, or `prompt` and `response`".into()),
        }
    }

    fn text_document(&self, text: &str) -> std::result::Result<Document, Problem> {
        let mut ids = self.tokenizer()?.encode(text).map_err(|e| e.to_string())?;
        if ids.is_empty() {
            return Err("`text` is empty; remove the row".into());
        }
        if self.append_eos {
            ids.push(self.eos()?);
        }
        Ok(Document::text(ids))
    }

    /// Encodes prompt and response apart, as in generation: no token spans the two.
    fn answer_document(
        &self,
        prompt: &str,
        response: &str,
    ) -> std::result::Result<Document, Problem> {
        let tokenizer = self.tokenizer()?;
        let mut ids = tokenizer.encode(prompt).map_err(|e| e.to_string())?;
        let prompt_len = ids.len();
        ids.extend(tokenizer.encode_text(response).map_err(|e| e.to_string())?);
        ids.push(self.eos()?);
        Ok(Document::answer(ids, prompt_len))
    }

    fn chat_document(
        &self,
        row: &Map<String, Value>,
        template: &OnceCell<ChatTemplate>,
    ) -> std::result::Result<Document, Problem> {
        let tokenizer = self.tokenizer()?;
        if !tokenizer.has_chat_template() && tokenizer.specials().role_end.is_none() {
            return Err("`messages` need a chat template, which the checkpoint lacks".into());
        }
        if template.get().is_none() {
            let loaded = tokenizer.chat_template().map_err(|e| e.to_string())?;
            template.get_or_init(|| loaded);
        }
        let renderer = Renderer {
            tokenizer,
            template: template.get().expect("it was loaded above"),
            eos_token_id: self.eos_token_id,
        };
        renderer.document(row)
    }

    fn tokenizer(&self) -> std::result::Result<&Tokenizer, Problem> {
        self.tokenizer
            .ok_or_else(|| "text needs a tokenizer; set `model.tokenizer`".into())
    }

    fn eos(&self) -> std::result::Result<u32, Problem> {
        let problem = "the checkpoint has no EOS token; set `eos_token_id` in its config.json";
        self.eos_token_id.ok_or_else(|| problem.into())
    }

    fn check_ids(&self, ids: &[u32]) -> std::result::Result<(), Problem> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let vocab_size = self.vocab_size;
            return Err(format!(
                "id {id} is not below the model's vocab_size {vocab_size}"
            ));
        }
        let named = self.operations.map(|of| {
            [
                ("delete_token_id", of.delete),
                ("split_token_id", of.insert),
            ]
        });
        match named.into_iter().flatten().find(|(_, id)| ids.contains(id)) {
            None => Ok(()),
            Some((key, id)) => Err(format!(
                "id {id} is the checkpoint's `{key}`, which `[levenshtein]` trains as an operation; \
                 remove it from the text"
            )),
        }
    }

    fn pieces(&self, mut document: Document) -> Vec<Document> {
        if document.ids.len() > self.max_len && self.overflow == Overflow::Cut && document.is_text()
        {
            let pieces = document.ids.chunks(self.max_len);
            return pieces.map(|ids| Document::text(ids.to_vec())).collect();
        }
        document.truncate(self.max_len);
        vec![document]
    }
}

fn at(path: &Path, line: usize, problem: Problem) -> Error {
    Error::Row {
        path: path.to_owned(),
        line,
        problem,
    }
}

pub(super) fn text<'r>(
    row: &'r Map<String, Value>,
    key: &str,
) -> std::result::Result<&'r str, Problem> {
    match row.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("`{key}` must be a text, found {other}")),
        None => Err(format!("`{key}` is missing")),
    }
}

fn id_document(row: &Map<String, Value>) -> std::result::Result<Document, Problem> {
    let ids = row.get("input_ids").and_then(id_list);
    let ids = ids.ok_or("`input_ids` must be a list of token ids")?;
    match (row.get("prompt_lengths"), row.get("loss_spans")) {
        (None, None) => Ok(Document::text(ids)),
        (Some(len), None) => prompted(ids, len),
        (None, Some(spans)) => {
            let spans = loss_spans(spans, ids.len()).ok_or(
                "`loss_spans` must be a list of [start, end), in order, apart and within the ids",
            )?;
            Ok(Document::new(ids, spans))
        }
        _ => Err("expected `prompt_lengths` or `loss_spans`, found both".into()),
    }
}

fn prompted(ids: Vec<u32>, prompt_len: &Value) -> std::result::Result<Document, Problem> {
    let len = index(prompt_len).filter(|&len| len <= ids.len());
    match len.ok_or("`prompt_lengths` must be a number of ids, at most all of them")? {
        0 => Ok(Document::text(ids)),
        len => Ok(Document::answer(ids, len)),
    }
}

fn loss_spans(value: &Value, num_ids: usize) -> Option<Vec<Span>> {
    let mut end = 0;
    let mut span = |value: &Value| {
        let [first, last] = value.as_array()?.as_slice() else {
            return None;
        };
        let range = index(first)?..index(last)?;
        let follows = end <= range.start && range.start < range.end && range.end <= num_ids;
        end = range.end;
        follows.then_some(Span {
            range,
            ends_turn: true,
        })
    };
    value.as_array()?.iter().map(&mut span).collect()
}

pub(super) fn index(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

pub(super) fn id_list(value: &Value) -> Option<Vec<u32>> {
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array()?.iter().map(id).collect()
}
