//! The tokenizer of a GGUF file (`gguf.md` section 3): byte-level BPE in ggml's keys.
//!
//! Files also hold `tokenizer.json` itself under `tokenizer.huggingface.json`; [`Tokenizer::from_json`]
//! reads that. Tokenizers of other kinds have only that form.

use serde_json::{Map, Value, json};

use crate::assemble::{LLAMA3_SPLIT, QWEN2_SPLIT, byte_level, regex_split};
use crate::checkpoint::TokenizerConfig;
use crate::error::{Error, Result};
use crate::special::Role;
use crate::tokenizer::Tokenizer;

/// How Ling-2.0 and LLaDA2 split text before merging.
const BAILING_SPLIT: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// Names of split rules, and whether text is normalised to NFC before.
const RULES: [(&str, &str, bool); 3] = [
    ("bailingmoe2", BAILING_SPLIT, false),
    ("qwen2", QWEN2_SPLIT, true),
    ("llama-bpe", LLAMA3_SPLIT, false),
];
/// Kinds of tokens in `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

/// Byte-level BPE as GGUF keys hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.pre`.
    pub pre: String,
    /// `tokenizer.ggml.tokens`: texts in the byte-level alphabet by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`, as long.
    pub token_types: Vec<i64>,
    /// `tokenizer.ggml.merges`: `left right` by rank.
    pub merges: Vec<String>,
}

impl Tokenizer {
    /// Builds from the text of a `tokenizer.json`, the ids of special tokens and a chat template.
    ///
    /// # Errors
    /// If the text is not a tokenizer, or an id is not in its vocabulary.
    pub fn from_json(
        text: &str,
        roles: &[(Role, u32)],
        chat_template: Option<&str>,
    ) -> Result<Self> {
        let definition = serde_json::from_str(text).map_err(|source| Error::Json {
            path: "tokenizer.huggingface.json".into(),
            source,
        })?;
        Self::with_roles(definition, roles, chat_template)
    }

    /// Builds from GGUF's keys.
    ///
    /// # Errors
    /// If the split rule is unknown, the lists do not fit together, or an id is not in the vocabulary.
    pub fn from_gguf(
        vocabulary: &GgufVocabulary,
        roles: &[(Role, u32)],
        chat_template: Option<&str>,
    ) -> Result<Self> {
        Self::with_roles(definition(vocabulary)?, roles, chat_template)
    }

    fn with_roles(
        definition: Value,
        roles: &[(Role, u32)],
        chat_template: Option<&str>,
    ) -> Result<Self> {
        let plain = Self::build(definition.clone(), TokenizerConfig::default())?;
        let mut config = TokenizerConfig::default();
        for (role, id) in roles {
            let text = plain.text(*id).ok_or_else(|| Error::UnknownSpecial {
                role: *role,
                text: format!("with id {id}"),
            })?;
            config.set_token(*role, &text);
        }
        if let Some(template) = chat_template {
            config.0.insert("chat_template".into(), template.into());
        }
        Self::build(definition, config)
    }

    /// Returns the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// If the tokenizer cannot be written.
    pub fn to_json(&self) -> Result<String> {
        self.inner
            .to_string(false)
            .map_err(|source| Error::Build { source })
    }

    /// Returns the chat template's source where it is a single one.
    pub fn chat_template_source(&self) -> Option<&str> {
        self.config.0.get("chat_template").and_then(Value::as_str)
    }

    /// Returns GGUF's form for a model of `vocab_size` rows, `None` where it has none: for other kinds
    /// of tokenizers and unknown split rules.
    ///
    /// # Errors
    /// If the tokenizer cannot be written.
    pub fn to_gguf(&self, vocab_size: usize) -> Result<Option<GgufVocabulary>> {
        let definition: Value =
            serde_json::from_str(&self.to_json()?).map_err(|source| Error::Build {
                source: source.into(),
            })?;
        let model = &definition["model"];
        let (Some(pre), Some(vocab), "BPE") = (
            rule_of(&definition),
            model["vocab"].as_object(),
            model["type"].as_str().unwrap_or_default(),
        ) else {
            return Ok(None);
        };
        let mut tokens: Vec<_> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
        let mut token_types = vec![UNUSED; vocab_size];
        let mut set = |id: &Value, text: &str, kind| {
            let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
            if let Some(id) = id.filter(|id| *id < vocab_size) {
                text.clone_into(&mut tokens[id]);
                token_types[id] = kind;
            }
        };
        vocab.iter().for_each(|(text, id)| set(id, text, NORMAL));
        for added in definition["added_tokens"].as_array().into_iter().flatten() {
            let kind = if added["special"] == true {
                CONTROL
            } else {
                USER_DEFINED
            };
            set(
                &added["id"],
                added["content"].as_str().unwrap_or_default(),
                kind,
            );
        }
        let merges = model["merges"].as_array().into_iter().flatten();
        Ok(Some(GgufVocabulary {
            pre: pre.into(),
            tokens,
            token_types,
            merges: merges.map(merge_text).collect(),
        }))
    }
}

/// Writes a merge as GGUF does.
fn merge_text(merge: &Value) -> String {
    match merge {
        Value::Array(pair) => pair
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" "),
        _ => merge.as_str().unwrap_or_default().to_owned(),
    }
}

/// Finds the name of the rule by which a tokenizer splits text.
fn rule_of(definition: &Value) -> Option<&'static str> {
    let nfc = definition["normalizer"]["type"] == "NFC";
    let pattern = definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].as_str()?;
    // Possessive quantifiers change no match here, and not every engine has them.
    let pattern = pattern.replace("?+", "?").replace("++", "+");
    let rule = RULES
        .iter()
        .find(|(_, rule, normalised)| *rule == pattern && *normalised == nfc);
    rule.map(|(name, ..)| *name)
}

/// Returns the `tokenizer.json` that GGUF's keys amount to.
fn definition(vocabulary: &GgufVocabulary) -> Result<Value> {
    let refuse = |message: String| Error::Build {
        source: message.into(),
    };
    let rule = RULES.iter().find(|(name, ..)| *name == vocabulary.pre);
    let Some((_, pattern, normalised)) = rule else {
        let known = RULES.map(|(name, ..)| name).join(", ");
        let pre = &vocabulary.pre;
        return Err(refuse(format!(
            "`tokenizer.ggml.pre` is `{pre}`, expected one of {known}"
        )));
    };
    if vocabulary.tokens.len() != vocabulary.token_types.len() {
        let (tokens, types) = (vocabulary.tokens.len(), vocabulary.token_types.len());
        return Err(refuse(format!(
            "`tokenizer.ggml.token_type` has {types} entries for {tokens} tokens"
        )));
    }
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, (text, kind)) in vocabulary
        .tokens
        .iter()
        .zip(&vocabulary.token_types)
        .enumerate()
    {
        match *kind {
            UNUSED => {}
            NORMAL => {
                vocab.insert(text.clone(), json!(id));
            }
            kind => added.push(json!({
                "id": id,
                "content": text,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": kind == CONTROL,
            })),
        }
    }
    let merge = |merge: &String| match merge.split_once(' ') {
        Some((left, right)) => Ok(json!([left, right])),
        None => Err(refuse(format!(
            "`tokenizer.ggml.merges` has `{merge}`, expected two tokens"
        ))),
    };
    let merges = vocabulary
        .merges
        .iter()
        .map(merge)
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": if *normalised { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": regex_split(pattern),
        "decoder": byte_level(false),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of five letters, one merge, an end and a gap before it.
    fn vocabulary() -> GgufVocabulary {
        GgufVocabulary {
            pre: "bailingmoe2".into(),
            tokens: ["a", "b", "Ġ", "ab", "[PAD4]", "<|end|>"]
                .map(Into::into)
                .into(),
            token_types: vec![NORMAL, NORMAL, NORMAL, NORMAL, UNUSED, CONTROL],
            merges: vec!["a b".into()],
        }
    }

    #[test]
    fn a_vocabulary_survives_the_way_there_and_back() {
        let mut without_gap = vocabulary();
        without_gap.tokens.remove(4);
        without_gap.token_types.remove(4);
        let tokenizer =
            Tokenizer::from_gguf(&without_gap, &[(Role::Eos, 4)], Some("{{ 1 }}")).unwrap();
        assert_eq!(tokenizer.encode("ab a").unwrap(), [3, 2, 0]);
        assert_eq!(tokenizer.specials().eos, Some(4));
        assert_eq!(tokenizer.chat_template_source(), Some("{{ 1 }}"));
        assert_eq!(tokenizer.to_gguf(5).unwrap().unwrap(), without_gap);
    }

    #[test]
    fn rows_without_a_token_are_filled() {
        let mut small = vocabulary();
        small.tokens.truncate(4);
        small.token_types.truncate(4);
        let tokenizer = Tokenizer::from_gguf(&small, &[], None).unwrap();
        let filled = tokenizer.to_gguf(5).unwrap().unwrap();
        assert_eq!(
            (filled.tokens[4].as_str(), filled.token_types[4]),
            ("[PAD4]", UNUSED)
        );
    }

    #[test]
    fn an_unknown_rule_is_refused_by_name() {
        let mut other = vocabulary();
        other.pre = "dbrx".into();
        let error = Tokenizer::from_gguf(&other, &[], None).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("`dbrx`"), "{source}");
    }

    #[test]
    fn other_kinds_have_only_their_json() {
        let tokenizer = Tokenizer::characters("01", &["<|mask|>"]).unwrap();
        assert_eq!(tokenizer.to_gguf(3).unwrap(), None);
        let json = tokenizer.to_json().unwrap();
        let back = Tokenizer::from_json(&json, &[(Role::Mask, 2)], None).unwrap();
        assert_eq!(back.encode("10").unwrap(), tokenizer.encode("10").unwrap());
        assert_eq!(back.specials().mask, Some(2));
    }
}
