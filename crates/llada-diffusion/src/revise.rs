//! Revision: editing that may also insert and delete positions (LLaDA2.2).
//!
//! Two tokens of the checkpoint are operations: DELETE proposed for a position drops it, SPLIT puts
//! an open position before it. What follows in the block moves; it ends where it did, so that tokens
//! fall out of it, or open positions come in. MASK may be proposed as well, which opens a position
//! again.
//!
//! ```text
//! the cat cat sat on      proposed for row 2: DELETE      the cat sat on [ ]
//! the cat on the mat      proposed for row 2: SPLIT       the cat [ ] on the
//! ```
//!
//! **Why it ends.** A position that was open when the block began is *original*, and the mark moves
//! with its token. While an original position is open, every step fills at least one; otherwise the
//! step is taken from a budget. The last step of the budget is a clean-up that fills everything and
//! bans all three special tokens. A block of S takes at most S + budget + 2 forwards, the commit
//! included. Two states may still alternate until then, so in a state seen before the least
//! confident change takes a token not yet tried at its position.
//!
//! The rules are those of SGLang's public decoder; the paper gives none.

use std::collections::BTreeSet;

use crate::acceptance::{Acceptance, BlockHistory};
use crate::proposal::{Candidate, Proposals, candidate};
use crate::sequence::Placed;

/// What a revision goes by: constants of the request, and what holds in this step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) acceptance: Acceptance,
    pub(crate) history: BlockHistory,
    /// Original positions to fill at least.
    pub(crate) need: usize,
    pub(crate) above: f32,
    /// Steps without an open original position.
    pub(crate) max_post_edit_steps: usize,
    /// Steps before the clean-up.
    pub(crate) max_updates: usize,
    pub(crate) mask_token_id: u32,
    pub(crate) delete_token_id: u32,
    pub(crate) split_token_id: u32,
}

impl Rules {
    /// Returns the tokens that no finished block holds.
    fn special(&self) -> [u32; 3] {
        [
            self.mask_token_id,
            self.delete_token_id,
            self.split_token_id,
        ]
    }
}

/// The active block as the forward saw it, from its first position after the prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub(crate) first: usize,
    pub(crate) tokens: &'a [u32],
    pub(crate) open: &'a [bool],
}

/// What a forward of a block changes.
#[derive(Debug)]
pub(crate) struct Decision {
    /// Proposals for open positions.
    pub(crate) open: Vec<Candidate>,
    /// Proposals for open positions that were accepted, and final tokens in the clean-up.
    pub(crate) fills: Vec<Candidate>,
    /// Proposals for placed positions that were accepted.
    pub(crate) edits: Vec<Candidate>,
    pub(crate) fell_back: bool,
    /// This was the clean-up.
    pub(crate) is_final: bool,
}

/// What is remembered of a block between its forwards.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Revision {
    /// Whether each row after the prompt was open when the block began.
    original: Vec<bool>,
    /// Forwards so far.
    updates: usize,
    /// Those without an open original position; never reset.
    post_edit_steps: usize,
    /// States of the block that forwards have seen.
    seen: BTreeSet<Vec<u32>>,
    /// Tokens written, by position.
    tried: BTreeSet<(usize, u32)>,
}

impl Revision {
    /// Returns the state before the first forward of a block with this many rows after the prompt.
    pub(crate) fn new(rows: usize) -> Self {
        Self {
            original: vec![true; rows],
            ..Self::default()
        }
    }

    pub(crate) fn is_original(&self, row: usize) -> bool {
        self.original[row]
    }

    pub(crate) fn set_original(&mut self, cells: &[Cell]) {
        self.original = cells.iter().map(|cell| cell.is_original).collect();
    }

    /// Decides what changes, given the proposals of a forward.
    pub(crate) fn decide<P>(&mut self, block: &Block<'_>, rules: &Rules, proposals: &P) -> Decision
    where
        P: Proposals + ?Sized,
    {
        let unresolved: Vec<usize> = self.unresolved(block).collect();
        let is_final = self.begin(rules, unresolved.is_empty());
        let propose = |position| {
            let must_resolve = !is_final && unresolved.contains(&position);
            let banned = [rules.mask_token_id];
            candidate(proposals, position, &banned[..usize::from(must_resolve)])
        };
        let positions = block.first..block.first + block.tokens.len();
        let (open, placed): (Vec<Candidate>, Vec<Candidate>) = positions
            .map(propose)
            .partition(|c| block.open[c.position - block.first]);
        let mut decision = fill(open, &unresolved, rules, is_final);
        let token = |position: usize| block.tokens[position - block.first];
        let is_edit = |c: &Candidate| c.token != token(c.position) && c.confidence > rules.above;
        decision.edits = placed.into_iter().filter(is_edit).collect();
        self.avoid(block, rules, proposals, &mut decision);
        decision
    }

    /// Returns the open original positions.
    fn unresolved(&self, block: &Block<'_>) -> impl Iterator<Item = usize> {
        let rows = self.original.iter().zip(block.open).enumerate();
        let unresolved = rows.filter(|(_, (original, open))| **original && **open);
        unresolved.map(|(row, _)| block.first + row)
    }

    /// Counts a forward; returns whether it is the clean-up.
    fn begin(&mut self, rules: &Rules, is_resolved: bool) -> bool {
        self.updates += 1;
        self.post_edit_steps += usize::from(is_resolved);
        let is_spent = is_resolved && self.post_edit_steps >= rules.max_post_edit_steps;
        is_spent || self.updates > rules.max_updates
    }

    /// Replaces accepted tokens that must not be written now, and remembers the others.
    fn avoid<P>(&mut self, block: &Block<'_>, rules: &Rules, proposals: &P, decision: &mut Decision)
    where
        P: Proposals + ?Sized,
    {
        let is_repeated = !self.seen.insert(block.tokens.to_vec());
        if decision.is_final {
            let special = rules.special();
            for write in decision.writes() {
                *write = candidate(proposals, write.position, &special);
            }
        } else if is_repeated {
            self.vary(block, rules, proposals, decision);
        }
        let tried = decision.writes().map(|write| (write.position, write.token));
        self.tried.extend(tried);
    }

    /// Gives the least confident change a token not yet tried at its position, if there is one.
    fn vary<P>(&self, block: &Block<'_>, rules: &Rules, proposals: &P, decision: &mut Decision)
    where
        P: Proposals + ?Sized,
    {
        let unresolved: Vec<usize> = self.unresolved(block).collect();
        let changes = decision
            .writes()
            .filter(|write| write.token != block.tokens[write.position - block.first]);
        let least = changes.min_by(|a, b| {
            let by_confidence = a.confidence.total_cmp(&b.confidence);
            by_confidence.then(a.position.cmp(&b.position))
        });
        let Some(least) = least else { return };
        let tried = (least.position, 0)..=(least.position, u32::MAX);
        let tried = self.tried.range(tried).map(|&(_, token)| token);
        let mask = unresolved.contains(&least.position);
        let mask = mask.then_some(rules.mask_token_id);
        let banned: Vec<u32> = tried.chain(mask).collect();
        if let Some(other) = proposals.best(least.position, &banned) {
            *least = other;
        }
    }
}

impl Decision {
    fn writes(&mut self) -> impl Iterator<Item = &mut Candidate> {
        self.fills.iter_mut().chain(&mut self.edits)
    }
}

/// Accepts proposals for open positions: all if no original one is open or it is the clean-up, else
/// so many that `need` original ones are among them.
fn fill(open: Vec<Candidate>, unresolved: &[usize], rules: &Rules, is_final: bool) -> Decision {
    let mut decision = Decision {
        fills: open.clone(),
        open,
        edits: Vec::new(),
        fell_back: false,
        is_final,
    };
    if is_final || unresolved.is_empty() {
        return decision;
    }
    let (open, acceptance) = (&decision.open, rules.acceptance);
    let need = rules.need.saturating_add(open.len() - unresolved.len());
    let accepted = acceptance.accept(open, need, rules.history);
    decision.fell_back = acceptance.falls_back(open, &accepted, rules.history);
    let fills: Vec<Candidate> = accepted.iter().map(|&i| open[i]).collect();
    let is_filled = |position: &usize| fills.iter().any(|fill| fill.position == *position);
    // Without a budget the step that resolves the last original position is the clean-up.
    decision.is_final = rules.max_post_edit_steps == 0 && unresolved.iter().all(is_filled);
    if !decision.is_final {
        decision.fills = fills;
    }
    decision
}

/// A position of a block whose positions move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) token: u32,
    /// `None` while it is open.
    pub(crate) placed: Option<Placed>,
    pub(crate) is_original: bool,
}

/// Returns a block after `write` gave some of its rows a token, operations among them; the length
/// stays.
pub(crate) fn rebuild(
    old: &[Cell],
    write: impl Fn(usize) -> Option<(u32, Placed)>,
    rules: &Rules,
) -> Vec<Cell> {
    let inserted = Cell {
        token: rules.mask_token_id,
        placed: None,
        is_original: false,
    };
    let mut cells = Vec::with_capacity(2 * old.len());
    for (row, &cell) in old.iter().enumerate() {
        match write(row) {
            None => cells.push(cell),
            Some((token, _)) if token == rules.delete_token_id => {}
            Some((token, _)) if token == rules.split_token_id => cells.extend([inserted, cell]),
            Some((token, placed)) => cells.push(Cell {
                token,
                placed: (token != rules.mask_token_id).then_some(placed),
                ..cell
            }),
        }
    }
    cells.resize(old.len(), inserted);
    cells
}

#[cfg(test)]
mod tests;
