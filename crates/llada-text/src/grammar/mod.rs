//! Structured output: answers that follow a JSON schema or a regex.
//!
//! A [`Vocabulary`] is made once per model, a [`Grammar`] once per schema, a [`Matcher`] per answer.
//! Matching goes from left to right: in a block of a diffusion model the allowed tokens are known
//! for the first undecided row, and the rows after it can be checked once that is decided. No set of
//! allowed tokens exists to the right of a hole.
//!
//! The answer is in the grammar where it ends with an end token. One that reaches its length limit
//! first may be cut anywhere: the grammar bounds the white space of JSON, not its strings.
//!
//! Compiling and matching are done by the `llguidance` crate.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::derivre::RegexBuilder;
use llguidance::toktrie::SimpleVob;
use serde_json::{Value, json};

use crate::error::{Error, Result};

mod bytes;
mod matcher;
mod vocabulary;

pub use matcher::Matcher;
pub use vocabulary::Vocabulary;

/// White space between the parts of JSON: a space, or a new line and its indentation. A model that
/// only ever wants to write spaces is so made to go on.
const JSON_SPACE: &str = r" |\n {0,64}";

/// A compiled language of answers. Cheap to clone.
///
/// # Examples
/// ```
/// use llada_text::{Grammar, Role, Tokenizer, Vocabulary};
///
/// let tokenizer = Tokenizer::characters("0123456789+=", &["<|end|>"])?;
/// let end = tokenizer.id("<|end|>").expect("just made");
/// let vocabulary = Vocabulary::new(&tokenizer, 13, &[end])?;
/// let grammar = Grammar::regex(&vocabulary, r"\d\+\d")?;
///
/// let mut matcher = grammar.matcher();
/// let ids = tokenizer.encode("1+2=")?;
/// assert_eq!(matcher.accepts(&ids), 3);
/// for &id in &ids[..3] {
///     matcher.consume(id)?;
/// }
/// assert_eq!(matcher.allowed()?.iter().collect::<Vec<_>>(), [end]);
/// # Ok::<(), llada_text::Error>(())
/// ```
#[derive(Clone)]
pub struct Grammar {
    vocabulary: Vocabulary,
    kind: GrammarKind,
    /// The state before the first token; copied for each answer.
    start: Arc<llguidance::Matcher>,
}

/// What a grammar was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrammarKind {
    /// A JSON schema.
    JsonSchema,
    /// A regular expression.
    Regex,
}

impl Grammar {
    /// Compiles a JSON schema: answers are JSON values that it describes.
    ///
    /// # Errors
    /// If the schema is not JSON, is unsatisfiable, uses what is not supported, or asks for text
    /// that the vocabulary cannot begin.
    pub fn json_schema(vocabulary: &Vocabulary, schema: &str) -> Result<Self> {
        let mut schema: Value = serde_json::from_str(schema).map_err(Error::SchemaJson)?;
        if let Value::Object(keywords) = &mut schema {
            // Options of `llguidance`; no JSON schema has this keyword.
            keywords.insert(
                "x-guidance".into(),
                json!({"whitespace_pattern": JSON_SPACE}),
            );
        }
        let mut grammar = TopLevelGrammar::from_json_schema(schema);
        if vocabulary.drops_first_space() {
            let start = GrammarWithLexer::from_lark(r#"start: " "? @json_schema"#.into());
            grammar.grammars.insert(0, start);
        }
        Self::compile(vocabulary, GrammarKind::JsonSchema, grammar)
    }

    /// Compiles a regular expression in the syntax of the `regex` crate: answers match as a whole.
    ///
    /// # Errors
    /// If it is malformed, uses what is not supported (such as `\b`), or asks for text that the
    /// vocabulary cannot begin.
    pub fn regex(vocabulary: &Vocabulary, regex: &str) -> Result<Self> {
        let kind = GrammarKind::Regex;
        // For its message: Lark's would show the grammar around it.
        if let Err(error) = RegexBuilder::new().mk_regex(regex) {
            return Err(kind.error(&error.to_string()));
        }
        let text = llguidance::regex_to_lark(&format!("(?:{regex})"), "");
        let start = match vocabulary.drops_first_space() {
            // Decoding drops a first space: the tokens either spell one more than the text has, or
            // spell a text that does not begin with one.
            true => r#"(" " TEXT) | (TEXT & /([^ ](?s:.*))?/)"#,
            false => "TEXT",
        };
        let lark = format!("start: START\nSTART: {start}\nTEXT: /{text}/");
        Self::compile(vocabulary, kind, TopLevelGrammar::from_lark(lark))
    }

    fn compile(
        vocabulary: &Vocabulary,
        kind: GrammarKind,
        grammar: TopLevelGrammar,
    ) -> Result<Self> {
        let parser = vocabulary
            .parser(grammar)
            .map_err(|message| kind.error(&message))?;
        let grammar = Self {
            vocabulary: vocabulary.clone(),
            kind,
            start: Arc::new(llguidance::Matcher::new(Ok(parser))),
        };
        grammar.check_start()?;
        Ok(grammar)
    }

    /// Checks that the vocabulary can begin an answer: with one token and another one after it, as
    /// the first may be a mere space.
    fn check_start(&self) -> Result<()> {
        let mut matcher = self.matcher();
        for id in matcher.allowed()?.iter() {
            matcher.consume(id)?;
            if matcher.allowed().is_ok() {
                return Ok(());
            }
            matcher.rollback(1)?;
        }
        Err(Error::Unspellable { kind: self.kind })
    }

    /// Starts an answer.
    pub fn matcher(&self) -> Matcher {
        Matcher::new(self.clone())
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar")
            .field("vocabulary", &self.vocabulary)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl GrammarKind {
    /// Explains a message of `llguidance`, of which one line is for users.
    fn error(self, message: &str) -> Error {
        if message.starts_with("NoExtension") {
            return Error::Unspellable { kind: self };
        }
        // Syntax errors of a regex end with their reason; other messages begin with it.
        let reason = message
            .lines()
            .find_map(|line| line.strip_prefix("error: "))
            .or_else(|| message.lines().next());
        Error::Grammar {
            kind: self,
            reason: reason.unwrap_or("it failed without a reason").to_owned(),
        }
    }
}

impl fmt::Display for GrammarKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JsonSchema => "JSON schema",
            Self::Regex => "regex",
        })
    }
}

/// A set of token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSet(SimpleVob);

impl TokenSet {
    /// Returns whether `id` is in the set. Ids that the model has no row for never are.
    pub fn contains(&self, id: u32) -> bool {
        (id as usize) < self.0.len() && self.0.is_allowed(id)
    }

    /// Iterates over the ids in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests;
