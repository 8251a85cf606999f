//! Recorded answers: what a decoder wrote, and in which step of its block it placed each token.

use serde_json::{Map, Value};

use super::document::{Document, Span};
use super::rows::{Problem, Reader, id_list, index};

impl Reader<'_> {
    /// Reads an answer that was decoded in blocks of `block_size`. It ends a turn if it ends with EOS.
    pub(super) fn recorded_document(
        &self,
        row: &Map<String, Value>,
        block_size: usize,
    ) -> Result<Document, Problem> {
        let [ids, steps] = ["input_ids", "steps"].map(|key| row.get(key).and_then(id_list));
        let found = ["prompt_lengths", "block_size"].map(|key| row.get(key).and_then(index));
        let (Some(ids), Some(steps), [Some(prompt_len), Some(decoded)]) = (ids, steps, found)
        else {
            return Err(
                "`[trajectory]` learns rows with `input_ids`, `prompt_lengths`, `steps` and \
                 `block_size`, as `llada data record` writes them"
                    .into(),
            );
        };
        if decoded != block_size {
            return Err(format!(
                "`block_size` is {decoded}, that of the recipe {block_size}: the states of one are not \
                 those of the other"
            ));
        }
        if ids.len().checked_sub(prompt_len) != Some(steps.len()) {
            return Err("`steps` must have a number for each id after the prompt".into());
        }
        let ends_turn = ids.last().copied() == self.eos_token_id;
        let range = prompt_len..ids.len();
        let of_prompt = std::iter::repeat_n(0, prompt_len);
        Ok(Document {
            steps: of_prompt.chain(steps).collect(),
            ..Document::new(ids, vec![Span { range, ends_turn }])
        })
    }
}

#[cfg(test)]
mod tests {
    use llada_diffusion::BlockSize;

    use super::*;
    use crate::data::{Corpus, Overflow, Unit};
    use crate::error::Result;
    use crate::testing::{EOS, MASK};

    fn read(rows: &str) -> Result<Corpus> {
        let reader = Reader {
            unit: Unit::Document,
            tokenizer: None,
            vocab_size: 32,
            mask_token_id: Some(MASK),
            operations: None,
            eos_token_id: Some(EOS),
            append_eos: true,
            max_len: 6,
            overflow: Overflow::Cut,
            recorded: Some(4),
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, rows).unwrap();
        reader.read(&[path])
    }

    #[test]
    fn a_turn_that_ends_is_filled_in_the_step_of_its_end() {
        let row = r#"{"input_ids": [1, 2, 3, 4, 31], "prompt_lengths": 2, "steps": [1, 0, 2], "block_size": 4}"#;
        let corpus = read(row).unwrap();
        let turns = corpus.documents[0].turns(Some(EOS), BlockSize::new(4).unwrap());
        assert_eq!(turns[0].ids, [1, 2, 3, 4, EOS, EOS, EOS, EOS]);
        assert_eq!(turns[0].steps, [0, 0, 1, 0, 2, 2, 2, 2]);
    }

    #[test]
    fn an_answer_that_is_cut_is_not_filled() {
        let rows = [
            r#"{"input_ids": [1, 2, 3, 4, 5], "prompt_lengths": 2, "steps": [1, 0, 2], "block_size": 4}"#,
            r#"{"input_ids": [1, 2, 3, 4, 5, 6, 31], "prompt_lengths": 2, "steps": [1, 0, 2, 1, 0], "block_size": 4}"#,
        ];
        let corpus = read(&rows.join("\n")).unwrap();
        for (document, expected) in corpus
            .documents
            .iter()
            .zip([&[0, 0, 1, 0, 2][..], &[0, 0, 1, 0, 2, 1]])
        {
            let turns = document.turns(Some(EOS), BlockSize::new(4).unwrap());
            assert_eq!(turns[0].steps, expected);
        }
    }

    #[test]
    fn rows_of_another_kind_are_refused_by_key() {
        for (row, problem) in [
            (r#"{"text": "a"}"#, "llada data record"),
            (
                r#"{"input_ids": [1, 2], "prompt_lengths": 1, "steps": [0], "block_size": 8}"#,
                "`block_size` is 8",
            ),
            (
                r#"{"input_ids": [1, 2], "prompt_lengths": 1, "steps": [0, 1], "block_size": 4}"#,
                "`steps` must",
            ),
            (
                r#"{"input_ids": [1, 2], "prompt_lengths": 3, "steps": [], "block_size": 4}"#,
                "`steps` must",
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
