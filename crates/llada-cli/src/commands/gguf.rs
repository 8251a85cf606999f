//! Tokenizers in GGUF files: the one place that knows both.

use std::path::Path;

use llada_model::{GgufFile, Metadata, Value};
use llada_text::{GgufVocabulary, Role, Tokenizer};

use crate::failure;

/// `tokenizer.json` as it is: every kind of tokenizer, exactly.
const JSON: &str = "tokenizer.huggingface.json";
const MODEL: &str = "tokenizer.ggml.model";
const TEMPLATE: &str = "tokenizer.chat_template";
/// Keys of special ids.
const ROLES: [(Role, &str); 5] = [
    (Role::Bos, "tokenizer.ggml.bos_token_id"),
    (Role::Eos, "tokenizer.ggml.eos_token_id"),
    (Role::Pad, "tokenizer.ggml.padding_token_id"),
    (Role::Unk, "tokenizer.ggml.unknown_token_id"),
    (Role::Mask, "tokenizer.ggml.mask_token_id"),
];

/// Loads the tokenizer of a checkpoint, which must have one.
pub(super) fn load_tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    if !path.is_file() {
        return Ok(Tokenizer::load(path)?);
    }
    read_tokenizer(path)?.ok_or_else(|| {
        failure::usage(format!(
            "`{}` has neither `{JSON}` nor a vocabulary",
            path.display()
        ))
    })
}

/// Reads the tokenizer of a GGUF file that has one.
pub(super) fn read_tokenizer(path: &Path) -> anyhow::Result<Option<Tokenizer>> {
    let file = GgufFile::open(path)?;
    let keys = file.metadata();
    let id = |key| keys.int(key).and_then(|id| u32::try_from(id).ok());
    let roles: Vec<_> = ROLES
        .iter()
        .filter_map(|(role, key)| Some((*role, id(key)?)))
        .collect();
    let template = keys.text(TEMPLATE);
    if let Some(json) = keys.text(JSON) {
        return Ok(Some(Tokenizer::from_json(json, &roles, template)?));
    }
    match keys.text(MODEL) {
        None | Some("no_vocab") => Ok(None),
        Some("gpt2") => {
            let vocabulary = vocabulary(keys)?;
            Ok(Some(Tokenizer::from_gguf(&vocabulary, &roles, template)?))
        }
        Some(other) => Err(failure::usage(format!(
            "`{}`: `{MODEL}` is `{other}`, expected gpt2 (byte-level BPE): add `{JSON}`, or prompt with --ids",
            path.display()
        ))),
    }
}

fn vocabulary(keys: &Metadata) -> anyhow::Result<GgufVocabulary> {
    let texts = |key: &str| match keys.get(key) {
        Some(Value::Texts(texts)) => Ok(texts.clone()),
        _ => Err(failure::usage(format!(
            "`{key}`: expected a list of strings"
        ))),
    };
    let token_types = match keys.get("tokenizer.ggml.token_type") {
        Some(Value::Ints(kinds)) => kinds.clone(),
        _ => {
            return Err(failure::usage(
                "`tokenizer.ggml.token_type`: expected a list of integers",
            ));
        }
    };
    Ok(GgufVocabulary {
        pre: keys.text("tokenizer.ggml.pre").unwrap_or_default().into(),
        tokens: texts("tokenizer.ggml.tokens")?,
        token_types,
        merges: texts("tokenizer.ggml.merges")?,
    })
}

/// Returns the keys that hold a tokenizer, for a model of `vocab_size` rows.
pub(super) fn tokenizer_keys(
    tokenizer: Option<&Tokenizer>,
    vocab_size: usize,
) -> anyhow::Result<Metadata> {
    let mut keys = Metadata::default();
    let vocabulary = match tokenizer {
        Some(tokenizer) => tokenizer.to_gguf(vocab_size)?,
        None => None,
    };
    match vocabulary {
        Some(vocabulary) => {
            keys.set(MODEL, Value::Text("gpt2".into()));
            keys.set("tokenizer.ggml.pre", Value::Text(vocabulary.pre));
            keys.set("tokenizer.ggml.tokens", Value::Texts(vocabulary.tokens));
            keys.set(
                "tokenizer.ggml.token_type",
                Value::Ints(vocabulary.token_types),
            );
            keys.set("tokenizer.ggml.merges", Value::Texts(vocabulary.merges));
        }
        None => keys.set(MODEL, Value::Text("no_vocab".into())),
    }
    let Some(tokenizer) = tokenizer else {
        return Ok(keys);
    };
    keys.set(JSON, Value::Text(tokenizer.to_json()?));
    for (role, key) in ROLES {
        if let Some(id) = tokenizer.specials().get(role) {
            keys.set(key, Value::Int(id.into()));
        }
    }
    if let Some(template) = tokenizer.chat_template_source() {
        keys.set(TEMPLATE, Value::Text(template.into()));
    }
    Ok(keys)
}
