//! Jinja over the fields of a data row.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value};

use crate::data::Item;
use crate::error::{Error, Result};
use crate::shots;

/// Renders the templates of one task.
#[derive(Debug)]
pub(crate) struct Templates {
    task: String,
    environment: Environment<'static>,
}

/// Names and values beside those of the row.
pub(crate) type More<'a> = &'a [(&'static str, &'a str)];

impl Templates {
    pub(crate) fn new(task: &str) -> Self {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.keep_trailing_newline(true);
        environment.set_syntax(syntax.build().expect("the default delimiters are valid"));
        // A row that lacks a field must not become a shorter prompt.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        Self {
            task: task.to_owned(),
            environment,
        }
    }

    /// Renders a template to text.
    pub(crate) fn text(
        &self,
        item: &Item,
        place: &'static str,
        template: &str,
        more: More<'_>,
    ) -> Result<String> {
        let template = self.environment.template_from_str(template);
        let text = template.and_then(|template| template.render(context(item, more)));
        text.map_err(|source| self.error(item, place, source))
    }

    /// Evaluates an expression to JSON.
    pub(crate) fn value(
        &self,
        item: &Item,
        place: &'static str,
        expression: &str,
    ) -> Result<Value> {
        let expression = self.environment.compile_expression(expression);
        let value = expression.and_then(|expression| expression.eval(context(item, &[])));
        let value = value.map_err(|source| self.error(item, place, source))?;
        serde_json::to_value(&value).map_err(|error| Error::Task {
            task: self.task.clone(),
            message: format!("`{place}` is no JSON value: {error}"),
        })
    }

    fn error(&self, item: &Item, place: &'static str, source: minijinja::Error) -> Error {
        let task = self.task.clone();
        Error::Template {
            task,
            item: item.id.clone(),
            place,
            source: Box::new(source),
        }
    }
}

fn context(item: &Item, more: More<'_>) -> minijinja::Value {
    let mut fields: Map<String, Value> = item.fields.clone();
    // Templates may name the examples; there are none until `add_shots` adds them.
    let shots = fields.entry(shots::FIELD);
    shots.or_insert_with(|| Value::from(""));
    fields.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(*value))),
    );
    minijinja::Value::from(Serde(&fields))
}
