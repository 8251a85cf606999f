use serde_json::json;

use super::*;

fn judged(task: &str, fields: serde_json::Value, answer: &str) -> Judgement {
    let task = Task::find(task).unwrap();
    let item = item(fields);
    let judge = Judge::new(&task, None, NonZeroUsize::MIN).unwrap();
    judge.judge(&[(&item, answer)]).unwrap().remove(0)
}

fn item(fields: serde_json::Value) -> Item {
    Item {
        id: "0".into(),
        fields: fields.as_object().unwrap().clone(),
    }
}

fn is_right(task: &str, fields: serde_json::Value, answer: &str) -> bool {
    judged(task, fields, answer).correct
}

#[test]
fn a_number_is_right_whatever_stands_around_it() {
    let row = || json!({"question": "q", "answer": "a lot\n#### 1,080"});
    for answer in [
        r"so \boxed{1080}",
        "The answer is $1,080.00.",
        "#### 1080",
        "1080 metres",
    ] {
        assert!(is_right("gsm8k", row(), answer), "{answer}");
    }
    for answer in ["1081", "", r"\boxed{108}", "The answer is 1080 + 1 = 1081"] {
        assert!(!is_right("gsm8k", row(), answer), "{answer}");
    }
}

#[test]
fn a_formula_is_compared_with_the_solutions_box() {
    let row = || json!({"problem": "p", "solution": r"Hence \boxed{\frac{3}{4}}."});
    assert!(is_right("math", row(), r"Thus $\boxed{\dfrac34}$."));
    assert!(is_right("math", row(), "The answer is 0.75."));
    assert!(!is_right("math", row(), r"\boxed{\frac{4}{3}}"));
}

#[test]
fn a_conclusion_may_leave_out_its_parentheses() {
    let row = || json!({"input": "i", "target": "(B)"});
    assert!(is_right("bbh", row(), "So the answer is (B)."));
    assert!(is_right("bbh", row(), "so the answer is B"));
    assert!(!is_right("bbh", row(), "the answer is (A)."));
}

#[test]
fn the_last_word_of_a_passage_is_compared_without_punctuation() {
    let row = || json!({"text": "he looked at the moon"});
    assert!(is_right("lambada", row(), "moon, and"));
    assert!(!is_right("lambada", row(), "sun"));
    let task = Task::find("lambada").unwrap();
    let judge = Judge::new(&task, None, NonZeroUsize::MIN).unwrap();
    assert_eq!(
        judge.prompt(&item(row()), false).unwrap(),
        "he looked at the"
    );
}

#[test]
fn a_said_choice_is_a_letter_or_its_text() {
    let row = || {
        json!({"question": "q", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]},
               "answerKey": "2"})
    };
    assert!(is_right("arc", row(), "The answer is B."));
    assert!(is_right("arc", row(), "fire"));
    assert!(!is_right("arc", row(), "A"));
    assert!(!is_right("arc", row(), "E"));
}

#[test]
fn a_countdown_uses_each_number_once_and_makes_the_target_exactly() {
    let row = || json!({"nums": [3, 8, 3, 8], "target": 24});
    assert!(is_right("countdown", row(), r"\boxed{8 / (3 - 8 / 3)}"));
    assert!(is_right("countdown", row(), "It is 8/(3-8/3) = 24."));
    for wrong in [
        "8 * 3",
        "24",
        r"\boxed{8*3+8-8}",
        "8/(3-3)*8",
        "(((",
        "8/(3-8/3",
        "",
    ] {
        assert!(!is_right("countdown", row(), wrong), "{wrong}");
    }
}

#[test]
fn a_sudoku_is_right_if_it_is_full_and_keeps_what_was_given() {
    let row = || json!({"puzzle": "1000 0030 0200 0004"});
    let solved = "1 3 4 2\n2 4 3 1\n4 2 1 3\n3 1 2 4";
    assert!(is_right(
        "sudoku",
        row(),
        &format!("1000003002000004 is\n{solved}")
    ));
    assert!(
        !is_right("sudoku", row(), "2341 1432 3214 4123"),
        "a given digit was changed"
    );
    assert!(
        !is_right("sudoku", row(), "1342 2431 4213 3142"),
        "a digit twice"
    );
    assert!(!is_right("sudoku", row(), "1342"));
}

#[test]
fn every_instruction_of_a_prompt_must_hold() {
    let row = |name: &str, kwargs: serde_json::Value| {
        json!({"key": 1, "prompt": "p", "instruction_id_list": [name, "punctuation:no_comma"],
               "kwargs": [kwargs, {}]})
    };
    let cases = [
        (
            "keywords:existence",
            json!({"keywords": ["sun"]}),
            "The Sun.",
            "moon",
        ),
        (
            "keywords:forbidden_words",
            json!({"forbidden_words": ["sun"]}),
            "sunny",
            "the sun",
        ),
        (
            "keywords:frequency",
            json!({"keyword": "a", "frequency": 2, "relation": "at least"}),
            "a a",
            "a",
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": 3, "relation": "less than"}),
            "a b",
            "a b c",
        ),
        (
            "length_constraints:number_sentences",
            json!({"num_sentences": 2, "relation": "at least"}),
            "A. B!",
            "A.",
        ),
        (
            "length_constraints:number_paragraphs",
            json!({"num_paragraphs": 2}),
            "a\n***\nb",
            "a",
        ),
        (
            "detectable_format:number_bullet_lists",
            json!({"num_bullets": 2}),
            "* a\n* b",
            "* a",
        ),
        (
            "detectable_format:number_highlighted_sections",
            json!({"num_highlights": 2}),
            "*a* and **b**",
            "*a*",
        ),
        ("detectable_format:title", json!({}), "<<Sun>> is", "Sun"),
        (
            "detectable_format:json_format",
            json!({}),
            "```json\n{\"a\": 1}\n```",
            "{a}",
        ),
        ("startend:quotation", json!({}), "\"a\"", "a"),
        (
            "startend:end_checker",
            json!({"end_phrase": "The end."}),
            "so. the end.",
            "the end of it",
        ),
        (
            "change_case:english_lowercase",
            json!({}),
            "all low",
            "Not low",
        ),
        ("combination:two_responses", json!({}), "a\n******\nb", "a"),
        (
            "detectable_content:postscript",
            json!({"postscript_marker": "P.S."}),
            "x\nP.S. y",
            "x",
        ),
        (
            "detectable_content:number_placeholders",
            json!({"num_placeholders": 1}),
            "[name]",
            "name",
        ),
    ];
    for (name, kwargs, good, bad) in cases {
        let good = judged("ifeval", row(name, kwargs.clone()), good);
        assert!(good.correct, "{name}: {good:?}");
        let bad = judged("ifeval", row(name, kwargs.clone()), bad);
        assert_eq!(bad.extracted, name, "{name}");
        assert!(
            !judged("ifeval", row(name, kwargs), "x, y").correct,
            "{name}"
        );
    }
}

#[test]
fn an_instruction_without_a_check_is_refused_by_name() {
    let task = Task::find("ifeval").unwrap();
    let row = json!({"instruction_id_list": ["language:response_language"], "kwargs": [{}]});
    let judge = Judge::new(&task, None, NonZeroUsize::MIN).unwrap();
    let error = judge
        .judge(&[(&item(row), "hallo")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("language:response_language"), "{error}");
}

#[test]
fn a_task_that_runs_programs_is_refused_without_a_sandbox() {
    let task = Task::find("mbpp").unwrap();
    let judge = Judge::new(&task, None, NonZeroUsize::MIN);
    assert!(matches!(judge, Err(Error::NeedsSandbox { .. })));
}

#[test]
fn a_row_that_lacks_a_field_of_the_prompt_is_refused() {
    let task = Task::find("gsm8k").unwrap();
    let judge = Judge::new(&task, None, NonZeroUsize::MIN).unwrap();
    let error = judge
        .prompt(&item(json!({"answer": "#### 1"})), true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("prompt.template"), "{error}");
}

#[test]
fn choices_have_their_contexts_and_exactly_one_is_right() {
    let task = Task::find("winogrande").unwrap();
    let row = json!({"sentence": "The cup broke, for the _ was hard.", "option1": "cup",
                     "option2": "floor", "answer": "2"});
    let multiple = crate::MultipleChoice::new(&task).unwrap();
    let choices = multiple.choices(&item(row)).unwrap();
    assert_eq!(choices[1].context, "The cup broke, for the floor");
    assert_eq!(choices[1].continuation, " was hard.");
    assert_eq!((choices[0].is_gold, choices[1].is_gold), (false, true));
    assert_eq!(multiple.best(&choices, &[3.0, 2.0]), 1);
}

#[test]
fn a_letter_is_the_continuation_of_an_exam_question() {
    let task = Task::find("mmlu").unwrap();
    let row = json!({"question": "q?", "choices": ["w", "x", "y", "z"], "answer": 2});
    let choices = crate::MultipleChoice::new(&task)
        .unwrap()
        .choices(&item(row))
        .unwrap();
    assert_eq!(choices[2].context, "q?\nA. w\nB. x\nC. y\nD. z\nAnswer:");
    assert_eq!(choices[2].continuation, " C");
    assert!(choices[2].is_gold);
}

#[test]
fn a_longer_choice_does_not_lose_by_its_length() {
    let task = Task::find("hellaswag").unwrap();
    let row = json!({"ctx": "c", "endings": ["ab", "abcdefgh"], "label": "1"});
    let multiple = crate::MultipleChoice::new(&task).unwrap();
    let choices = multiple.choices(&item(row)).unwrap();
    assert_eq!(multiple.best(&choices, &[2.0, 4.0]), 1);
}
