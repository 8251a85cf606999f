//! Editing as its sources write it down, on one block of plain ids: what the state machine equals.

use std::collections::{HashMap, HashSet};

use llada_diffusion::{BlockOutcome, Edit, Policy, Sequence, propose};
use proptest::prelude::*;

use crate::models::{DELETE, MASK, SPLIT, chaotic, prompt, size, step, threshold};

/// The states of a block after each forward, the prompt's tail included.
type Trace = Vec<Vec<u32>>;

#[derive(Debug)]
struct Settings {
    prompt_len: usize,
    threshold: f32,
    above: f32,
    budget: usize,
}

impl Settings {
    fn start(&self, size: usize) -> Vec<u32> {
        let mut block = prompt(self.prompt_len);
        block.resize(size, MASK);
        block
    }

    fn policy(&self, edit: Edit) -> Policy {
        Policy {
            edit,
            max_post_edit_steps: self.budget,
            ..threshold(self.threshold)
        }
    }
}

fn best(logits: &[f32], banned: &[u32]) -> (u32, f32) {
    propose(logits, banned).expect("tokens are left")
}

/// Returns the rows of the `need` largest confidences, all above the threshold if these are more.
fn fill_set(rows: &[usize], p: &[f32], threshold: f32, need: usize) -> Vec<usize> {
    let mut order = rows.to_vec();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    let above = rows.iter().filter(|&&i| p[i] > threshold).count();
    order.truncate(above.max(need));
    order
}

/// Joint threshold editing (LLaDA2.1); returns the trace and whether a commit is needed.
fn joint(
    settings: &Settings,
    size: usize,
    model: impl Fn(&[u32], usize) -> Vec<f32>,
) -> (Trace, bool) {
    let (mut x, mut trace, mut post) = (settings.start(size), Trace::new(), 0);
    let answer = settings.prompt_len..size;
    loop {
        let open: Vec<usize> = answer.clone().filter(|&i| x[i] == MASK).collect();
        if open.is_empty() {
            post += 1;
            if post > settings.budget {
                return (trace, true);
            }
        }
        let (t, p): (Vec<u32>, Vec<f32>) = (0..size).map(|i| best(&model(&x, i), &[MASK])).unzip();
        let fills = fill_set(&open, &p, settings.threshold, 1);
        let is_edit = |&i: &usize| x[i] != MASK && t[i] != x[i] && p[i] > settings.above;
        let edits: Vec<usize> = answer.clone().filter(is_edit).collect();
        for &i in fills.iter().chain(&edits) {
            x[i] = t[i];
        }
        trace.push(x.clone());
        if open.is_empty() && edits.is_empty() {
            return (trace, false);
        }
    }
}

/// Joint threshold editing with insertions and deletions (LLaDA2.2).
fn joint_with_operations(
    settings: &Settings,
    size: usize,
    model: impl Fn(&[u32], usize) -> Vec<f32>,
) -> (Trace, bool) {
    let Settings {
        prompt_len, budget, ..
    } = *settings;
    let (mut x, mut trace) = (settings.start(size), Trace::new());
    let mut original: Vec<bool> = (0..size).map(|i| i >= prompt_len).collect();
    let (mut post, mut updates) = (0, 0);
    let mut seen: HashSet<Vec<u32>> = HashSet::new();
    let mut tried: HashMap<usize, Vec<u32>> = HashMap::new();
    loop {
        let logits: Vec<Vec<f32>> = (0..size).map(|i| model(&x, i)).collect();
        let open: Vec<usize> = (prompt_len..size).filter(|&i| x[i] == MASK).collect();
        let unresolved: Vec<usize> = open.iter().copied().filter(|&i| original[i]).collect();
        updates += 1;
        post += usize::from(unresolved.is_empty());
        let mut is_final = (budget > 0 && post >= budget)
            || (budget == 0 && unresolved.is_empty())
            || updates > size + budget;

        let (mut t, p): (Vec<u32>, Vec<f32>) = (0..size)
            .map(|i| match best(&logits[i], &[]) {
                (MASK, _) if !is_final && unresolved.contains(&i) => best(&logits[i], &[MASK]),
                choice => choice,
            })
            .unzip();
        let need = 1 + open.len() - unresolved.len();
        let mut fills = match unresolved.is_empty() || is_final {
            true => open.clone(),
            false => fill_set(&open, &p, settings.threshold, need),
        };
        if budget == 0 && unresolved.iter().all(|i| fills.contains(i)) {
            (is_final, fills) = (true, open.clone());
        }
        let is_edit = |i: &usize| x[*i] != MASK && t[*i] != x[*i] && p[*i] > settings.above;
        let mut writes: Vec<usize> = (prompt_len..size).filter(is_edit).collect();
        writes.extend(fills);
        writes.sort_unstable();
        if writes.is_empty() {
            trace.push(x);
            return (trace, false);
        }

        let is_repeated = !seen.insert(x.clone());
        if is_final {
            for &i in &writes {
                t[i] = best(&logits[i], &[MASK, DELETE, SPLIT]).0;
            }
        } else if is_repeated {
            let changes = writes.iter().copied().filter(|&i| t[i] != x[i]);
            if let Some(i) = changes.min_by(|&a, &b| p[a].total_cmp(&p[b])) {
                let mut banned = tried.get(&i).cloned().unwrap_or_default();
                banned.extend(unresolved.contains(&i).then_some(MASK));
                t[i] = propose(&logits[i], &banned).map_or(t[i], |other| other.0);
            }
        }
        let before = x.clone();
        (x, original) = apply(&before, &original, &writes, &t, prompt_len);
        for &i in &writes {
            tried.entry(i).or_default().push(t[i]);
        }
        trace.push(x.clone());
        if is_final {
            let has_changed = x != before;
            return (trace, has_changed);
        }
    }
}

fn apply(
    old: &[u32],
    original: &[bool],
    writes: &[usize],
    t: &[u32],
    prompt_len: usize,
) -> (Vec<u32>, Vec<bool>) {
    let rows: Vec<(u32, bool)> = (0..old.len())
        .flat_map(|i| match t[i] {
            _ if i < prompt_len || !writes.contains(&i) => vec![(old[i], original[i])],
            DELETE => vec![],
            SPLIT => vec![(MASK, false), (old[i], original[i])],
            token => vec![(token, original[i])],
        })
        .chain(std::iter::repeat((MASK, false)))
        .take(old.len())
        .collect();
    rows.into_iter().unzip()
}

/// The same trace from the state machine.
fn traced(
    settings: &Settings,
    block_size: usize,
    edit: Edit,
    model: impl Fn(&[u32], usize) -> Vec<f32>,
) -> (Trace, bool) {
    let (prompt, policy) = (prompt(settings.prompt_len), settings.policy(edit));
    // A second block, so that the first one's end is not the text's.
    let max_new = 2 * block_size - settings.prompt_len;
    let mut text =
        Sequence::new(&prompt, max_new, size(block_size), MASK, policy).expect("a valid request");
    let mut trace = Trace::new();
    loop {
        let done = step(&mut text, &model);
        trace.push(text.tokens()[..block_size].to_vec());
        if done.block_done() {
            let is_changed = done.block == BlockOutcome::Changed;
            return (trace, is_changed);
        }
    }
}

prop_compose! {
    fn cases()(
        block_size in 1usize..7,
        tail in 0usize..7,
        threshold in 0.0f32..1.0,
        above in 0.0f32..0.9,
        budget in 0usize..6,
    ) -> (Settings, usize) {
        let prompt_len = tail % block_size;
        (Settings { prompt_len, threshold, above, budget }, block_size)
    }
}

proptest! {
    #[test]
    fn editing_is_the_joint_threshold((settings, size) in cases(), seed: u64) {
        let edit = Edit::Above(settings.above);
        let expected = joint(&settings, size, chaotic(seed));
        prop_assert_eq!(traced(&settings, size, edit, chaotic(seed)), expected);
    }

    #[test]
    fn revision_is_the_joint_threshold_with_operations((settings, size) in cases(), seed: u64) {
        let edit = Edit::Revise {
            above: settings.above,
            delete_token_id: DELETE,
            split_token_id: SPLIT,
        };
        let expected = joint_with_operations(&settings, size, chaotic(seed));
        prop_assert_eq!(traced(&settings, size, edit, chaotic(seed)), expected);
    }
}
