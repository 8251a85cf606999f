use proptest::prelude::*;

use super::*;

fn size(block_size: usize) -> BlockSize {
    BlockSize::new(block_size).unwrap()
}

impl PagePool {
    /// Returns how many rows [`PagePool::share`] would share.
    fn shareable(&self, block_size: BlockSize, tokens: &[u32]) -> usize {
        let mut probe = self.table(block_size);
        for tokens in tokens.chunks_exact(probe.unit_rows()) {
            let Some(&id) = self.index.get(&unit_key(&probe, tokens)) else {
                break;
            };
            probe.shared.push(id);
        }
        probe.shared.len() * probe.unit_rows()
    }
}

/// A request's table with its text, all of it committed.
fn committed(pool: &mut PagePool, block_size: usize, tokens: &[u32]) -> PageTable {
    let mut table = pool.table(size(block_size));
    pool.share(&mut table, tokens);
    assert!(pool.grow(&mut table, tokens.len()));
    pool.publish(&mut table, tokens);
    table
}

#[test]
fn positions_lie_in_pages_in_order() {
    let mut pool = PagePool::new(3, 4);
    let mut first = pool.table(size(4));
    assert!(pool.grow(&mut first, 4));
    let mut second = pool.table(size(4));
    assert!(pool.grow(&mut second, 5));
    assert_eq!((first.row(3), second.row(0), second.row(4)), (3, 4, 8));
    let pieces = second.rows(5);
    assert_eq!(pieces.len(), 1, "neighbouring pages are one piece");
    assert_eq!(pieces[0], 4..9);
    pool.release(first);
    assert_eq!(pool.available(), 1);
}

#[test]
fn a_text_that_begins_alike_shares_whole_units() {
    let mut pool = PagePool::new(8, 2);
    let first = committed(&mut pool, 2, &[1, 2, 3, 4, 5]);
    let mut second = pool.table(size(2));
    assert_eq!(pool.share(&mut second, &[1, 2, 3, 4, 9, 9]), 4);
    assert_eq!(second.rows(4), first.rows(4));
    let mut other = pool.table(size(2));
    assert_eq!(pool.share(&mut other, &[3, 4]), 0, "another place");
}

#[test]
fn another_block_size_has_other_keys_and_values() {
    let mut pool = PagePool::new(8, 2);
    let _first = committed(&mut pool, 2, &[1, 2, 3, 4]);
    assert_eq!(pool.shareable(size(4), &[1, 2, 3, 4]), 0);
    assert_eq!(pool.shareable(size(2), &[1, 2, 3, 4]), 4);
}

#[test]
fn a_unit_is_whole_pages_and_whole_blocks() {
    let mut pool = PagePool::new(8, 4);
    let table = pool.table(size(6));
    assert_eq!(table.unit_rows(), 12);
    let tokens: Vec<u32> = (0..13).collect();
    let _table = committed(&mut pool, 6, &tokens);
    assert_eq!(pool.shareable(size(6), &tokens[..11]), 0);
    assert_eq!(pool.shareable(size(6), &tokens), 12);
}

#[test]
fn the_second_to_publish_takes_the_pages_of_the_first() {
    let mut pool = PagePool::new(4, 2);
    let [mut first, mut second] = [0, 1].map(|_| {
        let mut table = pool.table(size(2));
        assert!(pool.grow(&mut table, 2));
        table
    });
    pool.publish(&mut first, &[7, 8]);
    assert_eq!(pool.available(), 2);
    pool.publish(&mut second, &[7, 8]);
    assert_eq!(pool.available(), 3);
    assert_eq!(first.rows(2), second.rows(2));
}

#[test]
fn the_least_recently_used_unit_goes_first_and_later_units_before_earlier_ones() {
    let mut pool = PagePool::new(3, 2);
    let long = committed(&mut pool, 2, &[1, 1, 2, 2]);
    let short = committed(&mut pool, 2, &[5, 5]);
    pool.release(long);
    pool.release(short);
    let mut table = pool.table(size(2));
    assert!(pool.grow(&mut table, 2));
    assert_eq!(pool.shareable(size(2), &[1, 1, 2, 2]), 2);
    assert_eq!(pool.shareable(size(2), &[5, 5]), 2);
    assert!(pool.grow(&mut table, 4));
    assert_eq!(pool.shareable(size(2), &[1, 1]), 0);
    assert_eq!(pool.shareable(size(2), &[5, 5]), 2);
}

#[test]
fn too_few_pages_change_nothing() {
    let mut pool = PagePool::new(2, 2);
    let mut table = pool.table(size(2));
    assert!(!pool.grow(&mut table, 5));
    assert_eq!((pool.available(), table.capacity()), (2, 0));
    assert!(pool.grow(&mut table, 4));
}

/// Every page is free, in one unit, or in one table's own tail.
fn assert_conserved(pool: &PagePool, num_pages: usize, tables: &[(PageTable, Vec<u32>)]) {
    let mut pages = pool.free.clone();
    pages.extend(pool.units.values().flat_map(|unit| &unit.pages));
    for (table, _) in tables {
        let shared = table.shared.len() * table.unit_pages;
        pages.extend(&table.pages[shared..]);
    }
    pages.sort_unstable();
    assert!(pages.into_iter().eq(0..num_pages));
    let unused = pool.units.values().filter(|unit| unit.users == 0);
    assert_eq!(
        unused.map(|unit| unit.pages.len()).sum::<usize>(),
        pool.unused_pages
    );
    assert_eq!(pool.index.len(), pool.units.len());
}

proptest! {
    #[test]
    fn no_page_is_lost_or_used_twice(
        steps in proptest::collection::vec((0u8..4, any::<prop::sample::Index>(), 1usize..20, 1usize..5), 1..200),
        page_rows in 1usize..5,
    ) {
        let mut pool = PagePool::new(12, page_rows);
        let mut tables: Vec<(PageTable, Vec<u32>)> = Vec::new();
        for (what, which, len, block_size) in steps {
            if what == 0 || tables.is_empty() {
                let tokens: Vec<u32> = (0..len as u32).map(|i| i % 3 * (len as u32 % 2)).collect();
                let mut table = pool.table(size(block_size));
                pool.share(&mut table, &tokens);
                tables.push((table, tokens));
            } else if what == 1 {
                let (table, _) = tables.swap_remove(which.index(tables.len()));
                pool.release(table);
            } else {
                let which = which.index(tables.len());
                let (table, tokens) = &mut tables[which];
                if pool.grow(table, tokens.len()) {
                    let committed = len.min(tokens.len());
                    pool.publish(table, &tokens[..committed]);
                }
            }
            assert_conserved(&pool, 12, &tables);
        }
        for (table, _) in tables {
            pool.release(table);
        }
        prop_assert_eq!(pool.available(), 12);
    }
}
