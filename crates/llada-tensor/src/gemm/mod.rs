//! Matrix products: one blocked algorithm over packed panels, for every instruction set.
//!
//! [`gemm`] computes `C += A B` and [`gemm_over`] `C = A B`. Operands are copied block by block into panels in the order in which
//! the innermost kernel reads them, rounded to the [`Precision`] on the way; a weight can keep its
//! panels ([`Panels`]) so that repeated products skip the copy.
//!
//! Invariant: every element of C is one chain of additions over k in ascending order that starts from
//! the value already in C, or from zero. A block of k ends by storing C and the next starts by loading it, so the
//! result does not depend on blocking, on the position of a tile, on the other rows or on the number
//! of threads, which share only disjoint parts of C.

mod codes;
mod kernel;
mod matrix;
mod pack;

use std::ops::Range;

use rayon::prelude::*;

pub use codes::Codes;
pub(crate) use codes::{CodeMatrix, ExpertRows, down, gated, whole_of};
pub(crate) use matrix::Matrix;
pub(crate) use pack::{Format, Line, PANEL, Pair, Panels, Single};

use kernel::Block;
use matrix::Target;

use crate::parallel::rows_per_task;
use crate::simd::dispatch;
use crate::{Isa, Tensor, gather_rows};

/// Element type to which the operands of a matrix product are rounded. Accumulation is always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Operands are used as they are.
    F32,
    /// Operands are rounded to bf16 (to nearest, ties to even). Packed weights take half the memory;
    /// products are twice as fast with AVX-512, but slower than in `f32` without it.
    Bf16,
}

/// Multiply-add pairs below which a product is not divided among threads.
const TASK: usize = 1 << 18;
/// Multiply-adds of a product that cost as much as one element operation.
const MULTIPLY_ADDS_PER_OP: usize = 16;
/// Tasks per thread: some more than one, so that a thread that other work delays does less.
const TASKS_PER_THREAD: usize = 2;

/// The right operand, [K, N].
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Packed during the product.
    Plain(Matrix<'a>),
    /// Packed before.
    Packed(&'a Panels),
    /// Codes, which decide the precision: the left operand is rounded to bytes.
    Codes(&'a CodeMatrix),
}

impl Right<'_> {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Plain(matrix) => matrix.shape(),
            Self::Packed(panels) => panels.shape(),
            Self::Codes(matrix) => matrix.shape(),
        }
    }
}

/// Adds the product of `a` and `b` to `c`. # Shapes: a [M, K], b [K, N], c [M, N] row-major.
///
/// # Panics
/// If the shapes disagree, or `b` was packed for another precision.
pub(crate) fn gemm(isa: Isa, precision: Precision, a: Matrix<'_>, b: Right<'_>, c: &mut [f32]) {
    product(isa, precision, a, b, Start::Sum, c);
}

/// As [`gemm`], but overwrites `c`.
pub(crate) fn gemm_over(
    isa: Isa,
    precision: Precision,
    a: Matrix<'_>,
    b: Right<'_>,
    c: &mut [f32],
) {
    if a.shape()[1] == 0 {
        c.fill(0.0); // there is no first step that would
    }
    product(isa, precision, a, b, Start::Zero, c);
}

/// The left operand that several products share.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) x: &'a Tensor,
    /// The rows of `x` that it consists of; all in their order if `None`.
    pub(crate) rows: Option<&'a [u32]>,
}

/// A product of some of the rows of a [`Left`].
pub(crate) struct PartProduct<'a> {
    pub(crate) rows: Range<usize>,
    pub(crate) precision: Precision,
    pub(crate) right: Right<'a>,
    /// Receives the results, [rows, N].
    pub(crate) c: &'a mut [f32],
}

impl PartProduct<'_> {
    /// Returns the multiply-adds.
    fn cost(&self) -> usize {
        let [k, n] = self.right.shape();
        self.rows.len() * k * n
    }
}

/// Writes to every target the product of its rows of `a`, or adds it there. Products of the same rows
/// follow each other, and together they cover the rows in their order.
///
/// # Panics
/// As [`gemm`].
pub(crate) fn gemm_parts(isa: Isa, a: Left<'_>, start: Start, products: Vec<PartProduct<'_>>) {
    if let Some(codes) = codes::common(&products) {
        return codes::parts(isa, codes, a, start, products);
    }
    let gathered = a.rows.map(|rows| gather_rows(a.x, rows));
    let a = Matrix::of(gathered.as_ref().unwrap_or(a.x));
    let cost = products.iter().map(PartProduct::cost).sum();
    let task = products_per_task(products.len(), cost);
    let products = products.into_par_iter().with_min_len(task);
    products.for_each(|part| {
        let a = a.block(part.rows, 0..a.shape()[1]);
        match start {
            Start::Sum => gemm(isa, part.precision, a, part.right, part.c),
            Start::Zero => gemm_over(isa, part.precision, a, part.right, part.c),
        }
    });
}

/// Returns how many of some products one task should compute, given the multiply-adds of all.
pub(crate) fn products_per_task(products: usize, cost: usize) -> usize {
    rows_per_task(products, cost / (products * MULTIPLY_ADDS_PER_OP).max(1))
}

/// What the additions of a product start from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The values in C.
    Sum,
    /// Zero: the values in C are not read.
    Zero,
}

fn product(
    isa: Isa,
    precision: Precision,
    a: Matrix<'_>,
    b: Right<'_>,
    start: Start,
    c: &mut [f32],
) {
    let ([m, k], [b_rows, n]) = (a.shape(), b.shape());
    assert_eq!(k, b_rows, "product of {m} x {k} and {b_rows} x {n}");
    assert_eq!(c.len(), m * n, "product of {m} x {k} and {b_rows} x {n}");
    match b {
        Right::Codes(b) => return codes::product(isa, a, b, start, c),
        Right::Packed(b) => assert_eq!(b.precision(), precision, "precision of packed panels"),
        Right::Plain(_) => {}
    }
    let block = Block {
        isa,
        precision,
        a,
        b,
        first_column: 0,
        c: Target::new(c, [m, n], start),
    };
    divide(block, most_tasks());
}

/// Returns into how many tasks a product may be divided.
fn most_tasks() -> usize {
    match rayon::current_num_threads() {
        1 => 1,
        threads => threads * TASKS_PER_THREAD,
    }
}

/// Halves the larger side of C until the parts are few or small, and computes them in parallel.
fn divide(block: Block<'_>, tasks: usize) {
    let [m, n] = block.c.shape();
    if tasks <= 1 || m * n * block.a.shape()[1] < 2 * TASK {
        return dispatch(block.isa, block);
    }
    let [left, right] = if m >= n {
        block.split_rows((m / 2).next_multiple_of(kernel::TALL).min(m))
    } else {
        block.split_columns((n / 2).next_multiple_of(2 * PANEL).min(n))
    };
    rayon::join(|| divide(left, tasks / 2), || divide(right, tasks / 2));
}
