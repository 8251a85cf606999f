//! Several blocks at once: exact or labelled.

use crate::{GENERATE_GOLDEN, failure, json, stdout};

const BLOCKS: [&str; 2] = ["--block-length", "8"];

fn answer(flags: &[&str]) -> serde_json::Value {
    json(&stdout(&[&GENERATE_GOLDEN[..], &BLOCKS, flags].concat()))
}

#[test]
fn a_window_that_waits_for_whole_blocks_changes_nothing() {
    let plain = answer(&[]);
    let exact = answer(&["--buffer-blocks", "3", "--admit-threshold", "1"]);
    assert_eq!(plain, exact);
    assert_eq!(plain["approximate"], false);
}

#[test]
fn one_that_does_not_wait_says_so_in_its_answer() {
    let eager = answer(&[
        "--buffer-blocks",
        "3",
        "--admit-threshold",
        "0.1",
        "--semi-complete",
        "0.1",
    ]);
    assert_eq!(eager["approximate"], true);
    let of = |answer: &serde_json::Value| answer["forwards"]["denoise"].as_u64().unwrap();
    assert!(of(&eager) < of(&answer(&[])));
}

#[test]
fn a_window_without_a_rule_and_a_rule_without_a_window_are_refused() {
    let refusal = |flags: &[&str]| failure(&[&GENERATE_GOLDEN[..], &BLOCKS, flags].concat());
    let (code, message) = refusal(&["--buffer-blocks", "2"]);
    assert!(
        code == 2 && message.contains("needs `admit_threshold`"),
        "{message}"
    );
    let (code, message) = refusal(&["--semi-complete", "0.5"]);
    assert!(
        code == 2 && message.contains("`semi_complete` needs `buffer_blocks`"),
        "{message}"
    );
    let (code, message) = refusal(&[
        "--buffer-blocks",
        "2",
        "--admit-threshold",
        "0.1",
        "--edit",
        "0.5",
    ]);
    assert!(code == 2, "{message}");
}
