//! Blocks edited again once the next one is done: what it changes, and what stays as it is.

use llada_engine::{
    Answer, Edit, Engine, Event, Hooks, LabelAlignment, Policy, Quota, Reopen, Request, Schedule,
};

use crate::support::{DENSE, endless, generate, options, policy, prompt};
use crate::window::AnyText;

const REOPEN: Reopen = Reopen {
    blocks: 1,
    rounds: 2,
};

/// A request that fills fast and edits much.
fn editing(seed: u32, reopen: Option<Reopen>) -> Request {
    Request {
        policy: Policy {
            edit: Edit::Above(0.3),
            max_post_edit_steps: 3,
            reopen,
            ..policy(0.2, Quota::MinTransfer(1))
        },
        ..endless(prompt(9, seed), 40, 8)
    }
}

fn alone(request: &Request) -> Answer {
    generate(&DENSE, &options(LabelAlignment::Same), request)
}

#[test]
fn reopening_changes_texts_and_counts_its_rounds() {
    let mut changed = 0;
    for seed in 0..8 {
        let [plain, again] = [None, Some(REOPEN)].map(|reopen| alone(&editing(seed, reopen)));
        changed += usize::from(plain.output_ids != again.output_ids);
        let blocks = again.steps_per_block.len();
        let taken: usize = again.steps_per_block.iter().sum();
        // A round is a step in each of two blocks and one forward.
        let rounds = taken - again.forwards.denoise;
        assert!(
            (blocks - 1..=2 * (blocks - 1)).contains(&rounds),
            "{rounds}"
        );
        assert_eq!(
            again.forwards.commit, 0,
            "the rows ride with the next block"
        );
    }
    assert!(changed > 0);
}

#[test]
fn others_never_see_rows_that_are_computed_again() {
    // Both write the same blocks, and share them; only one of them re-opens its own.
    for seed in 0..8 {
        let requests = [Some(REOPEN), None].map(|reopen| editing(seed, reopen));
        let mut engine = Engine::new(&DENSE, options(LabelAlignment::Same)).unwrap();
        let ids = requests.each_ref().map(|r| engine.submit(r).unwrap());
        let mut answers = ids.map(|_| None);
        while !engine.is_idle() {
            for event in engine.step() {
                if let Event::Finished { request, answer } = event {
                    answers[usize::from(request != ids[0])] = Some(answer);
                }
            }
        }
        for (request, answer) in requests.iter().zip(answers) {
            let (answer, alone) = (answer.unwrap(), alone(request));
            assert_eq!(answer.output_ids, alone.output_ids);
            assert_eq!(answer.placed, alone.placed);
        }
    }
}

#[test]
fn what_is_sent_lags_behind_by_the_blocks_that_may_change() {
    let request = Request {
        draft: true,
        ..editing(1, Some(REOPEN))
    };
    let mut engine = Engine::new(&DENSE, options(LabelAlignment::Same)).unwrap();
    engine.submit(&request).unwrap();
    let (mut sent, mut touched) = (request.prompt.len(), usize::MAX);
    let mut most_blocks = 0;
    while !engine.is_idle() {
        let mut blocks = 0;
        for event in engine.step() {
            match event {
                Event::Draft { start, .. } => {
                    touched = start;
                    blocks += 1;
                    assert!(sent <= start.max(request.prompt.len()), "{sent} was sent");
                }
                Event::Committed { ids, .. } => sent += ids.len(),
                _ => {}
            }
        }
        most_blocks = most_blocks.max(blocks);
    }
    assert_eq!((most_blocks, sent, touched), (2, 9 + 40, 48));
}

#[test]
fn what_reopening_does_not_go_with_is_refused() {
    let refusal = |alignment, change: &dyn Fn(&mut Request), hooks| {
        let mut request = editing(1, Some(REOPEN));
        change(&mut request);
        let mut engine = Engine::new(&DENSE, options(alignment)).unwrap();
        let refused = engine.submit_with(&request, hooks);
        refused.map(|_| ()).unwrap_err().to_string()
    };
    let same =
        |change: &dyn Fn(&mut Request)| refusal(LabelAlignment::Same, change, Hooks::default());
    assert_eq!(
        refusal(LabelAlignment::Shifted, &|_| (), Hooks::default()),
        "`reopen_blocks` is 1; expected none with shifted labels"
    );
    let eos_early_stop = true;
    let reference = same(&|request| request.schedule = Schedule::Reference { eos_early_stop });
    assert_eq!(
        reference,
        "`edit` is on; expected `off` with the reference schedule"
    );
    let constrained = Hooks {
        constraint: Some(Box::new(AnyText)),
        ..Hooks::default()
    };
    let followed = refusal(LabelAlignment::Same, &|_| (), constrained);
    assert!(
        followed.ends_with("an answer that follows a grammar"),
        "{followed}"
    );
    let unedited = same(&|request| request.policy.edit = Edit::Off);
    assert!(
        unedited.contains("without a confidence to edit above"),
        "{unedited}"
    );
    let nothing = Reopen {
        rounds: 0,
        ..REOPEN
    };
    let empty = same(&|request| request.policy.reopen = Some(nothing));
    assert!(
        empty.contains("1 done blocks are edited again in 0 rounds"),
        "{empty}"
    );
}
