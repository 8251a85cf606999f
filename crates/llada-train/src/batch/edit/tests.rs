use std::collections::BTreeSet;

use llada_diffusion::{BlockSize, Elision, LabelAlignment, LossRow};
use llada_model::Activations;

use super::*;
use crate::batch::{Assembly, Batch, Task};
use crate::data::{Document, Span};
use crate::objective::{Loss, Turns};
use crate::testing::{MASK, assembly, corpus, drawn, model};

const WEIGHTS: EditWeights = EditWeights {
    wrong: 0.8,
    right: 0.3,
};

const OPERATIONS: Operations = Operations {
    mask: MASK,
    delete: 28,
    insert: 29,
};

fn replace() -> DraftNoise {
    DraftNoise::Replace(ReplaceNoise {
        rate: 0.5,
        keep_rate: 0.5,
    })
}

fn levenshtein() -> DraftNoise {
    let noise = LevenshteinNoise {
        share: 0.6,
        rate: 0.4,
    };
    DraftNoise::Levenshtein(noise, OPERATIONS)
}

fn drafts(noise: DraftNoise, alignment: LabelAlignment, micro_batch_rows: usize) -> Batch {
    let assembly = Assembly {
        micro_batch_rows,
        ..editing(noise, alignment)
    };
    assembly.batch(&corpus(), drawn(), BlockSize::new(4).unwrap())
}

fn editing(noise: DraftNoise, alignment: LabelAlignment) -> Assembly {
    let mut assembly = assembly(alignment, Elision::On);
    if let Task::Diffusion(diffusion) = &mut assembly.task {
        diffusion.editing = Some(Editing {
            noise,
            replacements: Replacements::new(0..28).unwrap(),
            weights: WEIGHTS,
        });
    }
    assembly
}

#[test]
fn wrong_and_right_tokens_have_means_over_the_whole_batch() {
    for noise in [replace(), levenshtein()] {
        for micro_batch_rows in [1000, 1] {
            let batch = drafts(noise, LabelAlignment::Same, micro_batch_rows);
            let total = |role| -> f32 {
                let rows = batch
                    .micro_batches
                    .iter()
                    .flat_map(|m| m.roles.iter().zip(&m.weights));
                rows.filter(|(other, _)| **other == role)
                    .map(|(_, weight)| weight)
                    .sum()
            };
            assert!((total(Role::Wrong) - 0.8).abs() < 1e-5, "{noise:?}");
            assert!((total(Role::Right) - 0.3).abs() < 1e-5, "{noise:?}");
            assert!(total(Role::Masked) > 0.0, "{noise:?}");
        }
    }
}

#[test]
fn only_noisy_rows_hold_other_tokens_than_the_text() {
    let batch = drafts(replace(), LabelAlignment::Same, 1000);
    let (rows, corpus) = (&batch.micro_batches[0].rows, corpus());
    for (&id, row) in rows.ids.iter().zip(&rows.rows) {
        let text = corpus[row.doc as usize].ids.get(row.pos as usize);
        assert!(!row.clean || text.is_none_or(|&text| text == id), "{row:?}");
    }
    for (row, role) in rows.loss_rows.iter().zip(&batch.micro_batches[0].roles) {
        let (id, target) = (rows.ids[row.row as usize], row.target);
        let expected = match (id == MASK, id == target) {
            (true, _) => Role::Masked,
            (false, false) => Role::Wrong,
            (false, true) => Role::Right,
        };
        assert_eq!(*role, expected, "{row:?}");
    }
}

#[test]
fn drafts_with_insertions_ask_for_operations_and_leave_masked_blocks_alone() {
    let batch = drafts(levenshtein(), LabelAlignment::Same, 1000);
    let micro_batch = &batch.micro_batches[0];
    let rows = micro_batch.rows.loss_rows.iter().zip(&micro_batch.roles);
    let targets: BTreeSet<u32> = rows.clone().map(|(row, _)| row.target).collect();
    assert!(targets.contains(&OPERATIONS.delete) || targets.contains(&OPERATIONS.insert));
    let corpus = corpus();
    for (row, _) in rows.filter(|(_, role)| **role == Role::Masked) {
        let text = corpus[row.doc as usize].ids.get(row.position as usize);
        assert!(text.is_none_or(|&text| text == row.target), "{row:?}");
    }
    assert!(batch.counts.masked < batch.counts.supervised);
}

#[test]
fn losses_of_all_turns_do_not_depend_on_micro_batches() {
    for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
        let model = model(alignment);
        let turns = Turns {
            num: 3,
            threshold: 0.05,
            weights: WEIGHTS,
            operations: None,
        };
        let loss = Loss::Edit(turns);
        let run = |batch: &Batch| {
            let mut grads = model.zero_gradients();
            let (sums, measures) = loss.accumulate(&model, batch, Activations::Keep, &mut grads);
            (sums.loss, measures, crate::optimizer::gradient_norm(&grads))
        };
        let whole = run(&drafts(replace(), alignment, 1000));
        let parts = run(&drafts(replace(), alignment, 1));
        assert!(
            (whole.0 - parts.0).abs() < 1e-5 * whole.0,
            "{whole:?} {parts:?}"
        );
        assert!(
            (whole.2 - parts.2).abs() < 1e-4 * whole.2,
            "{whole:?} {parts:?}"
        );
        let later = whole.1["later_turns_loss"];
        assert!(0.0 < later && later < whole.0, "{later}");
    }
}

#[test]
fn later_rounds_of_insertions_do_not_depend_on_micro_batches() {
    let model = model(LabelAlignment::Same);
    let loss = |threshold| {
        Loss::Edit(Turns {
            num: 3,
            threshold,
            weights: WEIGHTS,
            operations: Some(OPERATIONS),
        })
    };
    let run = |rows, threshold| {
        let batch = drafts(levenshtein(), LabelAlignment::Same, rows);
        let mut grads = model.zero_gradients();
        let keep = Activations::Keep;
        let (sums, measures) = loss(threshold).accumulate(&model, &batch, keep, &mut grads);
        let later = measures["later_turns_loss"];
        (sums.loss, later, crate::optimizer::gradient_norm(&grads))
    };
    let (whole, parts) = (run(1000, 0.05), run(1, 0.05));
    assert!((whole.0 - parts.0).abs() < 1e-5 * whole.0);
    assert!((whole.2 - parts.2).abs() < 1e-4 * whole.2);
    assert!(0.0 < whole.1 && whole.1 < whole.0);
    assert_ne!(whole.1, run(1000, 1.0).1, "obeyed drafts have another loss");
}

#[test]
fn a_turn_that_fills_nothing_is_the_turn_before_with_means() {
    let model = model(LabelAlignment::Same);
    let batch = drafts(replace(), LabelAlignment::Same, 1000);
    let loss_of = |num, threshold| {
        let turns = Turns {
            num,
            threshold,
            weights: WEIGHTS,
            operations: None,
        };
        let mut grads = model.zero_gradients();
        let keep = Activations::Keep;
        Loss::Edit(turns)
            .accumulate(&model, &batch, keep, &mut grads)
            .0
            .loss
    };
    let (once, unsure, sure) = (loss_of(1, 0.5), loss_of(3, 1.0), loss_of(3, 0.0));
    let later = (unsure - once) / 2.0;
    let three = loss_of(2, 1.0) - once;
    assert!(
        (later - three).abs() < 1e-9 * once,
        "both turns look at the same draft"
    );
    assert!(
        (sure - unsure).abs() > 1e-3,
        "filled drafts have another loss"
    );
}

#[test]
fn every_turn_of_a_conversation_is_a_draft_of_its_own() {
    let span = |range| Span {
        range,
        ends_turn: true,
    };
    let ids: Vec<u32> = (0..14).map(|i| (i * 5 + 2) % 28).collect();
    let conversation = Document::new(ids.clone(), [2..6, 9..14].map(span).to_vec());
    let first = Drawn {
        epoch: 0,
        document: 0,
    };
    for noise in [replace(), levenshtein()] {
        let assembly = editing(noise, LabelAlignment::Same);
        let size = BlockSize::new(4).unwrap();
        let batch = assembly.batch(std::slice::from_ref(&conversation), vec![first], size);
        let MicroBatch { rows, roles, .. } = &batch.micro_batches[0];
        let clean = rows.rows.iter().zip(&rows.ids).filter(|(row, _)| row.clean);
        for (row, &id) in clean {
            assert_eq!(id, ids[row.pos as usize], "drafts are of noisy rows");
        }
        for (copy, places) in [(0, 2..8), (1, 9..16)] {
            let scored = rows.loss_rows.iter().zip(roles);
            let scored: Vec<_> = scored.filter(|(row, _)| row.copy == copy).collect();
            assert!(scored.iter().any(|(_, role)| **role != Role::Masked));
            let is_inside = |row: &LossRow| places.contains(&(row.position as usize));
            assert!(scored.iter().all(|(row, _)| is_inside(row)), "{noise:?}");
        }
    }
}
