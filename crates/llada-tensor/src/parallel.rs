//! When work is handed to other threads, and how they write to one array.

use std::marker::PhantomData;

use rayon::prelude::*;

/// Element operations worth one task: some tens of microseconds, ten times what a hand-off costs.
const TASK_OPS: usize = 1 << 17;

/// Returns how many of `rows` one task should process, given the cost of a row in element operations.
///
/// Small work is a single task, and a parallel iterator over a single chunk runs on the calling
/// thread: decoding a few rows never waits for another thread.
pub(crate) fn rows_per_task(rows: usize, ops_per_row: usize) -> usize {
    (TASK_OPS / ops_per_row.max(1)).clamp(1, rows.max(1))
}

/// Returns the number of threads that operations started here may use.
pub fn num_threads() -> usize {
    rayon::current_num_threads()
}

/// Returns what two computations give, which may run at the same time.
pub fn join<A: Send, B: Send>(
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    rayon::join(a, b)
}

/// Returns `f(index, item)` for every item, in order; several items are computed at the same time.
pub fn map_parallel<T: Send, R: Send>(items: Vec<T>, f: impl Fn(usize, T) -> R + Sync) -> Vec<R> {
    if items.len() == 1 {
        return items.into_iter().map(|item| f(0, item)).collect();
    }
    items
        .into_par_iter()
        .enumerate()
        .map(|(index, item)| f(index, item))
        .collect()
}

/// An array of which tasks write interleaved parts, such as the columns of some heads.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    values: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: the array is borrowed mutably for 'a, nothing reads it through this type, and whoever writes
// promises that no other thread writes the same elements.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Borrows the array for writing.
    pub(crate) fn new(values: &'a mut [f32]) -> Self {
        Self {
            values: values.as_mut_ptr(),
            len: values.len(),
            lifetime: PhantomData,
        }
    }

    /// Copies `values` to the elements from `start` on.
    ///
    /// # Safety
    /// No other thread writes these elements while `self` lives.
    pub(crate) unsafe fn write(&self, start: usize, values: &[f32]) {
        assert!(
            start <= self.len && values.len() <= self.len - start,
            "write past the end"
        );
        // SAFETY: the target lies inside the array, as asserted; it does not overlap `values`, because
        // the array is borrowed mutably; the caller keeps other writers away.
        unsafe {
            self.values
                .add(start)
                .copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
    }
}
