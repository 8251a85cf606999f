//! The bytes that each token of a tokenizer stands for.
//!
//! A tokenizer only promises to decode whole answers to text. A grammar needs each token by itself,
//! in bytes: half a character is a token too.

use tokenizers::{Decoder, DecoderWrapper};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Tokens longer than this are left out; the trie of `llguidance` cannot hold them.
const MAX_TOKEN_BYTES: usize = 1000;
/// Decoded before a token to see how that reads inside a text.
const CONTEXT: &str = "a";

/// How the tokens of one tokenizer are spelled.
pub(crate) struct TokenBytes<'a> {
    tokenizer: &'a Tokenizer,
    decoder: &'a DecoderWrapper,
    spelling: Spelling,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Each character of a token's text stands for a byte, as GPT-2 began.
    ByteLevel,
    /// Tokens are text, but `<0x0A>` is a byte.
    ByteFallback,
    /// Tokens are text.
    Text,
}

impl<'a> TokenBytes<'a> {
    /// Finds out how a tokenizer spells its tokens.
    ///
    /// # Errors
    /// If its decoder does more than to join tokens.
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> Result<Self> {
        let Some(decoder) = tokenizer.decoder() else {
            return Err(unsupported("none")); // it puts spaces between tokens
        };
        Ok(Self {
            tokenizer,
            decoder,
            spelling: spelling(decoder)?,
        })
    }

    /// Returns the bytes of a token; none for special tokens and ids without a token.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub(crate) fn of(&self, id: u32) -> Result<Vec<u8>> {
        if self.tokenizer.specials().contains(id) {
            return Ok(Vec::new());
        }
        let Some(text) = self.tokenizer.text(id) else {
            return Ok(Vec::new());
        };
        let mut bytes = match self.spelling {
            Spelling::ByteLevel => byte_level(&text),
            Spelling::ByteFallback if let Some(byte) = fallback_byte(&text) => vec![byte],
            Spelling::ByteFallback | Spelling::Text => self.in_context(text)?.into_bytes(),
        };
        if bytes.len() > MAX_TOKEN_BYTES {
            bytes.clear();
        }
        Ok(bytes)
    }

    /// Returns whether the decoder drops a space at the start of an answer.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub(crate) fn drops_first_space(&self) -> Result<bool> {
        for id in 0..=self.tokenizer.largest_id() {
            if self.of(id)?.first() == Some(&b' ') {
                return Ok(!self.tokenizer.decode(&[id])?.starts_with(' '));
            }
        }
        Ok(false)
    }

    /// Decodes a token as it reads after another one.
    fn in_context(&self, text: String) -> Result<String> {
        let decoded = self
            .decoder
            .decode(vec![CONTEXT.into(), text])
            .map_err(|source| Error::Decode { source })?;
        match decoded.strip_prefix(CONTEXT) {
            Some(token) => Ok(token.to_owned()),
            None => Err(unsupported("one that rewrites plain letters")),
        }
    }
}

fn unsupported(decoder: &'static str) -> Error {
    Error::TokenBytes { decoder }
}

fn spelling(decoder: &DecoderWrapper) -> Result<Spelling> {
    let mut parts = Vec::new();
    flatten(decoder, &mut parts);
    let mut spelling = Spelling::Text;
    for part in parts {
        match part {
            DecoderWrapper::ByteLevel(_) => spelling = Spelling::ByteLevel,
            DecoderWrapper::ByteFallback(_) => spelling = Spelling::ByteFallback,
            DecoderWrapper::BPE(_) => return Err(unsupported("BPE")),
            DecoderWrapper::CTC(_) => return Err(unsupported("CTC")),
            DecoderWrapper::WordPiece(_) => return Err(unsupported("WordPiece")),
            DecoderWrapper::Strip(strip) if strip.stop > 0 => {
                return Err(unsupported("one that cuts the end"));
            }
            _ => {}
        }
    }
    Ok(spelling)
}

fn flatten<'a>(decoder: &'a DecoderWrapper, parts: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            for part in sequence.get_decoders() {
                flatten(part, parts);
            }
        }
        part => parts.push(part),
    }
}

/// Reads a token of byte-level BPE. Added tokens may hold characters that stand for no byte: those
/// tokens are plain text, as they are to the `tokenizers` crate.
fn byte_level(text: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| text.as_bytes().to_vec())
}

/// Returns the byte that a character of byte-level BPE stands for.
///
/// Printable characters of Latin-1 are themselves; the other 68 bytes are U+0100 and up, in order.
fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(), // 0x00..=0x20
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(), // 0x7f..=0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Reads a byte token such as `<0x0A>`.
fn fallback_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_characters_are_those_of_the_tokenizers_crate() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<u8> = alphabet.iter().map(|&c| byte_of(c).unwrap()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_level("ĠÃ©Ċ"), " é\n".as_bytes());
        assert_eq!(byte_level("<日本>"), "<日本>".as_bytes());
    }

    #[test]
    fn byte_tokens_are_read_and_nothing_like_them() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        assert_eq!(fallback_byte("<0xé>"), None);
        assert_eq!(fallback_byte("<0xGG>"), None);
    }
}
