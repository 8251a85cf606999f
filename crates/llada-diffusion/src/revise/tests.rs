//! Single decisions and rebuilds; whole texts are decoded in `tests/decode`.

use std::collections::BTreeMap;

use super::*;

const MASK: u32 = 7;
const DELETE: u32 = 8;
const SPLIT: u32 = 9;

fn rules(max_post_edit_steps: usize) -> Rules {
    Rules {
        acceptance: Acceptance::Threshold(0.5),
        history: BlockHistory::default(),
        need: 1,
        above: 0.5,
        max_post_edit_steps,
        max_updates: 4 + max_post_edit_steps,
        mask_token_id: MASK,
        delete_token_id: DELETE,
        split_token_id: SPLIT,
    }
}

/// Tokens for each position, the most probable first, with confidences.
struct Ranked(BTreeMap<usize, Vec<(u32, f32)>>);

impl Ranked {
    fn new<const N: usize>(rows: [&[(u32, f32)]; N]) -> Self {
        let rows = rows.into_iter().enumerate();
        Self(rows.map(|(row, ranked)| (row, ranked.to_vec())).collect())
    }
}

impl Proposals for Ranked {
    fn best(&self, position: usize, banned: &[u32]) -> Option<Candidate> {
        let mut ranked = self.0.get(&position)?.iter();
        let &(token, confidence) = ranked.find(|(token, _)| !banned.contains(token))?;
        Some(Candidate {
            position,
            token,
            confidence,
        })
    }
}

/// Returns (position, token) of all writes.
fn decide(
    revision: &mut Revision,
    tokens: &[u32],
    rules: &Rules,
    proposals: &Ranked,
) -> (Vec<(usize, u32)>, bool) {
    let open: Vec<bool> = tokens.iter().map(|&id| id == MASK).collect();
    let block = Block {
        first: 0,
        tokens,
        open: &open,
    };
    let mut decision = revision.decide(&block, rules, proposals);
    let is_final = decision.is_final;
    let mut writes: Vec<_> = decision.writes().map(|w| (w.position, w.token)).collect();
    writes.sort_unstable();
    (writes, is_final)
}

fn rebuilt(tokens: &[u32], writes: &[(usize, u32)]) -> Vec<u32> {
    let placed = Placed {
        confidence: 0.5,
        step: 0,
    };
    let cells: Vec<Cell> = tokens
        .iter()
        .map(|&token| Cell {
            token,
            placed: (token != MASK).then_some(placed),
            is_original: true,
        })
        .collect();
    let write = |row| writes.iter().find(|w| w.0 == row).map(|w| (w.1, placed));
    let cells = rebuild(&cells, write, &rules(16));
    assert!(
        cells
            .iter()
            .all(|c| c.placed.is_none() == (c.token == MASK))
    );
    cells.iter().map(|cell| cell.token).collect()
}

#[test]
fn a_deleted_row_makes_room_at_the_end() {
    assert_eq!(rebuilt(&[1, 2, 2, 3], &[(2, DELETE)]), [1, 2, 3, MASK]);
    assert_eq!(rebuilt(&[1, 2], &[(0, DELETE), (1, DELETE)]), [MASK, MASK]);
}

#[test]
fn a_split_row_pushes_the_last_one_out() {
    assert_eq!(rebuilt(&[1, 2, 3, 4], &[(1, SPLIT)]), [1, MASK, 2, 3]);
    assert_eq!(rebuilt(&[1, 2], &[(0, SPLIT), (1, SPLIT)]), [MASK, 1]);
}

#[test]
fn operations_and_tokens_are_applied_together() {
    let writes = [(0, SPLIT), (1, DELETE), (3, 5)];
    assert_eq!(rebuilt(&[1, 2, 3, 4], &writes), [MASK, 1, 3, 5]);
}

#[test]
fn inserted_rows_are_not_original_and_the_mark_moves_with_its_row() {
    let open = Cell {
        token: MASK,
        placed: None,
        is_original: true,
    };
    let placed = Placed {
        confidence: 0.9,
        step: 1,
    };
    let write = |row| (row == 0).then_some((SPLIT, placed));
    let cells = rebuild(&[open; 3], write, &rules(16));
    assert_eq!(
        cells.iter().map(|c| c.is_original).collect::<Vec<_>>(),
        [false, true, true]
    );
}

#[test]
fn an_original_row_is_filled_even_where_inserted_rows_are_surer() {
    let mut revision = Revision::new(3);
    revision.original = vec![false, true, true];
    let proposals = Ranked::new([&[(1, 0.4)], &[(2, 0.3)], &[(3, 0.2)]]);
    let (writes, _) = decide(&mut revision, &[MASK; 3], &rules(16), &proposals);
    assert_eq!(writes, [(0, 1), (1, 2)]); // one for the inserted row, one for an original
}

#[test]
fn mask_may_reopen_a_placed_row_but_does_not_fill_an_original_one() {
    let mut revision = Revision::new(2);
    let proposals = Ranked::new([&[(MASK, 0.9)], &[(MASK, 0.9), (3, 0.1)]]);
    let (writes, _) = decide(&mut revision, &[1, MASK], &rules(16), &proposals);
    assert_eq!(writes, [(0, MASK), (1, 3)]);
}

#[test]
fn the_clean_up_writes_no_special_token() {
    let mut revision = Revision::new(3);
    revision.original = vec![true, true, false];
    let ranked: &[(u32, f32)] = &[(DELETE, 0.6), (SPLIT, 0.2), (MASK, 0.1), (4, 0.05)];
    let proposals = Ranked::new([ranked, &[(2, 0.9)], ranked]);
    let (writes, is_final) = decide(&mut revision, &[1, 2, MASK], &rules(1), &proposals);
    assert_eq!((writes, is_final), (vec![(0, 4), (2, 4)], true));
}

#[test]
fn without_a_budget_the_last_fill_is_the_clean_up() {
    let mut revision = Revision::new(3);
    revision.original = vec![true, true, false];
    let proposals = Ranked::new([&[(1, 0.9)], &[(SPLIT, 0.9), (2, 0.1)], &[(3, 0.1)]]);
    let (writes, is_final) = decide(&mut revision, &[1, MASK, MASK], &rules(0), &proposals);
    // Row 2 would have waited; there is no later step to fill it.
    assert_eq!((writes, is_final), (vec![(1, 2), (2, 3)], true));
}

#[test]
fn a_state_seen_before_tries_another_token_where_the_change_is_least_sure() {
    let mut revision = Revision::new(2);
    let proposals = Ranked::new([
        &[(2, 0.9), (3, 0.05)],
        &[(2, 0.6), (1, 0.3), (4, 0.1), (5, 0.05)],
    ]);
    let mut step = || decide(&mut revision, &[1, 1], &rules(16), &proposals).0;
    assert_eq!(step(), [(0, 2), (1, 2)]);
    assert_eq!(step(), [(0, 2), (1, 1)]); // the best not tried, though it changes nothing
    assert_eq!(step(), [(0, 2), (1, 4)]);
    assert_eq!(step(), [(0, 2), (1, 5)]);
    assert_eq!(step(), [(0, 2), (1, 2)]); // all were tried
}

#[test]
fn nothing_to_change_is_the_end() {
    let mut revision = Revision::new(2);
    let proposals = Ranked::new([&[(1, 0.9)], &[(3, 0.4)]]);
    let (writes, _) = decide(&mut revision, &[1, 2], &rules(16), &proposals);
    assert_eq!(writes, []);
}

#[test]
fn a_quota_without_end_takes_all_open_rows() {
    let rules = Rules {
        need: usize::MAX,
        ..rules(16)
    };
    // Row 0 was opened by an edit; it comes on top of the quota.
    let mut revision = Revision::new(3);
    revision.original[0] = false;
    let proposals = Ranked::new([&[(1, 0.1)], &[(2, 0.1)], &[(3, 0.1)]]);
    let (writes, _) = decide(&mut revision, &[MASK; 3], &rules, &proposals);
    assert_eq!(writes, [(0, 1), (1, 2), (2, 3)]);
}
