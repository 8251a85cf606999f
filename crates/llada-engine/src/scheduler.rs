//! What the next forward computes: which rows of which requests.
//!
//! Each request stands at its active block. What comes before is clean; the part of it that is not
//! in the store yet is *pending*: prompt blocks to prefill, the block just filled, or everything
//! after a preemption.
//!
//! ```text
//! position   0 ........ cached ........ clean ........ end
//!            in the store   pending        active block
//! ```
//!
//! Clean rows may become active again. What is in the store of them is then computed anew, in place;
//! so only *frozen* rows, which cannot change, are shared with other requests.
//!
//! A forward takes one group of rows from each running request: some of its pending blocks, and the
//! active block if all of them are in. Every request with no more pending than a step can fill takes
//! a step in every forward, whatever the others do; the prefill of longer stretches shares a budget
//! of rows, oldest request first, so it never holds up the steps of others for long.
//!
//! A request is admitted, in order of arrival, when pages are left for its clean rows, its active
//! block, and a further block of everyone running. If a running request finds no page all the
//! same, the youngest one gives its pages back and waits in front; what it has written stays, its
//! keys and values are computed again. The oldest request always moves on.
//!
//! Plain data in and out: no model, no clock.

use std::collections::VecDeque;
use std::ops::Range;

use llada_diffusion::BlockSize;

use crate::pages::{PagePool, PageTable};
use crate::request::RequestId;

/// Bounds of a forward, and the savings that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Most requests that run together, at least 1.
    pub(crate) slots: usize,
    /// Most prefill rows of a forward; a block is always taken whole.
    pub(crate) prefill_rows: usize,
    /// Whether pending rows and the active block go into one forward.
    pub(crate) fused: bool,
    /// Whether requests share the pages of what they have in common.
    pub(crate) prefix_cache: bool,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stand<'a> {
    pub(crate) block_size: BlockSize,
    /// Tokens before the active block.
    pub(crate) clean: &'a [u32],
    /// Tokens that cannot change any more, of those before the active block.
    pub(crate) frozen: usize,
    /// End of the active block's rows; the length of `clean` if they predict nothing.
    pub(crate) end: usize,
    /// The last clean row predicts the block's first position: its hidden state is needed, not only
    /// its keys and values.
    pub(crate) needs_last_row: bool,
    /// Most rows that can become clean in one step: pending rows up to here ride along with the
    /// active block and are no prefill.
    pub(crate) step_rows: usize,
}

/// Rows of a request in a forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) request: RequestId,
    /// Positions, from the first row that is not in the store.
    pub(crate) rows: Range<usize>,
    /// Positions before this are clean.
    pub(crate) clean: usize,
    /// All pending rows are in, so the forward decides tokens. With no rows at all, what an earlier
    /// forward computed decides.
    pub(crate) decides: bool,
}

/// Queue, running requests and their pages.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: PagePool,
    waiting: VecDeque<RequestId>,
    /// In order of arrival.
    running: Vec<Slot>,
    preemptions: usize,
}

#[derive(Debug)]
struct Slot {
    request: RequestId,
    table: PageTable,
    cached: usize,
    /// Rows that others had computed.
    shared: usize,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, pool: PagePool) -> Self {
        Self {
            limits,
            pool,
            waiting: VecDeque::new(),
            running: Vec::new(),
            preemptions: 0,
        }
    }

    pub(crate) fn pool(&self) -> &PagePool {
        &self.pool
    }

    pub(crate) fn preemptions(&self) -> usize {
        self.preemptions
    }

    /// Queues a request.
    pub(crate) fn submit(&mut self, request: RequestId) {
        self.waiting.push_back(request);
    }

    /// Forgets a request, finished or not, and frees its pages.
    pub(crate) fn remove(&mut self, request: RequestId) {
        self.waiting.retain(|&waiting| waiting != request);
        if let Some(index) = self.index(request) {
            let slot = self.running.remove(index);
            self.pool.release(slot.table);
        }
    }

    /// Returns the groups of the next forward, in order of arrival; none if nothing is left to do.
    pub(crate) fn plan<'a>(&mut self, stand: impl Fn(RequestId) -> Stand<'a>) -> Vec<Group> {
        self.reserve(&stand);
        self.admit(&stand);
        let mut budget = self.limits.prefill_rows;
        let groups = self
            .running
            .iter()
            .filter_map(|slot| group(self.limits, slot, stand(slot.request), &mut budget));
        groups.collect()
    }

    /// Returns the pages of a running request.
    pub(crate) fn table(&self, request: RequestId) -> &PageTable {
        &self.running[self.index(request).expect("a group's request runs")].table
    }

    /// Returns how many rows a running request took over when it was admitted.
    pub(crate) fn shared(&self, request: RequestId) -> usize {
        self.index(request)
            .map_or(0, |index| self.running[index].shared)
    }

    /// Notes that the first `clean.len()` positions of a request are in the store, the `frozen` first
    /// of them for good.
    pub(crate) fn commit(&mut self, request: RequestId, clean: &[u32], frozen: usize) {
        let index = self.index(request).expect("a group's request runs");
        let slot = &mut self.running[index];
        slot.cached = clean.len();
        if self.limits.prefix_cache {
            self.pool.publish(&mut slot.table, &clean[..frozen]);
        }
    }

    /// Gives every running request rows for its active block, the oldest first.
    fn reserve<'a>(&mut self, stand: &impl Fn(RequestId) -> Stand<'a>) {
        let mut index = 0;
        while index < self.running.len() {
            let end = stand(self.running[index].request).end;
            while !self.pool.grow(&mut self.running[index].table, end) {
                self.preempt_youngest();
                if index == self.running.len() {
                    return;
                }
            }
            index += 1;
        }
    }

    fn preempt_youngest(&mut self) {
        let slot = self.running.pop().expect("pages that lack are in use");
        self.pool.release(slot.table);
        self.waiting.push_front(slot.request);
        self.preemptions += 1;
    }

    fn admit<'a>(&mut self, stand: &impl Fn(RequestId) -> Stand<'a>) {
        while self.running.len() < self.limits.slots
            && let Some(&request) = self.waiting.front()
        {
            let stand = stand(request);
            let Some(slot) = self.slot(request, stand) else {
                return;
            };
            self.waiting.pop_front();
            self.running.push(slot);
        }
    }

    /// Returns a slot with pages, if there are enough.
    fn slot(&mut self, request: RequestId, stand: Stand<'_>) -> Option<Slot> {
        let mut table = self.pool.table(stand.block_size);
        let mut shared = 0;
        if self.limits.prefix_cache {
            let last = usize::from(stand.needs_last_row);
            let most = stand.frozen.min(stand.clean.len().saturating_sub(last));
            shared = self.pool.share(&mut table, &stand.clean[..most]);
        }
        let block_pages = |slot: &Slot| self.pool.pages_for(slot.table.block_size().get());
        let spare: usize = self.running.iter().map(block_pages).sum();
        if self.pool.grow(&mut table, stand.end) && self.pool.available() >= spare {
            let cached = shared;
            return Some(Slot {
                request,
                table,
                cached,
                shared,
            });
        }
        self.pool.release(table);
        None
    }

    fn index(&self, request: RequestId) -> Option<usize> {
        self.running.iter().position(|slot| slot.request == request)
    }
}

/// Returns the rows of a request in the next forward; none if the others used up the budget.
fn group(limits: Limits, slot: &Slot, stand: Stand<'_>, budget: &mut usize) -> Option<Group> {
    let (clean, size) = (stand.clean.len(), stand.block_size.get());
    let cached = slot.cached.min(clean);
    let pending = clean - cached;
    let taken = if pending <= stand.step_rows {
        pending
    } else {
        // A budget smaller than a block still lets one block in.
        let is_first = *budget == limits.prefill_rows;
        let most = (*budget / size * size).max(if is_first { size } else { 0 });
        *budget = budget.saturating_sub(most.min(pending));
        pending.min(most)
    };
    let is_all = taken == pending;
    let is_alone = pending > 0 && !limits.fused;
    let end = if is_all && !is_alone {
        stand.end
    } else {
        cached + taken
    };
    let decides = is_all && (!is_alone || stand.end == clean);
    (taken > 0 || decides).then_some(Group {
        request: slot.request,
        rows: cached..end,
        clean,
        decides,
    })
}

#[cfg(test)]
mod tests;
