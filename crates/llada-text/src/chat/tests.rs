use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::Tokenizer;

const SDAR: &str = include_str!("../../testdata/sdar/chat_template.jinja");

fn llada2() -> ChatTemplate {
    let config = include_str!("../../testdata/llada2-mini/tokenizer_config.json");
    let config: Value = serde_json::from_str(config).unwrap();
    ChatTemplate::from_config(&config["chat_template"]).unwrap()
}

fn ask(text: &str) -> Conversation {
    Conversation::new([message("user", text)]).with_generation_prompt()
}

/// A conversation and what jinja2 makes of it.
#[derive(Deserialize)]
struct Case {
    name: String,
    llada2: String,
    sdar: String,
    #[serde(flatten)]
    conversation: Conversation,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../../testdata/chat.json")).unwrap()
}

#[test]
fn published_templates_render_byte_for_byte_as_in_jinja2() {
    let sdar = ChatTemplate::new(SDAR).unwrap();
    for case in cases() {
        assert_eq!(
            llada2().render(&case.conversation).unwrap(),
            case.llada2,
            "{}",
            case.name
        );
        assert_eq!(
            sdar.render(&case.conversation).unwrap(),
            case.sdar,
            "{}",
            case.name
        );
    }
}

#[test]
fn the_built_in_form_equals_the_template_of_llada2_without_tools() {
    let names = [
        "one question",
        "system text and history",
        "no generation prompt",
        "a later system message",
    ];
    let without_tools = cases()
        .into_iter()
        .filter(|case| names.contains(&case.name.as_str()));
    for case in without_tools {
        let rendered = ChatTemplate::built_in().render(&case.conversation).unwrap();
        assert_eq!(rendered, case.llada2, "{}", case.name);
    }
}

#[test]
fn the_built_in_form_refuses_tools_and_unknown_roles() {
    let mut with_tools = ask("Hi");
    with_tools.tools = Some(vec![json!({"name": "noop"})]);
    let error = ChatTemplate::built_in()
        .render(&with_tools)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no form for tools"), "{error}");

    let error = ChatTemplate::built_in()
        .render(&Conversation::new([message("tool", "42")]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no role `tool`"), "{error}");
}

#[test]
fn tojson_indents_like_python() {
    let template = ChatTemplate::new("{{ tools | tojson(indent=2) }}").unwrap();
    let mut conversation = ask("");
    conversation.tools = Some(vec![json!({"a": [], "b": [1, {}], "c": {"d": "<&'\">"}})]);
    let expected = r#"[
  {
    "a": [],
    "b": [
      1,
      {}
    ],
    "c": {
      "d": "<&'\">"
    }
  }
]"#;
    assert_eq!(template.render(&conversation).unwrap(), expected);
}

#[test]
fn strftime_now_reads_the_given_clock() {
    fn at_a_known_instant() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    }
    let template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}").unwrap();
    let rendered = template
        .with_clock(at_a_known_instant)
        .render(&ask(""))
        .unwrap();
    assert_eq!(rendered, "09 Sep 2001");
}

#[test]
fn generation_marks_are_read_as_plain_blocks() {
    let source = "{% for m in messages %}\n\
                  a {%- generation %} {{ m.content }} {%- endgeneration -%} b{% endfor %}";
    let template = ChatTemplate::new(source).unwrap();
    assert_eq!(template.render(&ask("x")).unwrap(), "a xb");
}

#[test]
fn the_template_for_tools_is_chosen_when_there_are_tools() {
    let list = json!([
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "tools"},
    ]);
    let template = ChatTemplate::from_config(&list).unwrap();
    assert_eq!(template.render(&ask("")).unwrap(), "plain");
    let mut with_tools = ask("");
    with_tools.tools = Some(vec![]);
    assert_eq!(template.render(&with_tools).unwrap(), "tools");
}

#[test]
fn templates_of_an_unknown_shape_are_refused() {
    for shape in [json!(3), json!([{"name": "default"}]), json!([])] {
        let error = ChatTemplate::from_config(&shape).unwrap_err();
        assert!(matches!(error, Error::TemplateShape), "{error}");
    }
}

#[test]
fn a_template_that_never_ends_runs_out_of_fuel() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let error = ChatTemplate::new(source)
        .unwrap()
        .render(&ask(""))
        .unwrap_err()
        .to_string();
    assert!(error.contains("fuel"), "{error}");
}

#[test]
fn a_malformed_template_is_an_error() {
    for source in ["{% if %}", "{%}", "{%", "{{ messages"] {
        assert!(
            matches!(ChatTemplate::new(source), Err(Error::Template(_))),
            "{source}"
        );
    }
}

#[test]
fn the_checkpoints_special_tokens_are_template_variables() {
    let mut tokenizer = Tokenizer::characters("ab", &["<|end|>"]).unwrap();
    tokenizer.set_role(crate::Role::Eos, "<|end|>").unwrap();
    let template = tokenizer.chat_template().unwrap();
    assert_eq!(template.variables["eos_token"], "<|end|>");
}
