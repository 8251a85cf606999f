//! Tokenizers put together from parts, always as the JSON of a standard `tokenizer.json`.
//!
//! Two kinds: byte-level BPE from a vocabulary and merges (Qwen2, SDAR, GPT-2), and a tokenizer of
//! single characters for toy tasks. Every other kind has to come as a `tokenizer.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::checkpoint::{TokenizerConfig, read_json, read_text};
use crate::error::{Error, Result};
use crate::special::Role;

/// How Qwen2 and its descendants split text before merging; from `tokenization_qwen2.py`.
pub(crate) const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Llama 3 splits text before merging; as Qwen2, with up to three digits together.
pub(crate) const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The only special token of GPT-2, whose original release has no configuration file.
const GPT2_END: &str = "<|endoftext|>";

/// Which rule splits text before merging.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SplitRule {
    Qwen2,
    Gpt2,
}

/// Assembles byte-level BPE from `vocab.json` and `merges.txt`, or `encoder.json` and `vocab.bpe`.
///
/// GPT-2's implied special tokens are written into `config`.
pub(crate) fn byte_level_bpe(dir: &Path, config: &mut TokenizerConfig) -> Result<Value> {
    let missing = || Error::NoTokenizer { dir: dir.into() };
    let hub: Option<Map<String, Value>> = read_json(&dir.join("vocab.json"))?;
    let (vocab, merges, original_gpt2) = match hub {
        Some(vocab) => (vocab, dir.join("merges.txt"), false),
        None => {
            let vocab = read_json(&dir.join("encoder.json"))?.ok_or_else(missing)?;
            (vocab, dir.join("vocab.bpe"), true)
        }
    };
    let merges = parse_merges(&merges, &read_text(&merges)?.ok_or_else(missing)?)?;
    let rule = split_rule(config, original_gpt2)?;
    if rule == SplitRule::Gpt2 {
        for role in [Role::Bos, Role::Eos]
            .into_iter()
            .filter(|_| vocab.contains_key(GPT2_END))
        {
            if config.token(role).is_none() {
                config.set_token(role, GPT2_END);
            }
        }
    }
    let added = added_tokens(dir, config)?;
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": match rule {
            SplitRule::Qwen2 => json!({"type": "NFC"}),
            SplitRule::Gpt2 => Value::Null,
        },
        "pre_tokenizer": pre_tokenizer(rule),
        "post_processor": bos_processor(config, &vocab, &added),
        "decoder": byte_level(false),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }))
}

fn split_rule(config: &TokenizerConfig, original_gpt2: bool) -> Result<SplitRule> {
    match config.0.get("tokenizer_class").and_then(Value::as_str) {
        Some("Qwen2Tokenizer" | "Qwen2TokenizerFast") => Ok(SplitRule::Qwen2),
        Some("GPT2Tokenizer" | "GPT2TokenizerFast") => Ok(SplitRule::Gpt2),
        Some(class) => Err(Error::UnsupportedClass {
            class: class.into(),
        }),
        None if original_gpt2 => Ok(SplitRule::Gpt2),
        None => Ok(SplitRule::Qwen2),
    }
}

pub(crate) fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

fn pre_tokenizer(rule: SplitRule) -> Value {
    match rule {
        SplitRule::Gpt2 => byte_level(true),
        SplitRule::Qwen2 => regex_split(QWEN2_SPLIT),
    }
}

/// Splits by a pattern, then spells bytes in the byte-level alphabet.
pub(crate) fn regex_split(pattern: &str) -> Value {
    json!({
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": false,
            },
            byte_level(false),
        ],
    })
}

/// Reads `a b` per line; the first line may be a `#version` comment.
fn parse_merges(path: &Path, text: &str) -> Result<Vec<[String; 2]>> {
    let is_comment = |i: usize, line: &str| i == 0 && line.starts_with("#version");
    text.lines()
        .enumerate()
        .filter(|&(i, line)| !line.is_empty() && !is_comment(i, line))
        .map(|(i, line)| match line.split_once(' ') {
            Some((left, right))
                if !left.is_empty() && !right.is_empty() && !right.contains(' ') =>
            {
                Ok([left.to_string(), right.to_string()])
            }
            _ => Err(Error::Merge {
                path: path.into(),
                line: i + 1,
            }),
        })
        .collect()
}

/// Checks that every BPE merge joins two tokens of the vocabulary into a third.
///
/// The `tokenizers` crate relies on it: a product longer than every token makes it panic.
pub(crate) fn check_merges(definition: &Value) -> Result<()> {
    let model = &definition["model"];
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array())
    else {
        return Ok(()); // not BPE, or malformed in a way that the parser reports
    };
    let prefix = model["continuing_subword_prefix"]
        .as_str()
        .unwrap_or_default();
    for merge in merges {
        let product = merged_pair(merge)
            .and_then(|(left, right)| Some(left.to_owned() + right.get(prefix.len()..)?));
        if !product.is_some_and(|product| vocab.contains_key(&product)) {
            let message = format!("the merge {merge} does not make a token of the vocabulary");
            return Err(Error::Build {
                source: message.into(),
            });
        }
    }
    Ok(())
}

/// Reads a merge: a pair, or in older files one string with a space.
fn merged_pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(pair) => pair.split_once(' '),
        _ => Some((merge.get(0)?.as_str()?, merge.get(1)?.as_str()?)),
    }
}

/// Lists the added tokens in the order of their ids, which is the order that assigns them.
///
/// `added_tokens_decoder` of `tokenizer_config.json` wins over `added_tokens.json`: where published
/// checkpoints disagree, the reference implementation reads the former.
fn added_tokens(dir: &Path, config: &TokenizerConfig) -> Result<Vec<Value>> {
    let mut by_id = BTreeMap::new();
    if let Some(Value::Object(decoder)) = config.0.get("added_tokens_decoder") {
        for (id, token) in decoder {
            by_id.insert(
                id.parse::<u32>().map_err(|_| bad_id(dir, id))?,
                token.clone(),
            );
        }
    } else {
        let added: BTreeMap<String, u32> =
            read_json(&dir.join("added_tokens.json"))?.unwrap_or_default();
        by_id.extend(
            added
                .into_iter()
                .map(|(text, id)| (id, json!({"content": text}))),
        );
    }
    Ok(by_id
        .into_iter()
        .map(|(id, token)| added_token(id, &token))
        .collect())
}

fn bad_id(dir: &Path, id: &str) -> Error {
    let message = format!("`added_tokens_decoder`: `{id}` is not a token id");
    Error::Json {
        path: dir.join("tokenizer_config.json"),
        source: <serde_json::Error as serde::de::Error>::custom(message),
    }
}

/// Completes an added token with the flags it leaves out.
fn added_token(id: u32, token: &Value) -> Value {
    let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
    json!({
        "id": id,
        "content": token.get("content"),
        "single_word": flag("single_word"),
        "lstrip": flag("lstrip"),
        "rstrip": flag("rstrip"),
        "normalized": flag("normalized"),
        "special": flag("special"),
    })
}

/// Returns a post-processor that prepends BOS where the configuration asks for it.
fn bos_processor(config: &TokenizerConfig, vocab: &Map<String, Value>, added: &[Value]) -> Value {
    let Some(bos) = config
        .token(Role::Bos)
        .filter(|_| config.flag("add_bos_token"))
    else {
        return Value::Null;
    };
    let added_id = || Some(&added.iter().find(|token| token["content"] == bos)?["id"]);
    let Some(id) = vocab.get(bos).or_else(added_id) else {
        return Value::Null; // reported when the roles are resolved
    };
    json!({
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    })
}

/// Assembles a tokenizer with one token per character of `alphabet`, then the special tokens.
///
/// The split pattern is `[\s\S]` because `(?s).` means something else to the regex engine that the
/// Python package uses.
pub(crate) fn characters(alphabet: &str, specials: &[&str]) -> Result<Value> {
    let mut seen = BTreeSet::new();
    let singles = alphabet.chars().map(String::from);
    let tokens: Vec<String> = singles
        .chain(specials.iter().map(ToString::to_string))
        .collect();
    let num_characters = tokens.len() - specials.len();
    for (i, token) in tokens.iter().enumerate() {
        // A special of one character could not be told from the character itself.
        let too_short = i >= num_characters && token.chars().count() < 2;
        if too_short || !seen.insert(token) {
            return Err(Error::Alphabet {
                token: token.clone(),
            });
        }
    }
    let ids = || tokens.iter().cloned().zip(0_u32..);
    let special =
        |(text, id): (String, u32)| added_token(id, &json!({"content": text, "special": true}));
    Ok(json!({
        "version": "1.0",
        "added_tokens": ids().skip(num_characters).map(special).collect::<Vec<_>>(),
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": false,
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": ids().collect::<BTreeMap<_, _>>(),
            // Deliberately not in the vocabulary: a character outside the alphabet is an error.
            "unk_token": "<unk>",
        },
    }))
}
