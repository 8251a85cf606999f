//! The memory of `f32` arrays, which later arrays use again.
//!
//! A training step allocates the same few dozen large arrays as the step before it. If they went back
//! to the allocator, so would their pages to the kernel, which has to clear each page before the next
//! step can write to it. Here they wait in a pool, and an array that is overwritten anyway starts from
//! whatever its memory held last.
//!
//! Each is a map of its own, in large pages where that pays: what leaves the pool is the system's
//! again at once, where an allocator would keep it in pieces. When one has to be made for want of a
//! fitting one, others leave until those in use and in the pool together take hardly more memory than
//! was once in use at the same time ([`Pool::allowed`]).

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

/// Elements of the smallest buffer that is kept. The allocator is fast at smaller ones.
const SMALLEST: usize = 1 << 14;
/// Elements from which on large pages are asked for, a few of them.
#[cfg(target_os = "linux")]
const LARGE: usize = 1 << 21;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Elements of an array.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Memory,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    /// From the allocator.
    Own(Vec<f32>),
    /// From the pool, where it goes in the end.
    Pooled(MmapMut),
}

impl Buffer {
    /// Returns `len` elements of arbitrary value.
    pub(crate) fn scratch(len: usize) -> Self {
        Self::new(len, |_| {})
    }

    /// Returns `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self::new(len, |used| used.fill(0.0))
    }

    /// Returns `len` zeros, or what `prepare` makes of used memory.
    fn new(len: usize, prepare: impl Fn(&mut [f32])) -> Self {
        if len < SMALLEST {
            return vec![0.0; len].into();
        }
        let taken = pool().take(len);
        let is_used = taken.is_some();
        let memory = Memory::Pooled(taken.unwrap_or_else(|| map(len)));
        let mut buffer = Self { memory, len };
        if is_used {
            prepare(&mut buffer);
        }
        buffer
    }
}

/// Memory from elsewhere, which does not enter the pool.
impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Self {
        Self {
            len: values.len(),
            memory: Memory::Own(values),
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.memory {
            Memory::Own(values) => values,
            Memory::Pooled(map) => &bytemuck::cast_slice(map)[..self.len],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.memory {
            Memory::Own(values) => values,
            Memory::Pooled(map) => &mut bytemuck::cast_slice_mut(map)[..self.len],
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::scratch(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Own(Vec::new()));
        if let Memory::Pooled(map) = memory {
            pool().put(map);
        }
    }
}

/// Returns new memory for `len` elements, which are zero. As with any allocation the process ends if
/// there is none.
fn map(len: usize) -> MmapMut {
    let layout =
        Layout::array::<f32>(len).expect("an array has fewer bytes than there are addresses");
    let map = MmapMut::map_anon(layout.size()).unwrap_or_else(|_| handle_alloc_error(layout));
    // Advice: without it more pages are cleared one by one.
    #[cfg(target_os = "linux")]
    if len >= LARGE {
        let _ = map.advise(memmap2::Advice::HugePage);
    }
    map
}

fn pool() -> MutexGuard<'static, Pool> {
    // Every change leaves it whole, even one that a panic cuts short.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory that no array uses. Sizes are in elements.
struct Pool {
    /// The oldest first.
    free: Vec<MmapMut>,
    /// Of all in `free`.
    free_size: usize,
    /// Of what arrays use.
    used_size: usize,
    /// The largest that `used_size` has been.
    most_used: usize,
    /// The largest array that there was.
    largest: usize,
}

impl Pool {
    const fn new() -> Self {
        Self {
            free: Vec::new(),
            free_size: 0,
            used_size: 0,
            most_used: 0,
            largest: 0,
        }
    }

    fn put(&mut self, map: MmapMut) {
        self.used_size -= size(&map);
        self.free_size += size(&map);
        self.free.push(map);
    }

    /// Takes the tightest fitting memory. If there is none, makes room for `len` elements that the caller
    /// maps.
    fn take(&mut self, len: usize) -> Option<MmapMut> {
        let fitting = (0..self.free.len()).filter(|&i| fits(size(&self.free[i]), len));
        let tightest = fitting.min_by_key(|&i| size(&self.free[i]));
        let taken = tightest.map(|index| self.remove(index));
        self.used_size += taken.as_ref().map_or(len, size);
        self.most_used = self.most_used.max(self.used_size);
        self.largest = self.largest.max(len);
        while self.used_size + self.free_size > self.allowed() && !self.free.is_empty() {
            self.remove(0);
        }
        taken
    }

    /// Returns how much there may be in all: somewhat more than was ever in use, so that arrays that are
    /// needed by turns can stay, even the largest.
    fn allowed(&self) -> usize {
        self.most_used + self.largest.max(self.most_used / 16)
    }

    fn remove(&mut self, index: usize) -> MmapMut {
        let map = self.free.remove(index);
        self.free_size -= size(&map);
        map
    }
}

fn size(map: &MmapMut) -> usize {
    map.len() / size_of::<f32>()
}

/// Returns whether memory is large enough, and not so large that it would be wasted: the arrays of a step are
/// not quite as long as those of the step before.
fn fits(size: usize, len: usize) -> bool {
    (len..=len + len / 4).contains(&size)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The pool is shared with tests on other threads: these lengths are used by no other test.

    #[test]
    fn an_array_uses_the_memory_of_a_freed_one() {
        let first = Buffer::scratch(1_234_567);
        let memory = first.as_ptr();
        drop(first);
        assert_eq!(Buffer::scratch(1_234_560).as_ptr(), memory);
    }

    #[test]
    fn used_memory_is_cleared_for_zeros() {
        let mut first = Buffer::scratch(2_345_678);
        first.fill(f32::NAN);
        drop(first);
        assert!(Buffer::zeros(2_345_678).iter().all(|&x| x == 0.0));
    }

    #[test]
    fn a_small_array_does_not_occupy_a_large_buffer() {
        assert!(fits(100, 100) && fits(125, 100));
        assert!(!fits(99, 100) && !fits(126, 100));
    }

    #[test]
    fn memory_stays_within_what_was_once_in_use() {
        let mut pool = Pool::new();
        let take = |pool: &mut Pool, len| pool.take(len).unwrap_or_else(|| map(len));
        let maps = [400, 300, 300].map(|len| take(&mut pool, len));
        maps.into_iter().for_each(|map| pool.put(map));
        // 400 may be unused beside the 1,000 that were once in use.
        let map = take(&mut pool, 200);
        assert_eq!((pool.used_size, pool.free_size), (200, 1000));
        // 500 from now on. Nothing fits, and the oldest goes.
        let other = take(&mut pool, 500);
        assert_eq!((pool.used_size, pool.free_size), (700, 600));
        pool.put(map);
        pool.put(other);
        let map = take(&mut pool, 250);
        assert_eq!(size(&map), 300);
        assert_eq!((pool.used_size, pool.free_size), (300, 1000));
    }
}
