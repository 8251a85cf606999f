//! The products of an MLP whose rows are divided among experts: `silu(x G) * (x U)`, then the one that follows.
//!
//! An expert goes through the first two and the gate at one go, and its result is rounded at once, so that what
//! lies between stays in the caches of a core. Those of few rows wait for memory while those of many compute on
//! another core.

use std::cell::RefCell;
use std::ops::Range;

use super::kernel::{Sweep, ask_for, first_lines};
use super::panels::CodePanels;
use super::rows::{CodeRows, RowBlock};
use super::run;
use crate::gemm::Start;
use crate::gemm::matrix::{Matrix, Target};
use crate::swiglu::swiglu_to;
use crate::{Isa, Tensor};

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Memory that the experts of a thread reuse.
#[derive(Default)]
struct Memory {
    x: Vec<RowBlock>,
    /// Gate, up and what becomes of both.
    values: Vec<f32>,
}

/// Consecutive rows and the matrices of their expert.
#[derive(Clone, Debug)]
pub(crate) struct ExpertRows<'a> {
    pub(crate) rows: Range<usize>,
    /// [D, F].
    pub(crate) gate: &'a CodePanels,
    /// [D, F], of the same codes.
    pub(crate) up: &'a CodePanels,
    /// [F, D].
    pub(crate) down: &'a CodePanels,
}

/// Returns `silu(x G) * (x U)` of the rows of `x` that are picked, rounded for the product with the last matrices.
/// # Shapes: x [N, D], picked `[S]` -> [S, F].
///
/// # Panics
/// If there is no expert, a row does not exist, the experts do not follow each other over all that are picked, or their
/// matrices are of several kinds of codes or shapes.
pub(crate) fn gated(isa: Isa, x: &Tensor, picked: &[u32], experts: &[ExpertRows<'_>]) -> CodeRows {
    let parts: Vec<_> = experts.iter().map(|expert| expert.rows.clone()).collect();
    let ([_, width], codes) = (experts[0].gate.shape(), experts[0].gate.codes());
    let alone = CodeRows::alone(isa, codes, Matrix::of(x));
    CodeRows::of_parts(experts[0].down.codes(), width, &parts, |index, inner| {
        let (expert, len) = (&experts[index], inner.len());
        ask_for(isa, first_lines(expert.gate, 0)); // while its rows are picked
        let mut memory = MEMORY.take();
        let x = alone.pick(&picked[expert.rows.clone()], &mut memory.x);
        memory.values.resize(memory.values.len().max(3 * len), 0.0);
        let (gate, rest) = memory.values.split_at_mut(len);
        let (up, rest) = rest.split_at_mut(len);
        let both = [(expert.gate, &mut *gate), (expert.up, &mut *up)];
        let sweeps = both.map(|(b, c)| {
            assert_eq!(b.codes(), codes, "kinds of codes");
            Sweep::new(x, b, Target::new(c, [x.rows(), width], Start::Zero))
        });
        run(isa, sweeps.into());
        swiglu_to(isa, gate, up, &mut rest[..len]);
        inner.round(isa, &rest[..len]);
        MEMORY.set(memory);
    })
}

/// Writes some columns of the last products. # Shapes: inner [S, F] -> c [S, columns].
///
/// # Panics
/// As [`gated`], or if the columns do not begin with a panel.
pub(crate) fn down(
    isa: Isa,
    inner: &CodeRows,
    experts: &[ExpertRows<'_>],
    columns: Range<usize>,
    c: &mut [f32],
) {
    let rows = experts.last().map_or(0, |expert| expert.rows.end);
    let mut rest = Target::new(c, [rows, columns.len()], Start::Zero);
    let mut sweeps = Vec::with_capacity(experts.len());
    for expert in experts {
        let [target, others] = rest.split_rows(expert.rows.len());
        rest = others;
        let x = inner.part(expert.rows.clone());
        sweeps.push(Sweep::of_columns(x, expert.down, columns.clone(), target));
    }
    run(isa, sweeps);
}
