//! Chat templates: the checkpoint's Jinja source, rendered as the reference implementation does.
//!
//! The reference is Python's jinja2 with the settings of the `transformers` library: blocks trimmed,
//! Python string methods, `tojson` without HTML escapes, `raise_exception` and `strftime_now`.
//! `{% generation %}` marks, which only that library knows, are read as plain blocks.

mod conversation;
mod python;

use std::collections::BTreeMap;
use std::time::SystemTime;

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

pub use conversation::{Conversation, message};

use crate::error::{Error, Result};

/// Name of the template that is used unless another one fits better.
const DEFAULT: &str = "default";
/// Name of the template that checkpoints with several keep for conversations with tools.
const TOOL_USE: &str = "tool_use";
/// Limit on the work of one rendering. A turn of the published templates costs a few hundred.
const FUEL: u64 = 20_000_000;

/// The form of the Ling-2.0 and LLaDA2 templates without tools, for checkpoints that ship none.
const BUILT_IN: &str = "\
{%- if tools %}{{ raise_exception('the built-in chat template has no form for tools') }}{% endif %}
{{- '<role>SYSTEM</role>' }}
{%- if messages and messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{% endif %}
{{- 'detailed thinking off<|role_end|>' }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<role>HUMAN</role>' + message.content + '<|role_end|>' }}
    {%- elif message.role == 'assistant' %}
        {{- '<role>ASSISTANT</role>' + message.content + '<|role_end|>' }}
    {%- elif message.role != 'system' %}
        {{- raise_exception('the built-in chat template has no role `' + message.role + '`') }}
    {%- elif not loop.first %}
        {{- '<role>SYSTEM</role>' + message.content + '<|role_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<role>ASSISTANT</role>' }}{% endif %}";

/// A chat template, compiled and ready to render conversations.
///
/// # Examples
/// ```
/// use llada_text::{ChatTemplate, Conversation, message};
///
/// let conversation = Conversation::new([message("user", "Hi")]).with_generation_prompt();
/// assert_eq!(
///     ChatTemplate::built_in().render(&conversation)?,
///     "<role>SYSTEM</role>detailed thinking off<|role_end|>\
///      <role>HUMAN</role>Hi<|role_end|><role>ASSISTANT</role>",
/// );
/// # Ok::<(), llada_text::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Texts of the special tokens, as `bos_token` and so on.
    variables: Map<String, Value>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// If the source is not valid Jinja.
    pub fn new(source: &str) -> Result<Self> {
        Self::named([(DEFAULT, source)])
    }

    /// Returns the form of LLaDA2's own template without tools.
    pub fn built_in() -> Self {
        Self::new(BUILT_IN).expect("the built-in template is valid, which a test shows")
    }

    /// Compiles the value of `chat_template` in `tokenizer_config.json`: a string, or a list of
    /// objects with `name` and `template`.
    ///
    /// # Errors
    /// If the value has another shape or a source is not valid Jinja.
    pub fn from_config(value: &Value) -> Result<Self> {
        if let Some(source) = value.as_str() {
            return Self::new(source);
        }
        let named = value
            .as_array()
            .and_then(|list| list.iter().map(name_and_source).collect());
        let named: BTreeMap<&str, &str> = named.ok_or(Error::TemplateShape)?;
        if !named.contains_key(DEFAULT) {
            return Err(Error::TemplateShape);
        }
        Self::named(named)
    }

    fn named<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut environment = python_like_environment()?;
        for (name, source) in sources {
            environment.add_template_owned(name.to_owned(), open_generation_blocks(source))?;
        }
        Ok(Self {
            environment,
            variables: Map::new(),
        }
        .with_clock(SystemTime::now))
    }

    /// Sets variables that every rendering sees, such as `bos_token`.
    #[must_use]
    pub fn with_variables(mut self, variables: impl IntoIterator<Item = (String, Value)>) -> Self {
        self.variables.extend(variables);
        self
    }

    /// Sets the clock behind the template function `strftime_now`, which shows UTC.
    #[must_use]
    pub fn with_clock(mut self, now: fn() -> SystemTime) -> Self {
        self.environment
            .add_function("strftime_now", move |format: String| {
                python::strftime(now(), &format)
            });
        self
    }

    /// Renders a conversation to text, special tokens spelled out.
    ///
    /// The text alone does not tell where a special token is meant and where a message merely spells
    /// one: to get ids, use [`Tokenizer::encode_chat`](crate::Tokenizer::encode_chat).
    ///
    /// # Errors
    /// If the template refuses the conversation or fails.
    pub fn render(&self, conversation: &Conversation) -> Result<String> {
        let template = match self.environment.get_template(TOOL_USE) {
            Ok(template) if conversation.tools.is_some() => template,
            _ => self.environment.get_template(DEFAULT)?,
        };
        let mut context = self.variables.clone();
        context.extend(conversation.context());
        Ok(template.render(minijinja::Value::from(Serde(&context)))?)
    }
}

fn name_and_source(entry: &Value) -> Option<(&str, &str)> {
    Some((
        entry.get("name")?.as_str()?,
        entry.get("template")?.as_str()?,
    ))
}

fn python_like_environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", python::tojson);
    environment.add_function("raise_exception", python::raise_exception);
    Ok(environment)
}

/// Rewrites `{% generation %}` … `{% endgeneration %}` to blocks that every Jinja reads.
fn open_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag_and_after)) = rest.split_once("{%") {
        let len = tag_and_after.find("%}").unwrap_or(tag_and_after.len());
        let (tag, after) = tag_and_after.split_at(len);
        out.push_str(before);
        out.push_str("{%");
        match tag.trim_matches(['-', '+', ' ', '\n']) {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
