//! When work is handed to other threads.

/// Element operations worth one task: some tens of microseconds, ten times what a hand-off costs.
const TASK_OPS: usize = 1 << 17;

/// Returns how many of `rows` one task should process, given the cost of a row in element operations.
///
/// Small work is a single task, and a parallel iterator over a single chunk runs on the calling
/// thread: decoding a few rows never waits for another thread.
pub(crate) fn rows_per_task(rows: usize, ops_per_row: usize) -> usize {
    (TASK_OPS / ops_per_row.max(1)).clamp(1, rows.max(1))
}
