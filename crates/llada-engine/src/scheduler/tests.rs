use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    slots: 4,
    prefill_rows: 8,
    fused: true,
    prefix_cache: true,
};

/// A request whose blocks fill in as many steps as the text says, one token after the other.
#[derive(Clone, Debug)]
struct Text {
    tokens: Vec<u32>,
    size: usize,
    /// Start of the active block.
    clean: usize,
    /// Rows before it that may become active again.
    unsettled: usize,
    shifted: bool,
}

impl Text {
    fn new(prompt_len: usize, new_tokens: usize, size: usize) -> Self {
        let len = (prompt_len + new_tokens).next_multiple_of(size);
        Self {
            tokens: (0..len as u32).collect(),
            size,
            clean: prompt_len / size * size,
            unsettled: 0,
            shifted: false,
        }
    }

    fn frozen(&self) -> usize {
        self.clean - self.unsettled
    }

    fn stand(&self) -> Stand<'_> {
        Stand {
            block_size: BlockSize::new(self.size).unwrap(),
            clean: &self.tokens[..self.clean],
            frozen: self.frozen(),
            end: self.clean + self.size,
            needs_last_row: self.shifted,
            step_rows: self.size,
        }
    }

    fn is_finished(&self) -> bool {
        self.clean == self.tokens.len()
    }
}

struct Sim {
    scheduler: Scheduler,
    texts: HashMap<RequestId, Text>,
}

impl Sim {
    fn new(limits: Limits, num_pages: usize, page_rows: usize) -> Self {
        Self {
            scheduler: Scheduler::new(limits, PagePool::new(num_pages, page_rows)),
            texts: HashMap::new(),
        }
    }

    fn submit(&mut self, id: u64, text: Text) {
        self.texts.insert(RequestId(id), text);
        self.scheduler.submit(RequestId(id));
    }

    fn plan(&mut self) -> Vec<Group> {
        let texts = &self.texts;
        self.scheduler.plan(|id| texts[&id].stand())
    }

    /// Runs a forward in which every deciding group fills its block.
    fn forward(&mut self) -> Vec<Group> {
        let groups = self.plan();
        for group in &groups {
            let text = self.texts.get_mut(&group.request).unwrap();
            let table = self.scheduler.table(group.request);
            assert!(
                table
                    .rows(group.rows.end)
                    .iter()
                    .map(Range::len)
                    .sum::<usize>()
                    >= group.rows.end
            );
            let clean = group.rows.end.min(group.clean);
            let frozen = text.frozen().min(clean);
            self.scheduler
                .commit(group.request, &text.tokens[..clean], frozen);
            if group.decides {
                text.clean += text.size;
                if text.is_finished() {
                    self.scheduler.remove(group.request);
                }
            }
        }
        groups
    }

    fn rows(&mut self) -> Vec<(u64, Range<usize>)> {
        let groups = self.forward();
        groups.into_iter().map(|g| (g.request.0, g.rows)).collect()
    }
}

#[test]
fn a_prompt_and_its_first_block_go_together_and_so_does_each_finished_block() {
    let mut sim = Sim::new(LIMITS, 8, 4);
    sim.submit(0, Text::new(6, 8, 4));
    assert_eq!(sim.rows(), [(0, 0..8)]);
    assert_eq!(sim.rows(), [(0, 4..12)]);
    assert_eq!(sim.rows(), [(0, 8..16)]);
    assert_eq!(sim.rows(), []);
    assert_eq!(sim.scheduler.pool().available(), 8);
}

#[test]
fn separate_commits_take_a_forward_of_their_own() {
    let mut sim = Sim::new(
        Limits {
            fused: false,
            ..LIMITS
        },
        8,
        4,
    );
    sim.submit(0, Text::new(4, 8, 4));
    let decides: Vec<_> = (0..4)
        .flat_map(|_| sim.forward())
        .map(|g| (g.rows, g.decides))
        .collect();
    assert_eq!(
        decides,
        [(0..4, false), (4..8, true), (4..8, false), (8..12, true)]
    );
}

#[test]
fn a_long_prompt_is_cut_at_blocks_and_does_not_hold_up_others() {
    let mut sim = Sim::new(LIMITS, 32, 4);
    sim.submit(0, Text::new(0, 12, 4));
    sim.submit(1, Text::new(21, 4, 4));
    assert_eq!(sim.rows(), [(0, 0..4), (1, 0..8)]);
    assert_eq!(sim.rows(), [(0, 0..8), (1, 8..16)]);
    assert_eq!(sim.rows(), [(0, 4..12), (1, 16..24)]);
}

#[test]
fn two_long_prompts_share_the_budget_oldest_first() {
    let mut sim = Sim::new(LIMITS, 32, 4);
    sim.submit(0, Text::new(12, 4, 4));
    sim.submit(1, Text::new(12, 4, 4));
    assert_eq!(sim.rows(), [(0, 0..8)]);
    assert_eq!(sim.rows(), [(0, 8..16), (1, 0..8)]);
}

#[test]
fn a_block_larger_than_the_budget_is_taken_whole() {
    let mut sim = Sim::new(
        Limits {
            prefill_rows: 2,
            ..LIMITS
        },
        32,
        4,
    );
    sim.submit(0, Text::new(8, 4, 4));
    assert_eq!(sim.rows(), [(0, 0..4)]);
    assert_eq!(sim.rows(), [(0, 4..12)]);
}

#[test]
fn rows_that_may_become_active_again_are_neither_shared_nor_kept() {
    let unsettled = |text, unsettled| Text { unsettled, ..text };
    let mut sim = Sim::new(LIMITS, 16, 4);
    // 12 clean rows, 8 of them frozen: others find those.
    sim.submit(0, unsettled(Text::new(12, 8, 4), 4));
    assert_eq!(
        (sim.rows(), sim.rows()),
        (vec![(0, 0..8)], vec![(0, 8..16)])
    );
    sim.submit(1, Text::new(12, 8, 4));
    sim.rows();
    assert_eq!(sim.scheduler.shared(RequestId(1)), 8);
    // Now 12 are published, and one that could rewrite the last 8 takes the first 4.
    sim.submit(2, unsettled(Text::new(12, 8, 4), 8));
    sim.rows();
    assert_eq!(sim.scheduler.shared(RequestId(2)), 4);
}

#[test]
fn rows_that_became_active_again_are_computed_in_place() {
    let mut sim = Sim::new(LIMITS, 16, 4);
    sim.submit(0, Text::new(4, 12, 4));
    assert_eq!(
        (sim.rows(), sim.rows()),
        (vec![(0, 0..8)], vec![(0, 4..12)])
    );
    sim.texts.get_mut(&RequestId(0)).unwrap().clean = 4;
    assert_eq!(sim.rows(), [(0, 4..8)]);
}

#[test]
fn a_prompt_seen_before_is_not_computed_again() {
    let mut sim = Sim::new(LIMITS, 16, 4);
    sim.submit(0, Text::new(8, 4, 4));
    sim.forward();
    sim.submit(1, Text::new(8, 4, 4));
    assert_eq!(sim.rows(), [(1, 8..12)]);
    let mut shifted = Text::new(8, 4, 4);
    shifted.shifted = true;
    sim.submit(2, shifted);
    assert_eq!(
        sim.rows(),
        [(2, 4..12)],
        "the last clean row decides a token"
    );
}

#[test]
fn the_youngest_gives_its_pages_to_the_oldest_and_goes_on_later() {
    let mut sim = Sim::new(LIMITS, 4, 4);
    sim.submit(0, Text::new(0, 12, 4));
    sim.submit(1, Text::new(1, 12, 4));
    let mut finished = Vec::new();
    for _ in 0..12 {
        sim.forward();
        finished.push([0, 1].map(|id| sim.texts[&RequestId(id)].is_finished()));
    }
    assert!(sim.scheduler.preemptions() > 0);
    assert!(finished.contains(&[true, false]));
    assert_eq!(finished.last(), Some(&[true, true]));
}

#[derive(Clone, Debug)]
enum Act {
    Submit(Text),
    Cancel(prop::sample::Index),
    Forward,
}

fn act() -> impl Strategy<Value = Act> {
    let text = (0usize..24, 1usize..16, 1usize..6, any::<bool>());
    prop_oneof![
        text.prop_map(|(prompt, new, size, shifted)| {
            Act::Submit(Text {
                shifted,
                ..Text::new(prompt, new, size)
            })
        }),
        any::<prop::sample::Index>().prop_map(Act::Cancel),
        Just(Act::Forward),
        Just(Act::Forward),
    ]
}

proptest! {
    #[test]
    fn every_request_ends_and_every_page_comes_back(
        acts in proptest::collection::vec(act(), 1..60),
        page_rows in 1usize..6,
        fused in any::<bool>(),
        prefix_cache in any::<bool>(),
    ) {
        let limits = Limits { fused, prefix_cache, ..LIMITS };
        // The longest text has 24 + 16 + 5 rows.
        let num_pages = 50usize.div_ceil(page_rows);
        let mut sim = Sim::new(limits, num_pages, page_rows);
        for (id, act) in acts.into_iter().enumerate() {
            match act {
                Act::Submit(text) => sim.submit(id as u64, text),
                Act::Cancel(which) => {
                    let mut ids: Vec<_> = sim.texts.keys().copied().collect();
                    ids.sort();
                    if !ids.is_empty() {
                        let id = ids[which.index(ids.len())];
                        sim.scheduler.remove(id);
                        sim.texts.remove(&id);
                    }
                }
                Act::Forward => {
                    sim.forward();
                }
            }
        }
        let mut forwards = 0;
        while !sim.forward().is_empty() {
            forwards += 1;
            prop_assert!(forwards < 10_000);
        }
        prop_assert!(sim.texts.values().all(Text::is_finished));
        prop_assert_eq!(sim.scheduler.pool().available(), num_pages);
    }
}
