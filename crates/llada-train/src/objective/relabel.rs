//! Later rounds of training to insert and delete (LLaDA2.2): the model's own proposals become the draft, and
//! every position of it learns the label that it has now.
//!
//! What the model is sure of is obeyed as a decoder would: tokens fill, replace, DELETE drops a position,
//! INSERT opens one; the length stays. Labels are made anew by the alignment of draft and text.

use std::ops::Range;

use llada_diffusion::{
    LossRow, Masks, Operations, Role, TrainRows, apply_labels, levenshtein_labels,
};

use crate::batch::MicroBatch;

/// Lets the proposals of the loss rows, `None` where the model is not sure, change the drafts of their blocks, and
/// scores every position of these, in the row of the position itself.
pub(super) fn relabel(draft: &mut MicroBatch, proposals: &[Option<u32>], operations: Operations) {
    let mut proposed = vec![None; draft.rows.len()];
    for (row, &proposal) in draft.rows.loss_rows.iter().zip(proposals) {
        proposed[row.row as usize] = proposal;
    }
    let MicroBatch { rows, texts, .. } = draft;
    let (mut loss_rows, mut roles) = (Vec::new(), Vec::new());
    for run in runs(rows, texts) {
        let ids = &rows.ids[run.clone()];
        let text: Vec<u32> = texts[run.clone()].iter().flatten().copied().collect();
        let obeyed = ids.iter().zip(&proposed[run.clone()]);
        let obeyed: Vec<u32> = obeyed
            .map(|(&id, proposal)| proposal.unwrap_or(id))
            .collect();
        let next = apply_labels(ids, &obeyed, operations);
        let labels = levenshtein_labels(&next, &text, operations, Masks::MatchAll);
        for ((place, &id), &target) in run.clone().zip(&next).zip(&labels) {
            let row = rows.rows[place];
            loss_rows.push(LossRow {
                row: place as u32,
                doc: row.doc,
                copy: row.copy,
                position: row.pos,
                target,
            });
            roles.push(role(id, target, operations));
        }
        rows.ids[run].copy_from_slice(&next);
    }
    draft.rates = vec![0.0; loss_rows.len()]; // nobody drew them
    draft.weights = draft.rates.clone();
    (draft.rows.loss_rows, draft.roles) = (loss_rows, roles);
}

fn role(id: u32, label: u32, operations: Operations) -> Role {
    match id {
        id if id == operations.mask => Role::Masked,
        id if id == label => Role::Right,
        _ => Role::Wrong,
    }
}

/// Returns the stretches of rows in one block whose text is to be learned.
fn runs(rows: &TrainRows, texts: &[Option<u32>]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for place in (0..texts.len()).filter(|&place| texts[place].is_some()) {
        let block = |place: usize| {
            let row = &rows.rows[place];
            (row.doc, row.copy, row.block)
        };
        match runs.last_mut() {
            Some(run) if run.end == place && block(run.start) == block(place) => run.end += 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use llada_diffusion::{BlockSize, Elision, LabelAlignment, LevenshteinNoise, Replacements};

    use super::*;
    use crate::batch::{DraftNoise, EditWeights, Editing, Task};
    use crate::testing::{MASK, assembly, corpus, drawn};

    const OPERATIONS: Operations = Operations {
        mask: MASK,
        delete: 28,
        insert: 29,
    };

    /// Blocks that are masked and blocks with tokens dropped, added and replaced.
    fn drafts() -> MicroBatch {
        let mut assembly = assembly(LabelAlignment::Same, Elision::On);
        let noise = LevenshteinNoise {
            share: 0.5,
            rate: 0.5,
        };
        if let Task::Diffusion(diffusion) = &mut assembly.task {
            diffusion.editing = Some(Editing {
                noise: DraftNoise::Levenshtein(noise, OPERATIONS),
                replacements: Replacements::new(0..28).unwrap(),
                weights: EditWeights {
                    wrong: 1.0,
                    right: 1.0,
                },
            });
        }
        let size = BlockSize::new(4).unwrap();
        assembly
            .batch(&corpus(), drawn(), size)
            .micro_batches
            .remove(0)
    }

    /// Noisy rows that do not hold their text.
    fn num_unlike(draft: &MicroBatch) -> usize {
        let pairs = draft.rows.ids.iter().zip(&draft.texts);
        pairs
            .filter(|(id, text)| text.is_some_and(|text| text != **id))
            .count()
    }

    #[test]
    fn obeying_every_label_leads_to_the_text() {
        let mut draft = drafts();
        assert!(num_unlike(&draft) > 5);
        for _ in 0..4 {
            let labels: Vec<_> = draft
                .rows
                .loss_rows
                .iter()
                .map(|row| Some(row.target))
                .collect();
            relabel(&mut draft, &labels, OPERATIONS);
        }
        assert_eq!(num_unlike(&draft), 0);
        assert!(draft.roles.iter().all(|&role| role == Role::Right));
    }

    #[test]
    fn a_model_that_is_not_sure_leaves_drafts_and_scores_all_of_their_blocks() {
        let before = drafts();
        let mut after = before.clone();
        relabel(&mut after, &vec![None; before.weights.len()], OPERATIONS);
        assert_eq!(after.rows.ids, before.rows.ids);
        let target = |draft: &MicroBatch, place: u32| {
            let mut rows = draft.rows.loss_rows.iter();
            rows.find(|row| row.row == place).map(|row| row.target)
        };
        for row in &before.rows.loss_rows {
            assert_eq!(target(&after, row.row), Some(row.target), "{row:?}");
        }
        let learned = after.texts.iter().flatten().count();
        assert_eq!(
            (after.rows.loss_rows.len(), after.weights.len()),
            (learned, learned)
        );
        assert!(learned > before.weights.len());
    }

    #[test]
    fn a_wrong_guess_is_labelled_where_it_stands() {
        let mut draft = drafts();
        let guesses = vec![Some(27); draft.weights.len()];
        relabel(&mut draft, &guesses, OPERATIONS);
        let rows = draft.rows.loss_rows.iter().zip(&draft.roles);
        for (row, &role) in rows {
            let id = draft.rows.ids[row.row as usize];
            let expected = match (id == MASK, id == row.target) {
                (true, _) => Role::Masked,
                (false, true) => Role::Right,
                (false, false) => Role::Wrong,
            };
            assert_eq!(role, expected, "{row:?}");
        }
        assert!(draft.roles.contains(&Role::Wrong) && draft.rows.ids.contains(&27));
    }
}
