//! Products with weights of 4 to 8 bits: integer dot products inside blocks of 32, `f32` between them.
//!
//! A weight is a code q, and a scale and perhaps an offset per 16 or 32 elements of k:
//! `w = (q - bias) * w_scale - offset` (`gguf.md` 5). The other operand is rounded to signed bytes with a
//! unit per row and block as well ([`CodeRows`]), so that what scales share is one exact integer:
//!
//! ```text
//! c += w_scale * unit * (sum_k q_k a_k - bias * sum_k a_k) - offset * unit * sum_k a_k
//! ```
//!
//! The sums of `a_k` alone are known per row. Beside codes of four and five bits units are powers of two: an integer that is
//! added to the bits of an `f32` whose last bit is worth a unit becomes as many of them, without a multiplication.
//!
//! [`CodePanels`] keeps the codes in the order in which the kernel reads them, with no bit more than
//! the file has: a product of few rows costs what reading them once costs.
//!
//! Invariant, as for [`gemm`](super::gemm): every output is one chain of additions over blocks of k in
//! ascending order, whatever the other rows and the number of threads.

mod formats;
mod gated;
mod joined;
mod kernel;
mod layout;
mod panels;
mod rows;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub(crate) use gated::{ExpertRows, down, gated};
pub(crate) use joined::CodeMatrix;
pub use layout::Codes;

use super::matrix::{Matrix, Target};
use super::{Left, PartProduct, Right, Start, TASK, most_tasks};
use crate::Isa;
use crate::simd::dispatch;
use kernel::Sweep;
use panels::CodePanels;
use rows::CodeRows;

/// Elements of a block: of a row under one scale, and of a column under one or two.
pub(crate) const BLOCK: usize = 32;

/// Writes the product to `c`, or adds it there. # Shapes: a [M, K], b [K, N], c [M, N] row-major.
///
/// # Panics
/// If `a` is not row-major `f32`: weights of codes have no gradients.
pub(super) fn product(isa: Isa, a: Matrix<'_>, b: &CodeMatrix, start: Start, c: &mut [f32]) {
    let all = 0..a.shape()[0];
    let runs = b.parts().chunk_by(|a, b| a.codes() == b.codes());
    let rounded = runs.map(|parts| {
        let rows = CodeRows::new(isa, parts[0].codes(), a, std::slice::from_ref(&all));
        (parts, rows)
    });
    let rounded: Vec<_> = rounded.collect();
    let mut rest = Target::new(c, [all.len(), b.shape()[1]], start);
    let mut sweeps = Vec::new();
    for (parts, rows) in &rounded {
        for part in *parts {
            let [target, others] = rest.split_columns(part.shape()[1]);
            rest = others;
            sweeps.push(Sweep::new(rows.part(all.clone()), part, target));
        }
    }
    divide(isa, sweeps, most_tasks());
}

/// Computes the products of parts of `a`, which cover it in their order; equal ones follow each other.
///
/// # Panics
/// As [`product`], or if an operand is not of these codes.
pub(super) fn parts(
    isa: Isa,
    codes: Codes,
    a: Left<'_>,
    start: Start,
    products: Vec<PartProduct<'_>>,
) {
    let mut rows: Vec<Range<usize>> = products.iter().map(|part| part.rows.clone()).collect();
    rows.dedup();
    let rounded = CodeRows::of(isa, codes, a, &rows);
    let sweeps = products.into_iter().map(|part| match whole_of(part.right) {
        Some(b) if b.codes() == codes => {
            let c = Target::new(part.c, [part.rows.len(), b.shape()[1]], start);
            Sweep::new(rounded.part(part.rows), b, c)
        }
        _ => panic!("expected operands of {codes:?}"),
    });
    divide(isa, sweeps.collect(), most_tasks());
}

/// Returns the codes of all operands if they are of one kind.
pub(super) fn common(products: &[PartProduct<'_>]) -> Option<Codes> {
    let kind = |part: &PartProduct<'_>| whole_of(part.right).map(CodePanels::codes);
    let first = kind(products.first()?)?;
    products
        .iter()
        .all(|part| kind(part) == Some(first))
        .then_some(first)
}

/// Returns an operand that is one run of codes.
pub(crate) fn whole_of<'a>(right: Right<'a>) -> Option<&'a CodePanels> {
    match right {
        Right::Codes(b) => b.whole(),
        _ => None,
    }
}

/// Halves the work until it is in few or small shares, and computes these in parallel.
fn divide(isa: Isa, mut sweeps: Vec<Sweep<'_>>, tasks: usize) {
    let cost: usize = sweeps.iter().map(Sweep::cost).sum();
    if tasks <= 1 || cost < 2 * TASK {
        return run(isa, sweeps);
    }
    let others = split_off(&mut sweeps, cost / 2);
    rayon::join(
        || divide(isa, sweeps, tasks / 2),
        || divide(isa, others, tasks / 2),
    );
}

/// Computes one after the other; each asks for what the next one reads.
fn run(isa: Isa, sweeps: Vec<Sweep<'_>>) {
    let firsts: Vec<_> = sweeps.iter().map(Sweep::first_lines).collect();
    let nexts = firsts.into_iter().skip(1).chain([&[][..]]);
    for (sweep, next) in sweeps.into_iter().zip(nexts) {
        dispatch(isa, sweep.followed_by(next));
    }
}

/// Leaves work of about the given cost, which is less than all, and returns the rest.
fn split_off<'a>(sweeps: &mut Vec<Sweep<'a>>, mut cost: usize) -> Vec<Sweep<'a>> {
    let mut whole = 0;
    while whole < sweeps.len() && sweeps[whole].cost() <= cost {
        cost -= sweeps[whole].cost();
        whole += 1;
    }
    let mut others = sweeps.split_off(whole);
    if cost > 0 {
        let sweep = others.remove(0);
        let at = sweep.columns_for(cost);
        let [left, right] = sweep.split(at);
        sweeps.push(left);
        others.insert(0, right);
    }
    others
}
