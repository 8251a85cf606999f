//! Memory of large arrays, which later arrays use again.
//!
//! A training step allocates the same few dozen large arrays as the step before it. If they went back to the
//! allocator, so would their pages to the kernel, which has to clear each page before the next step can write
//! to it. Here an array is a block of a region of addresses; what is freed joins its free neighbours, and the
//! next array takes the first place that is large enough. So pages serve arrays of any size, and there are hardly more of
//! them than were once in use at the same time (1.01 to 1.05 times in training steps). A region costs nothing where nothing
//! was written, and stays: pages that were once in use wait for the next array.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::BTreeMap;
use std::io;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// Blocks are whole pages, so that no two share a line of a cache.
const PAGE: usize = 1 << 12;

/// Bytes of the first region. Each further one doubles what there is, so that they remain few.
const FIRST: usize = 1 << 26;

static ARENA: Mutex<Arena> = Mutex::new(Arena::new());

/// Memory that belongs to one array until it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    len: usize,
    place: Place,
    is_clear: bool,
}

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    region: usize,
    offset: usize,
    len: usize,
}

// SAFETY: a block's memory belongs to it alone, and regions are never unmapped.
unsafe impl Send for Block {}
// SAFETY: as above; a shared block can only be read.
unsafe impl Sync for Block {}

impl Block {
    /// Returns memory of arbitrary content for what `layout` says, aligned to pages. As with any allocation the process
    /// ends if there is none.
    pub(crate) fn new(layout: Layout) -> Self {
        let (place, start, is_clear) = arena()
            .take(layout.size())
            .unwrap_or_else(|| handle_alloc_error(layout));
        Self {
            start,
            len: layout.size(),
            place,
            is_clear,
        }
    }

    /// Returns whether the memory was never used before, so that its bytes are zero.
    pub(crate) fn is_clear(&self) -> bool {
        self.is_clear
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is inside its region, initialised (zero, or what was written), and this block's alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the block is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        arena().give(self.place);
    }
}

fn arena() -> MutexGuard<'static, Arena> {
    // Every change leaves it whole, even one that a panic cuts short.
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Arena {
    regions: Vec<Region>,
}

impl Arena {
    const fn new() -> Self {
        Self {
            regions: Vec::new(),
        }
    }

    /// Returns the first place for `len` bytes, its address, and whether it was never used; nothing if the system has
    /// no more addresses.
    fn take(&mut self, len: usize) -> Option<(Place, NonNull<u8>, bool)> {
        let len = len.max(1).checked_next_multiple_of(PAGE)?;
        let (region, offset) = match self.find(len) {
            Some(found) => found,
            None => {
                self.grow(len)?;
                (self.regions.len() - 1, 0)
            }
        };
        let is_clear = self.regions[region].take(offset, len);
        let start = self.regions[region].address(offset)?;
        let place = Place {
            region,
            offset,
            len,
        };
        Some((place, start, is_clear))
    }

    fn find(&self, len: usize) -> Option<(usize, usize)> {
        let mut regions = self.regions.iter().enumerate();
        regions.find_map(|(index, region)| Some((index, region.find(len)?)))
    }

    /// Adds a region of at least `len` bytes.
    fn grow(&mut self, len: usize) -> Option<()> {
        let all: usize = self.regions.iter().map(|region| region.memory.len()).sum();
        let region = Region::new(len.max(all).max(FIRST)).or_else(|| Region::new(len))?;
        self.regions.push(region);
        Some(())
    }

    fn give(&mut self, place: Place) {
        self.regions[place.region].give(place.offset, place.len);
    }
}

/// Maps `len` zeros, in large pages where the system has them.
///
/// # Errors
/// If it has no more addresses.
pub(crate) fn large_pages(len: usize) -> io::Result<MmapMut> {
    let memory = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
    // Advice: without it pages are cleared one by one.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    Ok(memory)
}

/// A range of addresses.
struct Region {
    memory: MmapRaw,
    /// Bytes before the end of the last block that there ever was; those after are zero.
    used: usize,
    /// The lengths of what is free, by their offsets; no two touch.
    free: BTreeMap<usize, usize>,
}

impl Region {
    fn new(len: usize) -> Option<Self> {
        Some(Self {
            memory: large_pages(len).ok()?.into(),
            used: 0,
            free: BTreeMap::from([(0, len)]),
        })
    }

    /// Returns the offset of the first free place for `len` bytes.
    fn find(&self, len: usize) -> Option<usize> {
        let mut free = self.free.iter();
        free.find(|(_, size)| **size >= len)
            .map(|(offset, _)| *offset)
    }

    /// Takes the front of a free place. Returns whether it was never used.
    fn take(&mut self, offset: usize, len: usize) -> bool {
        if let Some(size) = self.free.remove(&offset)
            && size > len
        {
            self.free.insert(offset + len, size - len);
        }
        let is_clear = offset >= self.used;
        self.used = self.used.max(offset + len);
        is_clear
    }

    fn give(&mut self, offset: usize, len: usize) {
        let (mut start, mut end) = (offset, offset + len);
        if let Some(size) = self.free.remove(&end) {
            end += size;
        }
        if let Some((&before, &size)) = self.free.range(..start).next_back()
            && before + size == start
        {
            start = before;
        }
        self.free.insert(start, end - start);
    }

    fn address(&self, offset: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.memory.as_mut_ptr().wrapping_add(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(arena: &mut Arena, len: usize) -> Place {
        arena.take(len).unwrap().0
    }

    #[test]
    fn a_freed_block_is_used_again_and_is_no_longer_clear() {
        let mut arena = Arena::new();
        let (first, start, is_clear) = arena.take(3 * PAGE).unwrap();
        assert!(is_clear);
        let _second = take(&mut arena, PAGE);
        arena.give(first);
        assert_eq!(arena.take(2 * PAGE + 1).unwrap(), (first, start, false));
        assert!(arena.take(PAGE).unwrap().2, "behind all that was used");
    }

    #[test]
    fn freed_neighbours_serve_a_larger_block_in_any_order() {
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut arena = Arena::new();
            let blocks = [3, 1, 2].map(|pages| take(&mut arena, pages * PAGE));
            let behind = take(&mut arena, PAGE);
            for index in order {
                arena.give(blocks[index]);
            }
            let all = take(&mut arena, 6 * PAGE);
            assert_eq!((all.offset, all.len), (0, 6 * PAGE));
            arena.give(behind);
            arena.give(all);
            assert_eq!(arena.regions[0].free, BTreeMap::from([(0, FIRST)]));
        }
    }

    #[test]
    fn blocks_never_overlap_and_all_returns() {
        let mut arena = Arena::new();
        let mut blocks: Vec<Place> = Vec::new();
        let mut state = 1_u32;
        for _ in 0..2000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = (state >> 8) as usize;
            if random % 5 < 2 && !blocks.is_empty() {
                arena.give(blocks.swap_remove(random % blocks.len()));
            } else {
                let place = take(&mut arena, random % (FIRST / 16));
                let overlaps = |other: &&Place| {
                    other.region == place.region
                        && other.offset < place.offset + place.len
                        && place.offset < other.offset + other.len
                };
                assert_eq!(blocks.iter().find(overlaps), None, "{place:?}");
                blocks.push(place);
            }
        }
        assert!(
            (2..8).contains(&arena.regions.len()),
            "{}",
            arena.regions.len()
        );
        blocks.into_iter().for_each(|place| arena.give(place));
        for region in &arena.regions {
            assert_eq!(region.free, BTreeMap::from([(0, region.memory.len())]));
        }
    }

    #[test]
    fn more_than_there_are_addresses_is_refused() {
        let mut arena = Arena::new();
        assert!(arena.take(usize::MAX).is_none());
        assert!(arena.take(1 << 60).is_none());
        assert!(arena.take(1).is_some());
    }
}
