mod chat;
mod files;
mod order;

use llada_text::Tokenizer;

use super::*;
use crate::error::{Error, Result};

fn tokenizer() -> Tokenizer {
    Tokenizer::characters("abcdefgh ", &["<|end|>", "<|mask|>"]).unwrap()
}

fn read(text: &[u8], change: impl FnOnce(&mut Reader<'_>)) -> Result<Corpus> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    let tokenizer = tokenizer();
    let mut reader = Reader {
        unit: Unit::Document,
        tokenizer: Some(&tokenizer),
        vocab_size: 11,
        mask_token_id: Some(10),
        operations: None,
        eos_token_id: Some(9),
        append_eos: true,
        max_len: 6,
        overflow: Overflow::Cut,
        recorded: None,
    };
    change(&mut reader);
    reader.read(&[path])
}

fn ids(corpus: &Corpus) -> Vec<&[u32]> {
    corpus
        .documents
        .iter()
        .map(|document| &document.ids[..])
        .collect()
}

#[test]
fn every_form_of_a_row_is_read() {
    let rows = br#"{"text": "abc", "source": "elsewhere"}
{"input_ids": [3, 4, 5]}

{"input_ids": [3, 4, 5], "prompt_lengths": 2}
{"prompt": "ab", "response": "cd"}
{"input_ids": [3, 4, 5, 6, 7], "loss_spans": [[1, 2], [3, 4]]}
"#;
    let corpus = read(rows, |_| ()).unwrap();
    assert_eq!(
        ids(&corpus),
        [
            &[0, 1, 2, 9][..],
            &[3, 4, 5],
            &[3, 4, 5],
            &[0, 1, 2, 3, 9],
            &[3, 4, 5, 6]
        ]
    );
    let supervised = corpus.documents.iter().map(|document| {
        document
            .supervised()
            .iter()
            .filter(|&&supervised| supervised)
            .count()
    });
    assert!(
        supervised.eq([3, 2, 1, 3, 2]),
        "never the first token, never a prompt"
    );
    assert_eq!(
        (corpus.num_tokens(), corpus.num_rows, corpus.num_dropped),
        (19, 5, 0)
    );
}

#[test]
fn long_text_is_cut_and_long_answers_are_truncated() {
    let rows = br#"{"text": "abcdefgh"}
{"prompt": "abc", "response": "defgh"}
{"prompt": "abcdefgh", "response": "a"}
"#;
    let corpus = read(rows, |_| ()).unwrap();
    let expected = [&[0, 1, 2, 3, 4, 5][..], &[6, 7, 9], &[0, 1, 2, 3, 4, 5]];
    assert_eq!(ids(&corpus), expected);
    assert!(
        !corpus.documents[2].spans[0].ends_turn,
        "its end is missing"
    );
    assert_eq!((corpus.num_cut, corpus.num_dropped), (3, 1));
    let corpus = read(br#"{"text": "abcdefgh"}"#, |reader| {
        reader.overflow = Overflow::Truncate;
        reader.append_eos = false;
    });
    assert_eq!(ids(&corpus.unwrap()), [&[0, 1, 2, 3, 4, 5]]);
}

#[test]
fn bad_rows_are_named_by_file_and_line() {
    for (row, problem) in [
        (&b"{\"text\": \"\xff\"}"[..], "not UTF-8"),
        (b"{\"text\": ", "expected a JSON object"),
        (b"[1, 2]", "expected a JSON object"),
        (b"{\"text\": 5}", "`text` must be a text, found 5"),
        (b"{\"text\": \"\"}", "empty"),
        (b"{\"prompt\": \"a\"}", "`response` is missing"),
        (
            b"{\"prompt\": \"a\", \"text\": \"b\"}",
            "expected `text`, `input_ids`",
        ),
        (
            b"{\"chosen\": []}",
            "rows with `chosen` are preference pairs",
        ),
        (b"{\"input_ids\": [1, -2]}", "list of token ids"),
        (
            b"{\"input_ids\": [1, 2], \"prompt_lengths\": 3}",
            "`prompt_lengths`",
        ),
        (
            b"{\"input_ids\": [1, 11]}",
            "id 11 is not below the model's vocab_size 11",
        ),
        (
            b"{\"input_ids\": [1, 2, 3], \"loss_spans\": [[1, 3], [2, 3]]}",
            "in order, apart and within the ids",
        ),
        (
            b"{\"input_ids\": [1, 2], \"loss_spans\": [[1, 3]]}",
            "`loss_spans`",
        ),
        (
            b"{\"input_ids\": [1, 2], \"loss_spans\": [[0, 1]], \"prompt_lengths\": 1}",
            "found both",
        ),
        (b"{\"text\": \"z\"}", "cannot represent 'z'"),
    ] {
        let rows = [b"{\"text\": \"ab\"}\n", row].concat();
        let message = read(&rows, |_| ()).unwrap_err().to_string();
        assert!(message.contains("rows.jsonl` line 2"), "{message}");
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn files_without_a_token_to_learn_are_refused() {
    for rows in [&b""[..], b"\n\n", b"{\"input_ids\": [1]}"] {
        let message = read(rows, |_| ()).unwrap_err().to_string();
        assert!(
            message.contains("no document with a token to predict"),
            "{message}"
        );
    }
}

#[test]
fn text_that_spells_the_mask_token_is_text() {
    let result = read(br#"{"text": "<|mask|>"}"#, |_| ());
    let message = result.unwrap_err().to_string();
    assert!(
        message.contains("cannot represent '<'"),
        "this alphabet lacks the sign: {message}"
    );
}

#[test]
fn an_answer_without_an_eos_token_is_refused() {
    let rows = br#"{"prompt": "a", "response": "b"}"#;
    let message = read(rows, |reader| reader.eos_token_id = None)
        .unwrap_err()
        .to_string();
    assert!(message.contains("no EOS token"), "{message}");
}

#[test]
fn rows_with_the_mask_id_are_left_out_and_counted() {
    let rows = br#"{"input_ids": [1, 10, 2]}
{"input_ids": [1, 2]}
"#;
    let corpus = read(rows, |_| ()).unwrap();
    assert_eq!(ids(&corpus), [&[1, 2]]);
    assert_eq!((corpus.num_rows, corpus.num_with_mask), (2, 1));
}

#[test]
fn rows_with_an_operation_that_is_trained_are_refused() {
    let rows = br#"{"input_ids": [1, 9, 2]}"#;
    let operations = llada_diffusion::Operations {
        mask: 10,
        delete: 8,
        insert: 9,
    };
    assert!(
        read(rows, |_| ()).is_ok(),
        "they are tokens like others to other recipes"
    );
    let refused = read(rows, |reader| reader.operations = Some(operations));
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains("id 9") && message.contains("split_token_id"),
        "{message}"
    );
}

#[test]
fn a_survey_goes_on_after_a_malformed_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(
        &path,
        "{\"input_ids\": [1, 2]}\n{}\n{\"input_ids\": [3, 4]}\n",
    )
    .unwrap();
    let reader = Reader {
        unit: Unit::Document,
        tokenizer: None,
        vocab_size: 11,
        mask_token_id: None,
        operations: None,
        eos_token_id: None,
        append_eos: false,
        max_len: 6,
        overflow: Overflow::Cut,
        recorded: None,
    };
    let mut problems = Vec::new();
    let mut note = |error: Error| {
        problems.push(error.to_string());
        Ok(())
    };
    let corpus = reader.survey(&[path], &mut note).unwrap();
    assert_eq!(ids(&corpus), [&[1, 2], &[3, 4]]);
    assert!(
        problems.len() == 1 && problems[0].contains("line 2"),
        "{problems:?}"
    );
}
