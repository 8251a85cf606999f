//! Rules of a request that know its text: stop strings and grammars.

use llada_engine::{Constraint, Preset, StopRule};
use llada_text::{Grammar, Matcher, StopStrings, Vocabulary};

use crate::error::{Error, Result};
use crate::{EditArg, Settings};

/// Ends the text with the id that completes a stop string.
pub(crate) fn stop_rule(mut text: StopStrings) -> StopRule {
    let mut seen = 0;
    Box::new(move |ids| {
        // Should decoding fail here, it fails for the answer's text too, which reports it.
        let _ = text.extend(ids);
        let end = text.stopped_at().map(|end| end - seen);
        seen += ids.len();
        end
    })
}

/// The language that an answer is confined to.
pub(crate) enum Language<'a> {
    Schema(&'a str),
    Regex(&'a str),
}

impl<'a> Language<'a> {
    /// Returns the language that the settings name, if they do.
    pub(crate) fn of(settings: &'a Settings) -> Result<Option<Self>> {
        let language = match (&settings.json_schema, &settings.regex) {
            (None, None) => return Ok(None),
            (Some(schema), None) => Self::Schema(&schema.0),
            (None, Some(regex)) => Self::Regex(regex),
            (Some(_), Some(_)) => {
                return Err(Error::field(
                    "json_schema",
                    "and `regex` exclude each other; give one",
                ));
            }
        };
        let by_default = match settings.mode.unwrap_or(Preset::Quality2) {
            Preset::Quality2 => EditArg::Off,
            Preset::Quality | Preset::Speed => EditArg::Above(0.0),
        };
        if settings.edit.unwrap_or(by_default) != EditArg::Off {
            return Err(Error::field(
                "json_schema",
                "and `regex` follow the text from left to right, so it must not change behind them; \
                 set `edit` to off",
            ));
        }
        if settings.ignore_eos == Some(true) {
            return Err(Error::field(
                "json_schema",
                "and `regex` end the text where it is complete; leave out `ignore_eos`",
            ));
        }
        Ok(Some(language))
    }

    pub(crate) fn constraint(self, vocabulary: &Vocabulary) -> Result<Box<dyn Constraint>> {
        let grammar = match self {
            Self::Schema(schema) => Grammar::json_schema(vocabulary, schema)?,
            Self::Regex(regex) => Grammar::regex(vocabulary, regex)?,
        };
        Ok(Box::new(Followed(grammar.matcher())))
    }
}

/// A grammar as the engine asks about it.
struct Followed(Matcher);

impl Constraint for Followed {
    fn allowed(&mut self) -> std::result::Result<Box<dyn Fn(u32) -> bool + '_>, String> {
        let set = self.0.allowed().map_err(|error| error.to_string())?;
        Ok(Box::new(move |id| set.contains(id)))
    }

    fn consume(&mut self, id: u32) -> bool {
        self.0.consume(id).is_ok()
    }
}
