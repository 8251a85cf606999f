//! The memory of `f32` arrays, which later arrays use again.
//!
//! A training step allocates the same few dozen large arrays as the step before it. If they went back
//! to the allocator, so would their pages to the kernel, which has to clear each page before the next
//! step can write to it. Here they wait in a pool, and an array that is overwritten anyway starts from
//! whatever its memory held last.
//!
//! The pool needs no limit: a buffer enters it only if it once left it, and one that has to be
//! allocated for want of a fitting one displaces as much of the pool. Arrays in use and in the pool
//! together thus never exceed by more than [`fits`] allows what was once in use at the same time.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Elements of the smallest buffer that is kept. The allocator is fast at smaller ones.
const SMALLEST: usize = 1 << 14;

/// Buffers that no array uses, the oldest first.
static POOL: Mutex<VecDeque<Vec<f32>>> = Mutex::new(VecDeque::new());

/// Elements of an array.
#[derive(Debug)]
pub(crate) struct Buffer {
    values: Vec<f32>,
    /// Whether the memory goes to the pool in the end.
    is_pooled: bool,
}

impl Buffer {
    /// Returns `len` elements of arbitrary value.
    pub(crate) fn scratch(len: usize) -> Self {
        let is_pooled = len >= SMALLEST;
        let reused = if is_pooled { take(len) } else { None };
        Self {
            values: reused.unwrap_or_else(|| vec![0.0; len]),
            is_pooled,
        }
    }

    /// Returns `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let is_pooled = len >= SMALLEST;
        let mut reused = if is_pooled { take(len) } else { None };
        if let Some(values) = &mut reused {
            values.fill(0.0);
        }
        Self {
            values: reused.unwrap_or_else(|| vec![0.0; len]),
            is_pooled,
        }
    }
}

/// Memory from elsewhere, which does not enter the pool.
impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Self {
        Self {
            values,
            is_pooled: false,
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
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
        self.values == other.values
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_pooled {
            pool().push_back(std::mem::take(&mut self.values));
        }
    }
}

fn pool() -> MutexGuard<'static, VecDeque<Vec<f32>>> {
    // Every change of the pool is one push or one removal: it is whole even after a panic.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the tightest fitting buffer from the pool, or else removes `len` elements from there.
fn take(len: usize) -> Option<Vec<f32>> {
    let mut pool = pool();
    let fitting = (0..pool.len()).filter(|&index| fits(pool[index].capacity(), len));
    let tightest = fitting.min_by_key(|&index| pool[index].capacity());
    if let Some(mut values) = tightest.and_then(|index| pool.remove(index)) {
        values.resize(len, 0.0);
        return Some(values);
    }
    let mut removed = 0;
    while removed < len {
        let Some(oldest) = pool.pop_front() else {
            break;
        };
        removed += oldest.capacity();
    }
    None
}

/// Returns whether a buffer is large enough, and not so large that it would be wasted.
fn fits(capacity: usize, len: usize) -> bool {
    (len..=2 * len).contains(&capacity)
}

#[cfg(test)]
mod tests {
    use super::{Buffer, fits};

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
        assert!(fits(100, 100) && fits(200, 100));
        assert!(!fits(99, 100) && !fits(201, 100));
    }
}
