//! Which rows of the key-value store hold which text: pages, shared prefixes, and what can be used again.
//!
//! The store is cut into pages of a fixed number of rows. A request owns a [`PageTable`]; the row of
//! position i lies in its page i / page_rows. A *unit* is the fewest whole pages that are also whole
//! blocks: one page when a page is a block. Committed units are final, for a clean block sees itself
//! and what comes before it and nothing else, so a request publishes them and others whose text
//! begins alike share them. A unit is found by the unit before it and its own tokens; the keys are
//! compared in full, never by a hash alone.
//!
//! Units that nobody uses stay until their pages are needed, least recently used first. This is
//! plain bookkeeping: no keys or values are seen here.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use llada_diffusion::BlockSize;

/// A page, by its number in the store.
type Page = usize;
/// A published unit. Numbers are never used twice, so the key of a unit whose predecessor is gone
/// is never found again.
type UnitId = u64;

/// The predecessor that every first unit has.
const ROOT: UnitId = 0;

/// Bookkeeping of all pages of a store.
#[derive(Debug)]
pub(crate) struct PagePool {
    page_rows: usize,
    free: Vec<Page>,
    units: HashMap<UnitId, Unit>,
    index: HashMap<UnitKey, UnitId>,
    /// Units that no table uses, by when they were released.
    unused: BTreeSet<(u64, UnitId)>,
    unused_pages: usize,
    clock: u64,
    last_id: UnitId,
}

/// Why two requests have the same keys and values in a unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct UnitKey {
    before: UnitId,
    block_size: BlockSize,
    tokens: Vec<u32>,
}

#[derive(Debug)]
struct Unit {
    key: UnitKey,
    pages: Vec<Page>,
    users: usize,
    released: u64,
}

/// The pages of one request: shared units, then pages of its own. Give it back with
/// [`PagePool::release`].
#[derive(Debug)]
pub(crate) struct PageTable {
    block_size: BlockSize,
    unit_pages: usize,
    page_rows: usize,
    shared: Vec<UnitId>,
    /// Pages in order of position; the first `shared.len() * unit_pages` belong to the units.
    pages: Vec<Page>,
}

impl PageTable {
    /// Returns the row of the store for a position.
    pub(crate) fn row(&self, position: usize) -> usize {
        self.pages[position / self.page_rows] * self.page_rows + position % self.page_rows
    }

    /// Returns the rows of the first `len` positions as ranges that are as long as possible.
    pub(crate) fn rows(&self, len: usize) -> Vec<Range<usize>> {
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for start in (0..len).step_by(self.page_rows) {
            let (row, rows) = (self.row(start), self.page_rows.min(len - start));
            match pieces.last_mut() {
                Some(piece) if piece.end == row => piece.end += rows,
                _ => pieces.push(row..row + rows),
            }
        }
        pieces
    }

    /// Returns the number of positions there are rows for.
    fn capacity(&self) -> usize {
        self.pages.len() * self.page_rows
    }

    pub(crate) fn block_size(&self) -> BlockSize {
        self.block_size
    }

    fn unit_rows(&self) -> usize {
        self.unit_pages * self.page_rows
    }
}

impl PagePool {
    /// Returns a pool of free pages.
    pub(crate) fn new(num_pages: usize, page_rows: usize) -> Self {
        Self {
            page_rows,
            free: (0..num_pages).rev().collect(),
            units: HashMap::new(),
            index: HashMap::new(),
            unused: BTreeSet::new(),
            unused_pages: 0,
            clock: 0,
            last_id: ROOT,
        }
    }

    /// Returns the number of pages that a table may still get.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.unused_pages
    }

    /// Returns the pages that `rows` rows take.
    pub(crate) fn pages_for(&self, rows: usize) -> usize {
        rows.div_ceil(self.page_rows)
    }

    /// Returns a table without pages.
    pub(crate) fn table(&self, block_size: BlockSize) -> PageTable {
        PageTable {
            block_size,
            unit_pages: lcm(block_size.get(), self.page_rows) / self.page_rows,
            page_rows: self.page_rows,
            shared: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// Shares the published units that `tokens` begin with, as far as they are whole; returns how
    /// many rows that are. The table has no pages yet.
    pub(crate) fn share(&mut self, table: &mut PageTable, tokens: &[u32]) -> usize {
        for tokens in tokens.chunks_exact(table.unit_rows()) {
            let key = unit_key(table, tokens);
            let Some(&id) = self.index.get(&key) else {
                break;
            };
            self.take(id);
            table.pages.extend(&self.units[&id].pages);
            table.shared.push(id);
        }
        table.capacity()
    }

    /// Gives the table rows for `len` positions; returns whether there were pages enough. If not,
    /// nothing changes.
    pub(crate) fn grow(&mut self, table: &mut PageTable, len: usize) -> bool {
        let more = self.pages_for(len).saturating_sub(table.pages.len());
        if more > self.available() {
            return false;
        }
        for _ in 0..more {
            table.pages.push(self.free_page());
        }
        true
    }

    /// Publishes the table's units within its first `tokens.len()` positions, all committed. Where
    /// another request was first, the table takes the other's pages: they hold the same numbers.
    pub(crate) fn publish(&mut self, table: &mut PageTable, tokens: &[u32]) {
        let unit_rows = table.unit_rows();
        let published = table.shared.len();
        for tokens in tokens.chunks_exact(unit_rows).skip(published) {
            let key = unit_key(table, tokens);
            let first = table.shared.len() * table.unit_pages;
            let pages = first..first + table.unit_pages;
            let id = match self.index.get(&key).copied() {
                Some(id) => {
                    self.take(id);
                    let own = table
                        .pages
                        .splice(pages, self.units[&id].pages.iter().copied());
                    self.free.extend(own);
                    id
                }
                None => self.insert(key, table.pages[pages].to_vec()),
            };
            table.shared.push(id);
        }
    }

    /// Takes the pages of a table back; its published units can be shared until their pages are
    /// needed.
    pub(crate) fn release(&mut self, table: PageTable) {
        let own = table.shared.len() * table.unit_pages;
        self.free.extend(&table.pages[own..]);
        // The last units first: what comes before them is needed longest.
        for id in table.shared.into_iter().rev() {
            self.clock += 1;
            let unit = self.units.get_mut(&id).expect("a unit in use is kept");
            unit.users -= 1;
            if unit.users == 0 {
                unit.released = self.clock;
                self.unused.insert((self.clock, id));
                self.unused_pages += unit.pages.len();
            }
        }
    }

    fn take(&mut self, id: UnitId) {
        let unit = self.units.get_mut(&id).expect("the index names units");
        if unit.users == 0 {
            self.unused.remove(&(unit.released, id));
            self.unused_pages -= unit.pages.len();
        }
        unit.users += 1;
    }

    fn insert(&mut self, key: UnitKey, pages: Vec<Page>) -> UnitId {
        self.last_id += 1;
        self.index.insert(key.clone(), self.last_id);
        let unit = Unit {
            key,
            pages,
            users: 1,
            released: 0,
        };
        self.units.insert(self.last_id, unit);
        self.last_id
    }

    /// Returns a free page, at the cost of an unused unit if need be.
    fn free_page(&mut self) -> Page {
        if self.free.is_empty() {
            let (_, id) = self.unused.pop_first().expect("pages were counted");
            let unit = self.units.remove(&id).expect("unused units are kept");
            self.index.remove(&unit.key);
            self.unused_pages -= unit.pages.len();
            self.free.extend(unit.pages);
        }
        self.free.pop().expect("a unit has pages")
    }
}

fn unit_key(table: &PageTable, tokens: &[u32]) -> UnitKey {
    UnitKey {
        before: table.shared.last().copied().unwrap_or(ROOT),
        block_size: table.block_size,
        tokens: tokens.to_vec(),
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}

#[cfg(test)]
mod tests;
