//! Tools a model may call, and calls it has to make.

use llada_request::{JsonSchema as Schema, Settings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::message::FunctionKind;
use crate::refusal::Refusal;
use crate::tools::ToolCalls;

/// What the text of a call begins with in the templates that this server knows.
const OPENING: &str = "<tool_call>\n";

/// A tool.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    #[serde(rename = "type")]
    kind: FunctionKind,
    function: Function,
}

/// A function that can be called.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parameters: Option<Map<String, Value>>,
    /// Has no effect: a call that has to be made follows the schema in any case.
    #[serde(default, skip_serializing, rename = "strict")]
    _strict: Option<bool>,
}

/// Whether a tool is called.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected `none`, `auto`, `required`, or `{\"type\": \"function\", \"function\": {\"name\": …}}`"
)]
pub(crate) enum ToolChoice {
    Word(Word),
    Named(NamedTool),
}

/// Whether any tool is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Word {
    None,
    Auto,
    Required,
}

/// The tool to call.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedTool {
    #[serde(rename = "type")]
    _kind: FunctionKind,
    function: Name,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

/// What is settled about tools.
#[derive(Clone, Debug)]
pub(crate) enum Calling {
    /// The text is text.
    Never,
    /// Calls are looked for.
    Maybe(Vec<Tool>),
    /// The answer is a call of one of the tools in `among`.
    Must { tools: Vec<Tool>, among: Vec<Tool> },
}

impl Calling {
    pub(super) fn new(
        tools: Option<Vec<Tool>>,
        choice: Option<ToolChoice>,
        settings: &Settings,
    ) -> Result<Self, Refusal> {
        let tools = tools.unwrap_or_default();
        let must = |among: Vec<Tool>, tools: Vec<Tool>| match settings.json_schema.is_some()
            || settings.regex.is_some()
        {
            true => Err(Refusal::field(
                "tool_choice",
                "asks for a call, whose form and another one exclude each other",
            )),
            false => Ok(Self::Must { tools, among }),
        };
        match choice {
            None | Some(ToolChoice::Word(Word::None)) if tools.is_empty() => Ok(Self::Never),
            Some(_) if tools.is_empty() => Err(Refusal::field("tool_choice", "needs `tools`")),
            Some(ToolChoice::Word(Word::None)) => Ok(Self::Never),
            None | Some(ToolChoice::Word(Word::Auto)) => Ok(Self::Maybe(tools)),
            Some(ToolChoice::Word(Word::Required)) => must(tools.clone(), tools),
            Some(ToolChoice::Named(named)) => {
                let name = named.function.name;
                match tools.iter().find(|tool| tool.function.name == name) {
                    Some(tool) => must(vec![tool.clone()], tools),
                    None => Err(Refusal::field(
                        "tool_choice",
                        format!("names `{name}`, which is not among `tools`"),
                    )),
                }
            }
        }
    }

    /// Returns the tools that the template shows to the model.
    pub(super) fn shown(&self) -> Option<Vec<Value>> {
        match self {
            Self::Never => None,
            Self::Maybe(tools) | Self::Must { tools, .. } => {
                Some(tools.iter().map(|tool| json!(tool)).collect())
            }
        }
    }

    /// Returns what is put into the model's mouth.
    pub(super) fn opening(&self) -> Option<&'static str> {
        matches!(self, Self::Must { .. }).then_some(OPENING)
    }

    /// Confines the answer to a call, if one has to be made.
    pub(super) fn confine(&self, settings: Settings) -> Settings {
        let Self::Must { among, .. } = self else {
            return settings;
        };
        let options: Vec<_> = among.iter().map(call_schema).collect();
        Settings {
            json_schema: Some(Schema(json!({ "anyOf": options }).to_string())),
            ..settings
        }
    }

    /// Returns what finds the calls in the text.
    pub(super) fn parser(&self) -> Option<ToolCalls> {
        match self {
            Self::Never => None,
            Self::Maybe(_) => Some(ToolCalls::free()),
            Self::Must { .. } => Some(ToolCalls::forced()),
        }
    }
}

fn call_schema(tool: &Tool) -> Value {
    let any = || Map::from_iter([("type".to_owned(), "object".into())]);
    let parameters = tool.function.parameters.clone();
    json!({
        "type": "object",
        "properties": {
            "name": { "const": tool.function.name },
            "arguments": parameters.unwrap_or_else(any),
        },
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}
