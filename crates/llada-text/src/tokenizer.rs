//! The tokenizer of a checkpoint: text to ids and back.
//!
//! Wraps the `tokenizers` crate and settles three things that it leaves to its caller. Special
//! tokens are marked as such even where a checkpoint forgets to (SDAR flags its MASK as an ordinary
//! token); text never turns into one; and ids that a file declares are the ids that tokens get.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokenizers::{AddedToken, DecoderWrapper, ModelWrapper};

use crate::assemble;
use crate::chat::{ChatTemplate, Conversation};
use crate::checkpoint::{self, TokenizerConfig, read_json};
use crate::error::{Error, Result};
use crate::special::{MASK_TEXTS, ROLE_END_TEXTS, Role, SpecialTokens};

/// Encodes text to token ids and decodes ids to text. Cheap to clone.
///
/// # Examples
/// ```
/// use llada_text::{Role, Tokenizer};
///
/// let mut tokenizer = Tokenizer::characters("0123456789+=", &["<|end|>", "<|mask|>"])?;
/// tokenizer.set_role(Role::Eos, "<|end|>")?;
/// let ids = tokenizer.encode("1+2=3")?;
/// assert_eq!(ids, [1, 10, 2, 11, 3]);
/// assert_eq!(tokenizer.decode(&ids)?, "1+2=3");
/// # Ok::<(), llada_text::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(crate) inner: Arc<tokenizers::Tokenizer>,
    pub(crate) config: TokenizerConfig,
    specials: SpecialTokens,
}

impl Tokenizer {
    /// Loads the tokenizer of a checkpoint directory.
    ///
    /// Reads `tokenizer.json`, else `vocab.json` and `merges.txt` (or GPT-2's `encoder.json` and
    /// `vocab.bpe`); then `tokenizer_config.json`, `special_tokens_map.json` and
    /// `chat_template.jinja` where they exist.
    ///
    /// # Errors
    /// If there is no tokenizer, a file is not UTF-8 or not valid, declared ids do not line up, or
    /// a special token is named that the vocabulary lacks.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let mut config = TokenizerConfig::load(dir)?;
        let definition = match read_json(&dir.join("tokenizer.json"))? {
            Some(definition) => definition,
            None => assemble::byte_level_bpe(dir, &mut config)?,
        };
        Self::build(definition, config)
    }

    /// Makes a tokenizer with one token per character: `alphabet` in order, then `specials`.
    ///
    /// Characters outside the alphabet are an error when encoding. `<|mask|>` among the specials
    /// becomes the MASK token; other roles are given by [`Self::set_role`].
    ///
    /// # Errors
    /// If a character or special token is listed twice, or a special has fewer than two characters.
    pub fn characters(alphabet: &str, specials: &[&str]) -> Result<Self> {
        let mut config = TokenizerConfig::default();
        config
            .0
            .insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        Self::build(assemble::characters(alphabet, specials)?, config)
    }

    /// Builds from the JSON of a `tokenizer.json`.
    pub(crate) fn build(definition: Value, config: TokenizerConfig) -> Result<Self> {
        assemble::check_merges(&definition)?;
        let declared = definition.get("added_tokens").cloned().unwrap_or_default();
        let mut inner: tokenizers::Tokenizer =
            serde_json::from_value(definition).map_err(|source| Error::Build {
                source: source.into(),
            })?;
        check_added_ids(&inner, &declared)?;
        // A file may ask to cut or pad every text; both would silently change data.
        inner
            .with_truncation(None)
            .map_err(|source| Error::Build { source })?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(true);
        let specials = SpecialTokens::default();
        let mut tokenizer = Self {
            inner: Arc::new(inner),
            config,
            specials,
        };
        tokenizer.resolve_roles()?;
        Ok(tokenizer)
    }

    /// Looks up every named special token and marks it special.
    fn resolve_roles(&mut self) -> Result<()> {
        if self.config.token(Role::Mask).is_none()
            && let Some(text) = self.first_added(&MASK_TEXTS)
        {
            self.config.set_token(Role::Mask, text);
        }
        for role in Role::ALL {
            if let Some(text) = self.config.token(role).map(str::to_owned) {
                self.id_of(role, &text)?;
                self.mark_special(&text)?;
            }
        }
        if let Some(text) = self.first_added(&ROLE_END_TEXTS) {
            self.mark_special(text)?;
        }
        self.refresh_specials();
        Ok(())
    }

    fn refresh_specials(&mut self) {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let texts: BTreeMap<_, _> = special
            .map(|(&id, token)| (id, token.content.clone()))
            .collect();
        self.specials = SpecialTokens::new(texts);
        for role in Role::ALL {
            if let Some(id) = self.config.token(role).and_then(|text| self.id(text)) {
                self.specials.set(role, id);
            }
        }
        self.specials.role_end = self
            .first_added(&ROLE_END_TEXTS)
            .and_then(|text| self.id(text));
    }

    fn first_added<'a>(&self, texts: &[&'a str]) -> Option<&'a str> {
        let added = self.inner.get_added_vocabulary().get_vocab();
        texts.iter().copied().find(|&text| added.contains_key(text))
    }

    fn id_of(&self, role: Role, text: &str) -> Result<u32> {
        self.id(text).ok_or_else(|| Error::UnknownSpecial {
            role,
            text: text.into(),
        })
    }

    /// Sets the special flag of a token, keeping its other flags; adds the token if it is new.
    fn mark_special(&mut self, text: &str) -> Result<()> {
        let known = self.id(text).and_then(|id| {
            self.inner
                .get_added_vocabulary()
                .get_added_tokens_decoder()
                .get(&id)
                .cloned()
        });
        let token = known
            .unwrap_or_else(|| AddedToken::from(text, true))
            .special(true);
        Arc::make_mut(&mut self.inner)
            .add_special_tokens([token])
            .map_err(|source| Error::Build { source })?;
        Ok(())
    }

    /// Makes `text` a special token with exactly this `id`.
    ///
    /// A token that is in the vocabulary already keeps its id, which must be `id`. A new one is
    /// appended, so `id` must be the first unused one.
    ///
    /// # Errors
    /// If the ids do not line up; the tokenizer is unchanged then.
    pub fn add_special(&mut self, text: &str, id: u32) -> Result<()> {
        if let Some(found) = self.text(id).filter(|found| found != text) {
            return Err(Error::IdTaken {
                id,
                text: text.into(),
                found,
            });
        }
        let mut changed = self.clone();
        changed.mark_special(text)?;
        match changed.id(text) {
            Some(found) if found == id => {}
            found => {
                let found = found.unwrap_or_default();
                return Err(Error::IdMismatch {
                    text: text.into(),
                    expected: id,
                    found,
                });
            }
        }
        changed.config.declare_special(text, id);
        changed.refresh_specials();
        *self = changed;
        Ok(())
    }

    /// Names a token of the vocabulary as the BOS, EOS, PAD, UNK or MASK token.
    ///
    /// # Errors
    /// If the vocabulary lacks `text`.
    pub fn set_role(&mut self, role: Role, text: &str) -> Result<()> {
        self.id_of(role, text)?;
        self.mark_special(text)?;
        self.config.set_token(role, text);
        self.refresh_specials();
        Ok(())
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, which [`Self::load`] reads back.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        let definition = self
            .inner
            .to_string(true)
            .map_err(|source| Error::Build { source })?;
        checkpoint::write(&dir.join("tokenizer.json"), &definition)?;
        let config = format!("{:#}\n", Value::Object(self.config.0.clone()));
        checkpoint::write(&dir.join("tokenizer_config.json"), &config)
    }

    /// Returns the special tokens.
    pub fn specials(&self) -> &SpecialTokens {
        &self.specials
    }

    /// Returns the id of a token by its exact text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// Returns the text of a token as the vocabulary spells it.
    pub fn text(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        added
            .get(&id)
            .map(|token| token.content.clone())
            .or_else(|| self.inner.id_to_token(id))
    }

    /// Returns what joins the tokens' texts when decoding.
    pub(crate) fn decoder(&self) -> Option<&DecoderWrapper> {
        self.inner.get_decoder()
    }

    /// Returns the largest token id.
    pub fn largest_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// Checks that a model with `vocab_size` embedding rows has one for every token.
    ///
    /// More rows than tokens are fine: checkpoints pad their embedding.
    ///
    /// # Errors
    /// If some token has no row.
    pub fn check_vocab_size(&self, vocab_size: usize) -> Result<()> {
        let largest = self.largest_id();
        if (largest as usize) < vocab_size {
            return Ok(());
        }
        Err(Error::VocabMismatch {
            largest,
            model: vocab_size,
        })
    }

    /// Encodes a document, with the BOS token where the checkpoint's tokenizer adds one.
    ///
    /// Text that spells a special token is encoded as plain text.
    ///
    /// # Errors
    /// If the vocabulary cannot represent the text, or cannot tell it from a special token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, AddedByProcessor::Yes)
    }

    /// Encodes text like [`Self::encode`], but adds nothing to it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, AddedByProcessor::No)
    }

    fn encode_with(&self, text: &str, added: AddedByProcessor) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, added == AddedByProcessor::Yes)
            .map_err(|source| self.explain_failure(text, source))?;
        let ids = encoding.get_ids();
        for (&id, &added) in ids.iter().zip(encoding.get_special_tokens_mask()) {
            // The model itself may know a special text, for example as a word of its own.
            if added == 0
                && Some(id) != self.specials.unk
                && let Some(text) = self.specials.text(id)
            {
                return Err(Error::SpecialInText { text: text.into() });
            }
        }
        Ok(ids.to_vec())
    }

    fn explain_failure(&self, text: &str, source: tokenizers::Error) -> Error {
        let lacks = |character: &char| self.id(character.encode_utf8(&mut [0; 4])).is_none();
        match (self.inner.get_model(), text.chars().find(lacks)) {
            (ModelWrapper::WordLevel(_), Some(character)) => Error::UnknownCharacter { character },
            _ => Error::Encode { source },
        }
    }

    /// Encodes trusted text, such as a hand-written prompt format: special tokens that it spells
    /// become special tokens. Nothing is added to it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_template(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_trusted(text, |piece| self.encode_text(piece))
    }

    /// Renders a conversation and encodes it. Special tokens come from the template alone: in
    /// message contents, tools and variables their texts are plain text.
    ///
    /// For contents that spell no special token the ids are those of
    /// `encode_template(&template.render(conversation)?)`.
    ///
    /// # Errors
    /// If rendering fails, or as [`Self::encode`].
    pub fn encode_chat(
        &self,
        template: &ChatTemplate,
        conversation: &Conversation,
    ) -> Result<Vec<u32>> {
        // Rendering mixes trusted and untrusted text in one expression. So the untrusted part goes
        // in with a character inside each special text, which comes out before encoding.
        let sentinel = conversation.unused_sentinel().ok_or(Error::NoSentinel)?;
        let defused = conversation.map_strings(&|text| self.specials.defuse(text, sentinel));
        let rendered = template.render(&defused)?;
        self.encode_trusted(&rendered, |piece| {
            self.encode_text(&piece.replace(sentinel, ""))
        })
    }

    fn encode_trusted(
        &self,
        text: &str,
        encode_piece: impl Fn(&str) -> Result<Vec<u32>>,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut start = 0;
        for (range, id) in self.specials.find_in(text) {
            ids.extend(encode_piece(&text[start..range.start])?);
            ids.push(id);
            start = range.end;
        }
        ids.extend(encode_piece(&text[start..])?);
        Ok(ids)
    }

    /// Decodes ids to text without special tokens.
    ///
    /// Bytes that are not UTF-8 become U+FFFD; ids without a token (padded rows of a model) are
    /// left out.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text: Vec<u32> = ids
            .iter()
            .copied()
            .filter(|&id| !self.specials.contains(id))
            .collect();
        self.decode_all(&text)
    }

    /// Decodes ids to text, special tokens included.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, false)
            .map_err(|source| Error::Decode { source })
    }

    /// Returns the template in which the checkpoint talks: its own, or the built-in one if it ships none
    /// but ends a turn with a token. `None` for a model that knows no turns.
    ///
    /// # Errors
    /// If the template is malformed.
    pub fn own_chat_template(&self) -> Result<Option<ChatTemplate>> {
        match self.has_chat_template() || self.specials.role_end.is_some() {
            true => self.chat_template().map(Some),
            false => Ok(None),
        }
    }

    /// Returns whether the checkpoint ships a chat template.
    pub fn has_chat_template(&self) -> bool {
        let source = self.config.0.get("chat_template");
        source.is_some_and(|source| !source.is_null())
    }

    /// Returns the checkpoint's chat template, or the built-in one if it ships none.
    ///
    /// # Errors
    /// If the template is malformed.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        let template = match self.config.0.get("chat_template") {
            None | Some(Value::Null) => ChatTemplate::built_in(),
            Some(source) => ChatTemplate::from_config(source)?,
        };
        let tokens = Role::ALL
            .into_iter()
            .filter_map(|role| Some((role.key(), json!(self.config.token(role)?))));
        Ok(template.with_variables(tokens))
    }
}

/// Whether the tokenizer's post-processor adds its special tokens, usually BOS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AddedByProcessor {
    Yes,
    No,
}

/// Checks that each added token has the id its file declares; the `tokenizers` crate only logs this.
fn check_added_ids(inner: &tokenizers::Tokenizer, declared: &Value) -> Result<()> {
    for token in declared.as_array().into_iter().flatten() {
        let (Some(text), Some(expected)) = (token["content"].as_str(), token["id"].as_u64()) else {
            continue; // malformed entries have been refused by the parser
        };
        let found = inner.token_to_id(text).unwrap_or_default();
        if u64::from(found) != expected {
            let expected = u32::try_from(expected).unwrap_or(u32::MAX);
            return Err(Error::IdMismatch {
                text: text.into(),
                expected,
                found,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
