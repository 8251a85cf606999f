//! When work is handed to other threads, and how they write to one array.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::Yield;
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

/// Calls `f` with every item: half of the threads begin with the first ones, the others with the last.
///
/// So that of items in the order of their cost dear and cheap ones are computed at the same time, and the threads end
/// together.
pub(crate) fn from_both_ends<T: Send>(items: Vec<T>, f: impl Fn(T) + Sync) {
    let items = Mutex::new(VecDeque::from(items));
    let take = |from_front| {
        // Items are whole whenever another thread panics.
        let mut items = items.lock().unwrap_or_else(PoisonError::into_inner);
        if from_front {
            items.pop_front()
        } else {
            items.pop_back()
        }
    };
    let work = |from_front| {
        while let Some(item) = take(from_front) {
            f(item);
        }
    };
    rayon::scope(|scope| {
        for thread in 1..num_threads() {
            let work = &work;
            scope.spawn(move |_| work(thread % 2 == 0));
        }
        work(true);
    });
}

/// How long a thread looks for work before it may sleep, inside [`keep_awake`].
const PATIENCE: Duration = Duration::from_micros(500);

/// Returns what `f` computes, while the other threads look for its work without sleeping.
///
/// Waking a thread takes about as long as a product of one row, of which a forward has five per layer. Results
/// are the same; outside of a thread pool nothing else happens.
pub fn keep_awake<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let Some(own) = rayon::current_thread_index() else {
        return f();
    };
    let is_done = AtomicBool::new(false);
    rayon::scope(|scope| {
        for _ in 1..num_threads() {
            scope.spawn(|_| look_for_work(own, &is_done));
        }
        let _at_the_end = SetOnDrop(&is_done);
        f()
    })
}

/// Does what others ask for until all is done. A thread that finds itself here while it waits for something of
/// `f` gets away, as all do, when there has been nothing to do for a while.
fn look_for_work(asking: usize, is_done: &AtomicBool) {
    if rayon::current_thread_index() == Some(asking) {
        return;
    }
    let mut last = Instant::now();
    while !is_done.load(Ordering::Acquire) && last.elapsed() < PATIENCE {
        match rayon::yield_now() {
            Some(Yield::Executed) => last = Instant::now(),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Sets a flag when it goes out of scope, in a panic too.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums by halves, in as many tasks as there are numbers.
    fn sum(numbers: &[u64]) -> u64 {
        if let [number] = numbers {
            return *number;
        }
        let (left, right) = numbers.split_at(numbers.len() / 2);
        let (left, right) = join(|| sum(left), || sum(right));
        left + right
    }

    #[test]
    fn work_is_done_awake_as_asleep_inside_a_pool_and_outside() {
        let numbers: Vec<u64> = (0..1000).collect();
        assert_eq!(keep_awake(|| sum(&numbers)), 499_500);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            for _ in 0..20 {
                let twice = || keep_awake(|| keep_awake(|| sum(&numbers)) + sum(&numbers));
                assert_eq!(pool.install(twice), 999_000);
            }
        }
    }

    #[test]
    fn every_item_is_taken_once_from_either_end() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            let taken = Mutex::new(Vec::new());
            pool.install(|| from_both_ends((0..100).collect(), |i| taken.lock().unwrap().push(i)));
            let mut taken = taken.into_inner().unwrap();
            if threads == 1 {
                assert!(taken.is_sorted());
            }
            taken.sort_unstable();
            assert_eq!(taken, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_lets_the_other_threads_go() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3);
        let pool = pool.build().unwrap();
        let panicking = || pool.install(|| keep_awake(|| -> u64 { panic!("on purpose") }));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking));
        assert!(caught.is_err());
        assert_eq!(pool.install(|| keep_awake(|| 7)), 7);
    }
}
