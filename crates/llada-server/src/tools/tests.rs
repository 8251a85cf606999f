use proptest::prelude::*;

use super::*;

/// Text and calls as a client puts them together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    content: String,
    calls: Vec<(String, String)>,
}

fn read<'a>(mut parser: ToolCalls, pieces: impl IntoIterator<Item = &'a str>) -> Read {
    let mut read = Read::default();
    let mut deltas: Vec<_> = pieces
        .into_iter()
        .flat_map(|piece| parser.push(piece))
        .collect();
    deltas.extend(parser.finish());
    for delta in deltas {
        match delta {
            Delta::Content(text) => read.content += &text,
            Delta::Call { index, name } => {
                assert_eq!(index, read.calls.len());
                read.calls.push((name, String::new()));
            }
            Delta::Arguments { index, text } => read.calls[index].1 += &text,
        }
    }
    read
}

fn expected(content: &str, calls: &[(&str, &str)]) -> Read {
    Read {
        content: content.to_owned(),
        calls: calls
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
    }
}

#[test]
fn calls_are_taken_out_of_the_text() {
    let text = "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>\"}}\n</tool_call>\n\
                <tool_call>\n{\"arguments\": [1, 2], \"name\": \"g\"}\n</tool_call>";
    let calls = [("f", "{\"a\": \"}</tool_call>\"}"), ("g", "[1, 2]")];
    assert_eq!(read(ToolCalls::free(), [text]), expected("I look.", &calls));
}

#[test]
fn what_only_looks_like_a_call_stays_text() {
    for text in [
        "a < b",
        "<tool_call>x",
        "<tool_call>",
        "<tool_call>{\"name\": 3}",
        "<tool_call>{\"arguments\": {}}",
        "ends with <tool_",
    ] {
        assert_eq!(
            read(ToolCalls::free(), [text]),
            expected(text, &[]),
            "{text}"
        );
    }
}

#[test]
fn a_call_without_arguments_has_none() {
    let text = "<tool_call>{\"name\": \"f\"}</tool_call>";
    assert_eq!(
        read(ToolCalls::free(), [text]),
        expected("", &[("f", "{}")])
    );
}

#[test]
fn a_forced_call_needs_no_marks() {
    let text = "{\"name\": \"f\", \"arguments\": {}}";
    assert_eq!(
        read(ToolCalls::forced(), [text]),
        expected("", &[("f", "{}")])
    );
}

#[test]
fn arguments_come_while_they_are_written() {
    let mut parser = ToolCalls::free();
    let start = parser.push("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\"");
    let call = Delta::Call {
        index: 0,
        name: "f".to_owned(),
    };
    let arguments = |text: &str| Delta::Arguments {
        index: 0,
        text: text.to_owned(),
    };
    assert_eq!(start, [call, arguments("{\"a\"")]);
    assert_eq!(parser.push(": 1"), [arguments(": 1")]);
}

proptest! {
    #[test]
    fn how_the_text_is_cut_does_not_matter(
        text in "(a |\n|<tool_call>|</tool_call>|\\{\"name\": \"f\", \"arguments\": \\{\"k\": \"\\\\\"é\"\\}\\}|\\{|\"|\\}){0,8}",
        cuts in prop::collection::vec(0..200_usize, 0..6),
    ) {
        let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| text.is_char_boundary(cut.min(text.len()))).map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]);
        prop_assert_eq!(read(ToolCalls::free(), pieces), read(ToolCalls::free(), [text.as_str()]));
    }
}
