//! Products with weights of 4 or 8 bits: integer dot products inside blocks of 32, `f32` between them.
//!
//! A weight is a code q and a scale per 32 elements of k: `w = (q - bias) * scale` (`gguf.md` 5.1).
//! The other operand is rounded to signed bytes with a scale per row and block as well
//! ([`CodeRows`]), so that a block's part of an output is one exact integer:
//!
//! ```text
//! c += a_scale * w_scale * (sum_k q_k a_k - bias * sum_k a_k)      the last term is known per row
//! ```
//!
//! [`CodePanels`] keeps the codes in the order in which the kernel reads them, with no bit more than
//! the file has: a product of few rows costs what reading them once costs.
//!
//! Invariant, as for [`gemm`](super::gemm): every output is one chain of additions over blocks of k in
//! ascending order, whatever the other rows and the number of threads.

mod kernel;
mod panels;
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use panels::CodePanels;
pub use panels::Codes;

use super::matrix::{Matrix, Target};
use super::pack::PANEL;
use super::{Start, TASK, most_tasks};
use crate::Isa;
use crate::simd::dispatch;
use kernel::Sweep;
use rows::CodeRows;

/// Elements that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Writes the product to `c`, or adds it there. # Shapes: a [M, K], b [K, N], c [M, N] row-major.
///
/// # Panics
/// If `a` is not row-major `f32`: weights of codes have no gradients.
pub(super) fn product(isa: Isa, a: Matrix<'_>, b: &CodePanels, start: Start, c: &mut [f32]) {
    let ([rows, k], [_, n]) = (a.shape(), b.shape());
    let a = &CodeRows::new(isa, b.codes(), a.f32_rows(), k);
    let sweep = Sweep {
        a,
        b,
        first_panel: 0,
        c: Target::new(c, [rows, n], start),
    };
    divide(isa, sweep, most_tasks());
}

/// Halves the columns until the parts are few or small, and computes them in parallel.
fn divide(isa: Isa, sweep: Sweep<'_>, tasks: usize) {
    let [m, n] = sweep.c.shape();
    if tasks <= 1 || n <= PANEL || m * n * sweep.a.width() < 2 * TASK {
        return dispatch(isa, sweep);
    }
    let [left, right] = sweep.split((n / 2).next_multiple_of(PANEL));
    rayon::join(
        || divide(isa, left, tasks / 2),
        || divide(isa, right, tasks / 2),
    );
}
