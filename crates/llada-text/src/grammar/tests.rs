use std::collections::BTreeSet;

use regex::Regex;

use self::schemas::Random;
use super::*;
use crate::tokenizer::Tokenizer;

mod schemas;

/// Rows of a model for the tokenizer below: a few more than it has tokens.
const VOCAB_SIZE: usize = 300;
/// Tokens after which a walk takes whatever leads to the end.
const PATIENCE: usize = 60;

fn load(path: &str) -> Tokenizer {
    Tokenizer::load(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A byte-level tokenizer with all 256 bytes, a few merges and a MASK flagged as ordinary text.
fn byte_level() -> (Tokenizer, Vocabulary) {
    let tokenizer = load("testdata/tiny-bpe");
    let end = tokenizer.specials().eos.unwrap();
    let vocabulary = Vocabulary::new(&tokenizer, VOCAB_SIZE, &[end]).unwrap();
    (tokenizer, vocabulary)
}

/// A tokenizer with `▁` for spaces, one before each text, and no byte tokens.
fn with_first_space() -> (Tokenizer, Vocabulary) {
    let tokenizer = load("../../assets/tinystories-656k");
    let end = tokenizer.specials().eos.unwrap();
    let vocabulary = Vocabulary::new(&tokenizer, 2048, &[end]).unwrap();
    (tokenizer, vocabulary)
}

/// Takes random allowed tokens to an end token and returns the answer's ids without that.
///
/// On the way, what the matcher says in different ways has to agree.
fn walk(matcher: &mut Matcher, closers: &[u32], end: u32, random: &mut Random) -> Vec<u32> {
    let mut ids = Vec::new();
    loop {
        assert!(ids.len() < 2000, "no end in sight");
        let allowed = matcher.allowed().unwrap();
        assert_eq!(allowed.contains(end), matcher.is_accepting());
        let anywhere = u32::try_from(random.below(VOCAB_SIZE)).unwrap();
        assert_eq!(
            matcher.accepts(&[anywhere]) == 1,
            allowed.contains(anywhere)
        );

        let close = ids.len() > PATIENCE || random.below(6) == 0;
        let closer = closers.iter().find(|&&id| close && allowed.contains(id));
        let id = closer.copied().unwrap_or_else(|| {
            let allowed: Vec<u32> = allowed.iter().collect();
            *random.pick(&allowed)
        });
        matcher.consume(id).unwrap();
        if id == end {
            return ids;
        }
        ids.push(id);
    }
}

/// Returns the end token, then those that close strings, arrays and objects.
fn closers(tokenizer: &Tokenizer, end: u32) -> Vec<u32> {
    let texts = ["\"", "}", "]", ","].into_iter();
    let ids = texts.filter_map(|text| tokenizer.id(text));
    std::iter::once(end).chain(ids).collect()
}

#[test]
fn every_answer_is_json_that_the_schema_describes() {
    let (tokenizer, vocabulary) = byte_level();
    let end = tokenizer.specials().eos.unwrap();
    let closers = closers(&tokenizer, end);
    let mut random = Random(7);
    let mut answers = BTreeSet::new();
    for _ in 0..200 {
        let schema = schemas::random(&mut random, 3);
        let grammar = Grammar::json_schema(&vocabulary, &schema.to_string()).unwrap();
        let ids = walk(&mut grammar.matcher(), &closers, end, &mut random);
        let text = tokenizer.decode(&ids).unwrap();
        let value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error} in {text} for {schema}"));
        assert!(schemas::describes(&schema, &value), "{schema} {value}");
        answers.insert(text);
    }
    assert!(answers.len() > 100, "the walks are hardly random");
}

#[test]
fn a_recursive_schema_is_followed() {
    let (tokenizer, vocabulary) = byte_level();
    let schema = json!({
        "$defs": {"tree": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["name"],
            "additionalProperties": false,
        }},
        "$ref": "#/$defs/tree",
    });
    let grammar = Grammar::json_schema(&vocabulary, &schema.to_string()).unwrap();
    let answer = r#"{"name": "日本 é", "children": [{"name": "", "children": []}]}"#;
    let ids = tokenizer.encode(answer).unwrap();
    let mut matcher = grammar.matcher();
    assert_eq!(matcher.accepts(&ids), ids.len());
    ids.iter().for_each(|&id| matcher.consume(id).unwrap());
    assert!(matcher.is_complete());
    let wrong = tokenizer.encode(r#"{"name": 1}"#).unwrap();
    assert_eq!(grammar.matcher().accepts(&wrong), wrong.len() - 2);
}

#[test]
fn every_answer_matches_the_whole_regex() {
    let patterns = [
        "[a-z]{1,3}(, [a-z]+)*[.!?]",
        "(yes|no|maybe)",
        r"^\d{4}-\d{2}-\d{2}$",
        "日本|é+x?",
        r"\p{Greek}{2,4}",
        "( ?hello){1,3}",
        " *a",
        "a?",
    ];
    for (tokenizer, vocabulary) in [byte_level(), with_first_space()] {
        let end = tokenizer.specials().eos.unwrap();
        let mut random = Random(3);
        for pattern in patterns {
            let grammar = match Grammar::regex(&vocabulary, pattern) {
                Ok(grammar) => grammar,
                // Only the byte-level vocabulary has Greek.
                Err(Error::Unspellable { .. }) if vocabulary.drops_first_space() => continue,
                Err(error) => panic!("{error}"),
            };
            let whole = Regex::new(&format!("^(?:{pattern})$")).unwrap();
            for _ in 0..20 {
                let ids = walk(&mut grammar.matcher(), &[end], end, &mut random);
                let text = tokenizer.decode(&ids).unwrap();
                assert!(whole.is_match(&text), "{text:?} does not match {pattern}");
            }
        }
    }
}

#[test]
fn special_tokens_and_rows_without_a_token_are_no_text() {
    let (tokenizer, vocabulary) = byte_level();
    let grammar = Grammar::json_schema(&vocabulary, r#"{"type": "string"}"#).unwrap();
    let mut matcher = grammar.matcher();
    matcher.consume(tokenizer.id("\"").unwrap()).unwrap();
    let allowed = matcher.allowed().unwrap();
    assert!(allowed.contains(tokenizer.id("hello").unwrap()));
    let special = tokenizer.specials().iter().map(|(id, _)| id);
    let padding = tokenizer.largest_id() + 1..300;
    for id in special.chain(padding).chain([300, u32::MAX]) {
        assert!(!allowed.contains(id), "{id}");
        assert_eq!(matcher.accepts(&[id]), 0, "{id}");
        assert!(matches!(matcher.consume(id), Err(Error::NotAllowed { .. })));
    }
    // The text of a special token can still be spelled.
    let spelled = tokenizer.encode("<|MASK|>\"").unwrap();
    assert_eq!(matcher.accepts(&spelled), spelled.len());
}

#[test]
fn after_the_end_only_end_tokens_follow() {
    let (tokenizer, vocabulary) = byte_level();
    let end = tokenizer.specials().eos.unwrap();
    let a = tokenizer.id("a").unwrap();
    for pattern in ["a", "a+"] {
        let mut matcher = Grammar::regex(&vocabulary, pattern).unwrap().matcher();
        assert_eq!(matcher.accepts(&[end]), 0);
        assert_eq!(matcher.accepts(&[a, end, end, a]), 3);
        [a, end, end]
            .into_iter()
            .for_each(|id| matcher.consume(id).unwrap());
        assert!(matcher.is_complete());
        assert_eq!(matcher.allowed().unwrap().iter().collect::<Vec<_>>(), [end]);
        assert_eq!(matcher.accepts(&[end, a]), 1);
    }
}

#[test]
fn tokens_given_back_leave_no_trace() {
    let (tokenizer, vocabulary) = byte_level();
    let end = tokenizer.specials().eos.unwrap();
    let grammar = Grammar::json_schema(&vocabulary, r#"{"enum": [{"a": [1, 23]}]}"#).unwrap();
    let mut ids = tokenizer.encode(r#"{"a": [1, 23]}"#).unwrap();
    ids.extend([end, end]);
    let mut matcher = grammar.matcher();
    let mut states = Vec::new();
    for &id in &ids {
        states.push(matcher.allowed().unwrap());
        matcher.consume(id).unwrap();
    }
    for from in 0..ids.len() {
        let mut back = matcher.clone();
        back.rollback(ids.len() - from).unwrap();
        assert_eq!(back.allowed().unwrap(), states[from], "from {from}");
        assert_eq!(back.accepts(&ids[from..]), ids.len() - from);
    }
    assert!(matcher.is_complete(), "a clone is independent");
}

#[test]
fn misuse_leaves_the_matcher_as_it_was() {
    let (tokenizer, vocabulary) = byte_level();
    let mut matcher = Grammar::regex(&vocabulary, "ab+").unwrap().matcher();
    let [a, b] = ["a", "b"].map(|text| tokenizer.id(text).unwrap());
    matcher.consume(a).unwrap();
    let before = matcher.allowed().unwrap();
    assert!(matcher.consume(a).is_err());
    assert_eq!(matcher.accepts(&[u32::MAX, b]), 0);
    let too_many = matcher.rollback(2).unwrap_err();
    assert_eq!(
        too_many.to_string(),
        "cannot give 2 tokens back: only 1 were taken"
    );
    assert_eq!(matcher.allowed().unwrap(), before);
    assert_eq!(matcher.accepts(&[b, b, a]), 2);
}

#[test]
fn a_grammar_that_the_vocabulary_cannot_begin_is_refused_at_once() {
    let (_, vocabulary) = with_first_space();
    let refused = Grammar::json_schema(&vocabulary, r#"{"type": "object"}"#).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cannot match the JSON schema: the vocabulary has no token for what has to come next"
    );
}

#[test]
fn a_dead_end_is_an_error_that_can_be_undone() {
    let tokenizer = Tokenizer::characters("abc", &["<|end|>"]).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer, 4, &[3]).unwrap();
    let mut matcher = Grammar::regex(&vocabulary, "a(bx|c)").unwrap().matcher();
    [0, 1]
        .into_iter()
        .for_each(|id| matcher.consume(id).unwrap());
    for _ in 0..2 {
        assert!(matches!(matcher.allowed(), Err(Error::Unspellable { .. })));
    }
    matcher.rollback(1).unwrap();
    assert!(matcher.allowed().unwrap().contains(2));
}

#[test]
fn errors_say_in_one_line_what_is_wrong() {
    let (_, vocabulary) = byte_level();
    for (regex, reason) in [
        ("(a", "unclosed group"),
        (")(", "unopened group"),
        ("a|*", "repetition operator missing expression"),
        (
            "a\\",
            "incomplete escape sequence, reached end of pattern prematurely",
        ),
        (
            "(?=a)",
            "look-around, including look-ahead and look-behind, is not supported",
        ),
    ] {
        let error = Grammar::regex(&vocabulary, regex).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot match the regex: {reason}")
        );
    }
    for (schema, reason) in [
        ("3", "schema must be an object or boolean"),
        (r#"{"type": "text"}"#, "Invalid type: text"),
        (r#"{"not": {}}"#, r#"Unimplemented keys: ["not"]"#),
        (r#"{"pattern": "(a"}"#, "unclosed group"),
        (
            r#"{"type": "integer", "minimum": 3, "maximum": 2}"#,
            "Unsatisfiable schema: minimum (3) is greater than maximum (2)",
        ),
    ] {
        let error = Grammar::json_schema(&vocabulary, schema).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot match the JSON schema: {reason}")
        );
    }
    let error = Grammar::json_schema(&vocabulary, "{")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the JSON schema is not JSON: EOF"),
        "{error}"
    );
}

#[test]
fn end_ids_must_be_rows_of_the_model() {
    let (tokenizer, _) = byte_level();
    for end_ids in [&[][..], &[1, 300]] {
        let refused = Vocabulary::new(&tokenizer, VOCAB_SIZE, end_ids);
        assert!(matches!(refused, Err(Error::EndIds { vocab_size: 300 })));
    }
}

#[test]
fn white_space_between_the_parts_of_json_is_bounded() {
    let (tokenizer, vocabulary) = byte_level();
    let grammar = Grammar::json_schema(&vocabulary, "{}").unwrap();
    let num_accepted = |text: &str| {
        let ids = tokenizer.encode(text).unwrap();
        let num = grammar.matcher().accepts(&ids);
        tokenizer.decode(&ids[..num]).unwrap()
    };
    let indented = "{\n  \"a\": [\n    1,\n    null\n  ]\n}";
    assert_eq!(num_accepted(indented), indented);
    assert_eq!(num_accepted("[  1]"), "[ ");
    assert_eq!(num_accepted("[\n\n1]"), "[");
}

#[test]
fn byte_tokens_may_replace_the_tokens_that_they_spell() {
    let definition = json!({
        "version": "1.0",
        "added_tokens": [{
            "id": 0, "content": "</s>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        }],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "byte_fallback": true, "merges": [], "vocab": {
            "</s>": 0, "<0x61>": 1, "<0xC3>": 2, "<0xA9>": 3, "a": 4, "▁": 5,
        }},
    });
    let tokenizer = Tokenizer::build(definition, Default::default()).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer, 6, &[0]).unwrap();
    let mut matcher = Grammar::regex(&vocabulary, "aé").unwrap().matcher();
    let allowed: Vec<u32> = matcher.allowed().unwrap().iter().collect();
    assert_eq!(allowed, [1, 4, 5]);
    for ids in [[1, 2, 3, 0], [4, 2, 3, 0]] {
        assert_eq!(matcher.accepts(&ids), 4);
    }
    assert_eq!(matcher.accepts(&[5, 4, 2, 3, 0]), 5);
    assert_eq!(matcher.accepts(&[5, 5]), 1);
}

#[test]
fn a_matcher_can_move_to_another_thread_and_a_grammar_be_shared() {
    fn sendable<T: Send>() {}
    fn shareable<T: Send + Sync>() {}
    sendable::<Matcher>();
    shareable::<Grammar>();
}
