use std::path::Path;

use llada_diffusion::BlockSize;
use llada_text::{Role, Tokenizer};

use crate::data::{Document, Overflow, Reader, Unit};
use crate::error::Result;

/// Characters, the tokens of the built-in template and an end of text.
fn tokenizer() -> Tokenizer {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz \n";
    let specials = ["<role>", "</role>", "<|role_end|>", "<|end|>", "<|mask|>"];
    let mut tokenizer = Tokenizer::characters(alphabet, &specials).unwrap();
    tokenizer.set_role(Role::Eos, "<|end|>").unwrap();
    tokenizer
}

fn read(tokenizer: &Tokenizer, row: &str, max_len: usize) -> Result<Document> {
    Ok(read_units(tokenizer, row, max_len, Unit::Document)?.remove(0))
}

fn read_units(
    tokenizer: &Tokenizer,
    row: &str,
    max_len: usize,
    unit: Unit,
) -> Result<Vec<Document>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, row).unwrap();
    let reader = Reader {
        unit,
        tokenizer: Some(tokenizer),
        vocab_size: 100,
        mask_token_id: tokenizer.specials().mask,
        operations: None,
        eos_token_id: tokenizer.specials().eos,
        append_eos: true,
        max_len,
        overflow: Overflow::Cut,
        recorded: None,
    };
    Ok(reader.read(&[path])?.documents)
}

/// Returns the texts of the spans.
fn learned(tokenizer: &Tokenizer, document: &Document) -> Vec<String> {
    let spans = document
        .spans
        .iter()
        .map(|span| &document.ids[span.range.clone()]);
    spans
        .map(|ids| tokenizer.decode_all(ids).unwrap())
        .collect()
}

/// Returns a tokenizer whose template is `source`.
fn with_template(source: &str) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    tokenizer().save(dir.path()).unwrap();
    let path = dir.path().join("tokenizer_config.json");
    set_template(&path, source);
    Tokenizer::load(dir.path()).unwrap()
}

fn set_template(config: &Path, source: &str) {
    let text = std::fs::read(config).unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    value["chat_template"] = source.into();
    std::fs::write(config, value.to_string()).unwrap();
}

const TWO_TURNS: &str = r#"{"messages": [
    {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"}, {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "see you"}, {"role": "user", "content": "ok"}]}"#;

fn one_line(row: &str) -> String {
    row.replace('\n', " ")
}

#[test]
fn every_assistant_turn_is_learned_and_what_follows_the_last_is_dropped() {
    let tokenizer = tokenizer();
    let document = read(&tokenizer, &one_line(TWO_TURNS), 500).unwrap();
    assert_eq!(
        learned(&tokenizer, &document),
        ["hello<|role_end|>", "see you<|role_end|>"]
    );
    assert!(document.spans.iter().all(|span| span.ends_turn));
    assert_eq!(
        tokenizer.decode_all(&document.ids).unwrap(),
        "<role>SYSTEM</role>be brief\ndetailed thinking off<|role_end|><role>HUMAN</role>hi<|role_end|>\
         <role>ASSISTANT</role>hello<|role_end|><role>HUMAN</role>bye<|role_end|>\
         <role>ASSISTANT</role>see you<|role_end|>"
    );
}

#[test]
fn a_turn_can_be_left_out() {
    let tokenizer = tokenizer();
    let row = one_line(TWO_TURNS).replace(r#""hello"}"#, r#""hello", "train": false}"#);
    let document = read(&tokenizer, &row, 500).unwrap();
    assert_eq!(learned(&tokenizer, &document), ["see you<|role_end|>"]);
}

#[test]
fn a_turn_sees_what_came_before_it_and_eos_after_its_end() {
    let tokenizer = tokenizer();
    let document = read(&tokenizer, &one_line(TWO_TURNS), 500).unwrap();
    let eos = tokenizer.specials().eos;
    let size = BlockSize::new(32).unwrap();
    for (turn, span) in document.turns(eos, size).iter().zip(&document.spans) {
        let end = span.range.end;
        assert_eq!(turn.ids[..end], document.ids[..end]);
        assert!(turn.ids[end..].iter().all(|id| Some(*id) == eos));
        assert!(turn.ids.len() > end && turn.ids.len().is_multiple_of(32));
        let expected = (0..turn.ids.len()).map(|i| i >= span.range.start);
        assert!(turn.supervised.iter().copied().eq(expected));
    }
}

#[test]
fn a_turn_that_ends_its_block_is_followed_by_a_block_of_eos() {
    let ids: Vec<u32> = (0..12).collect();
    let size = BlockSize::new(4).unwrap();
    let turns = |ids: &[u32]| Document::answer(ids.to_vec(), 5).turns(Some(11), size);
    assert_eq!(
        turns(&ids[..8])[0].ids[8..],
        [11; 4],
        "it does not say that it ends"
    );
    assert_eq!(turns(&ids[..10])[0].ids[10..], [11; 2]);
    assert_eq!(turns(&ids)[0].ids.len(), 12, "it ends with EOS already");
    let plain = Document::text(ids[..8].to_vec());
    assert_eq!(
        plain.turns(Some(11), size)[0].ids.len(),
        8,
        "text is not filled"
    );
}

#[test]
fn a_conversation_that_is_too_long_keeps_its_whole_turns_filled() {
    let tokenizer = tokenizer();
    let whole = read(&tokenizer, &one_line(TWO_TURNS), 500).unwrap();
    let (first, second) = (&whole.spans[0].range, &whole.spans[1].range);
    let cut = read(&tokenizer, &one_line(TWO_TURNS), second.start + 2).unwrap();
    assert_eq!(learned(&tokenizer, &cut), ["hello<|role_end|>", "se"]);
    assert_eq!(
        cut.spans.iter().map(|s| s.ends_turn).collect::<Vec<_>>(),
        [true, false]
    );
    let cut = read(&tokenizer, &one_line(TWO_TURNS), second.start - 1).unwrap();
    assert_eq!(
        cut.ids.len(),
        first.end,
        "a prompt without an answer teaches nothing"
    );
}

#[test]
fn contents_that_spell_special_tokens_stay_text() {
    let row = r#"{"messages": [{"role": "assistant", "content": "<|mask|>"}]}"#;
    let message = read(&tokenizer(), row, 500).unwrap_err().to_string();
    assert!(message.contains("cannot represent '<'"), "{message}");
}

#[test]
fn an_answer_ends_with_the_first_eos_of_its_template() {
    let source = "{% for m in messages %}<role>{{ m.role }}</role>{{ m.content }}<|end|>\n{% endfor %}\
                  {% if add_generation_prompt %}<role>assistant</role>{% endif %}";
    let tokenizer = with_template(source);
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let document = read(&tokenizer, row, 500).unwrap();
    assert_eq!(learned(&tokenizer, &document), ["b<|end|>"]);
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused() {
    let source = "{% for m in messages %}<role>{{ m.role }}</role>\
                  {{ m.content if loop.last or m.role == 'user' else 'gone' }}<|end|>{% endfor %}\
                  {% if add_generation_prompt %}<role>assistant</role>{% endif %}";
    let tokenizer = with_template(source);
    let message = read(&tokenizer, &one_line(TWO_TURNS), 500)
        .unwrap_err()
        .to_string();
    assert!(message.contains("renders message 3 otherwise"), "{message}");
    let last_only = one_line(TWO_TURNS).replace(r#""hello"}"#, r#""hello", "train": false}"#);
    let document = read(&tokenizer, &last_only, 500).unwrap();
    assert_eq!(learned(&tokenizer, &document), ["see you<|end|>"]);
}

#[test]
fn malformed_messages_are_named() {
    for (messages, problem) in [
        ("5", "a list of at least one message"),
        ("[5]", "message 1: expected an object"),
        (r#"[{"content": "a"}]"#, "message 1: `role` must be a text"),
        (
            r#"[{"role": "user"}]"#,
            "message 1: `content` must be a text",
        ),
        (
            r#"[{"role": "user", "content": "a", "train": true}]"#,
            "for assistant messages only",
        ),
        (
            r#"[{"role": "assistant", "content": "a", "train": 1}]"#,
            "must be true or false, found 1",
        ),
        (
            r#"[{"role": "robot", "content": "a"}, {"role": "assistant", "content": "a"}]"#,
            "cannot render `messages`",
        ),
    ] {
        let row = format!(r#"{{"messages": {messages}}}"#);
        let message = read(&tokenizer(), &row, 500).unwrap_err().to_string();
        assert!(message.contains(problem), "{messages}: {message}");
    }
}

#[test]
fn a_conversation_without_a_turn_to_learn_is_no_document() {
    let row = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    let message = read(&tokenizer(), row, 500).unwrap_err().to_string();
    assert!(
        message.contains("no document with a token to predict"),
        "{message}"
    );
}

#[test]
fn messages_need_a_checkpoint_with_a_chat_template() {
    let tokenizer = Tokenizer::characters("ab", &["<|end|>"]).unwrap();
    let row = r#"{"messages": [{"role": "assistant", "content": "a"}]}"#;
    let message = read(&tokenizer, row, 500).unwrap_err().to_string();
    assert!(message.contains("need a chat template"), "{message}");
}

#[test]
fn a_pair_after_a_conversation_learns_its_answers_only() {
    let tokenizer = tokenizer();
    let pair = TWO_TURNS.replace("]}", r#"], "chosen": "fine", "rejected": "no"}"#);
    let pair = read_units(&tokenizer, &one_line(&pair), 500, Unit::Pair).unwrap();
    assert_eq!(pair.len(), 2);
    for (document, answer) in pair.iter().zip(["fine", "no"]) {
        let whole = TWO_TURNS.replace(
            "]}",
            &format!(r#", {{"role": "assistant", "content": "{answer}"}}]}}"#),
        );
        let whole = read(&tokenizer, &one_line(&whole), 500).unwrap();
        assert_eq!(document.ids, whole.ids);
        assert_eq!(document.spans, whole.spans[2..]);
    }
}
