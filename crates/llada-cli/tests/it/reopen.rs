//! Done blocks edited again.

use serde_json::Value;

use crate::{GENERATE_GOLDEN, failure, json, stdout};

const BLOCKS: [&str; 2] = ["--block-length", "8"];

fn answer(flags: &[&str]) -> Value {
    let threshold = ["--threshold", "0.01"];
    json(&stdout(
        &[&GENERATE_GOLDEN[..], &BLOCKS, &threshold, flags].concat(),
    ))
}

#[test]
fn rounds_are_steps_of_the_answer() {
    let steps = |flags: &[&str]| -> u64 {
        let edit = ["--edit", "1", "--ignore-eos"];
        let answer = answer(&[&edit[..], flags].concat());
        answer["forwards"]["denoise"].as_u64().unwrap()
    };
    // No confidence is above 1, so nothing is edited: each block but the first takes one round.
    let plain = steps(&[]);
    assert_eq!(steps(&["--reopen-blocks", "1"]), plain + 5);
    assert_eq!(
        steps(&["--reopen-blocks", "2", "--reopen-rounds", "3"]),
        plain + 5
    );
}

#[test]
fn what_would_have_no_effect_is_refused() {
    let cases: [(&[&str], &str); 5] = [
        (
            &["--reopen-blocks", "1"],
            "`reopen_blocks` needs `edit` to be on",
        ),
        (
            &["--mode", "q", "--reopen-rounds", "2"],
            "`reopen_rounds` needs `reopen_blocks`",
        ),
        (
            &["--mode", "q", "--reopen-blocks", "0"],
            "expected at least 1 of each",
        ),
        (
            &["--ar", "--reopen-blocks", "1"],
            "`reopen_blocks` has no effect with --ar",
        ),
        (
            &[
                "--edit",
                "revise:0.5",
                "--delete-id",
                "3",
                "--split-id",
                "4",
                "--reopen-blocks",
                "1",
            ],
            "without a confidence to edit above",
        ),
    ];
    for (flags, expected) in cases {
        // What says nothing to --ar is left out there, and the threshold everywhere.
        let blocks = if flags[0] == "--ar" { &[] } else { &BLOCKS[..] };
        let (code, message) = failure(&[&GENERATE_GOLDEN[..], blocks, flags].concat());
        assert!(
            code == 2 && message.contains(expected),
            "{flags:?}: {message}"
        );
    }
}
