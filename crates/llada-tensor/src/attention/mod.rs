//! Attention in which every query row sees at most two ranges of keys (`training.md` 3), or the first
//! keys of a sequence that lies in pages (`decoding.md` 5).
//!
//! Consecutive rows whose ranges start alike form a [`Run`]; a run's queries (pairs of a row
//! and a query head) that use one key-value head are computed in [`Tile`](tile::Tile)s of sixteen, one
//! per lane of a vector. Scores are stored with keys as rows, so that every reduction over keys goes
//! lane by lane and keys and values are read where they lie. Work is done only where some row of the
//! run sees a key; the ragged ends of the other rows get the score minus infinity. Runs of few queries have
//! keys as lanes ([`few`]).
//!
//! Keys and values in pages lie as they are multiplied ([`panels`]). They may be in bf16; queries and weights are then rounded to bf16 as well ([`element`]).
//!
//! A query's result does not depend on its tile. In the backward pass one task handles the runs that
//! share keys, so a key's gradient is summed in row order.

mod backward;
mod element;
mod few;
mod forward;
mod panels;
mod products;
mod runs;
mod stored;
mod tile;

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use crate::parallel::Shared;
use crate::{DType, Isa, Precision, Tensor};
use element::Element;
use few::is_few;
pub use panels::KeyValues;
use panels::Panels;
use runs::{Run, Seen, Segment, paged_runs, runs, segments};
use stored::{Rows, Stored};
use tile::QUERIES;

/// Keys that one query row sees: rows `[0]..[1]` and rows `[2]..[3]` of the key array, disjoint, in
/// either order; an empty range has equal ends. At least one key is visible.
pub type KeyRanges = [u32; 4];

/// Query rows of one sequence, whose keys lie in pieces of the key array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowGroup {
    /// The query rows; groups follow each other and cover all rows.
    pub rows: Range<usize>,
    /// Rows of the key array in the order of the sequence, disjoint.
    pub keys: Vec<Range<usize>>,
    /// How many of these keys each query row sees, from the first on; at least 1.
    pub visible: Vec<u32>,
}

/// Products of a query's and a key's element below which one thread does everything, some 100 us.
const MIN_PARALLEL_PRODUCTS: usize = 1 << 20;

/// Numbers of heads and their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, H.
    pub query: usize,
    /// Key-value heads, G; query head h uses key-value head h * G / H. G divides H.
    pub key_value: usize,
    /// Width of a head, P.
    pub dim: usize,
}

impl Heads {
    /// Returns the number of query heads that use one key-value head.
    fn per_group(self) -> usize {
        self.query / self.key_value
    }

    /// Returns where a key-value head begins in rows of all of them.
    #[inline(always)]
    fn offset(self, row: usize, head: usize) -> usize {
        (row * self.key_value + head) * self.dim
    }
}

/// Output of [`attention`].
#[derive(Clone, Debug, PartialEq)]
pub struct Attended {
    /// Weighted values, [N, H*P].
    pub out: Tensor,
    /// Log-sum-exp of the scaled scores, [N, H]; the backward needs it.
    pub lse: Tensor,
}

/// The inputs of both directions as slices.
struct Inputs<'a, K> {
    /// [N, H*P].
    q: &'a [f32],
    stored: K,
    /// N.
    seen: Seen<'a>,
    heads: Heads,
    scale: f32,
}

/// Returns softmax(q k^T * scale over the visible keys) v.
/// # Shapes: q [N, H*P], keys and values [M, G*P] `f32` or bf16 (M may exceed what the ranges use), ranges N.
///
/// # Panics
/// If shapes disagree, G does not divide H, P is odd in bf16, a range lies outside the keys or a row sees no key.
pub fn attention(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    ranges: &[KeyRanges],
    heads: Heads,
    scale: f32,
) -> Attended {
    let (seen, stored) = (
        Seen::Ranges(checked_ranges(ranges, q, keys)),
        [keys, values],
    );
    check(q, stored, heads);
    let runs = runs(ranges);
    match keys.dtype() {
        DType::Bf16 => Inputs::new(q, Rows::<bf16>::new(stored), seen, heads, scale).forward(&runs),
        _ => Inputs::new(q, Rows::<f32>::new(stored), seen, heads, scale).forward(&runs),
    }
}

/// As [`attention`], without the log-sum-exps, over keys in pieces: a row sees the first keys of its
/// group. The result is bit-identical wherever the pieces lie, and that of one piece in order.
///
/// # Shapes
/// q [N, H*P] -> [N, H*P].
///
/// # Panics
/// If shapes disagree, G does not divide H, the groups do not cover the rows, or a row sees no key or
/// more than its group has.
pub fn attention_paged(
    q: &Tensor,
    stored: &KeyValues,
    groups: &[RowGroup],
    heads: Heads,
    scale: f32,
) -> Tensor {
    let visible = checked_groups(groups, q, stored.num_rows());
    check_queries(q, heads);
    assert!(stored.has(heads), "attention: {heads:?} of {stored:?}");
    let (seen, runs) = (Seen::Prefix(&visible), paged_runs(groups));
    let attended = match stored.precision() {
        Precision::F32 => {
            Inputs::new(q, Panels::<f32>::new(stored), seen, heads, scale).forward(&runs)
        }
        Precision::Bf16 => {
            Inputs::new(q, Panels::<bf16>::new(stored), seen, heads, scale).forward(&runs)
        }
    };
    attended.out
}

fn checked_ranges<'a>(ranges: &'a [KeyRanges], q: &Tensor, keys: &Tensor) -> &'a [KeyRanges] {
    let ([rows, _], [num_keys, _]) = (q.dims2(), keys.dims2());
    assert_eq!(ranges.len(), rows, "attention: ranges");
    for range in ranges {
        let [a0, a1, b0, b1] = range.map(|end| end as usize);
        let inside = a0 <= a1 && a1 <= num_keys && b0 <= b1 && b1 <= num_keys;
        assert!(
            inside && a1 - a0 + b1 - b0 > 0,
            "attention: {range:?} of {num_keys} keys"
        );
    }
    ranges
}

/// Returns the number of visible keys of every row.
fn checked_groups(groups: &[RowGroup], q: &Tensor, num_keys: usize) -> Vec<u32> {
    let [rows, _] = q.dims2();
    let mut visible = Vec::with_capacity(rows);
    for group in groups {
        assert_eq!(group.rows.start, visible.len(), "attention: groups");
        assert_eq!(group.rows.len(), group.visible.len(), "attention: visible");
        let inside = group.keys.iter().all(|piece| piece.end <= num_keys);
        let len: usize = group.keys.iter().map(Range::len).sum();
        let fits = |&visible: &u32| (1..=len).contains(&(visible as usize));
        assert!(
            inside && group.visible.iter().all(fits),
            "attention: {group:?} of {num_keys} keys"
        );
        visible.extend(&group.visible);
    }
    assert_eq!(visible.len(), rows, "attention: groups");
    visible
}

/// Returns (dq [N, H*P], dkeys [M, G*P], dvalues [M, G*P]) in `f32`. Keys that no row sees get zeros.
///
/// # Panics
/// As [`attention`].
#[expect(
    clippy::too_many_arguments,
    reason = "the saved forward is plain arrays"
)]
pub fn attention_backward(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    ranges: &[KeyRanges],
    heads: Heads,
    scale: f32,
    saved: &Attended,
    dout: &Tensor,
) -> (Tensor, Tensor, Tensor) {
    let seen = Seen::Ranges(checked_ranges(ranges, q, keys));
    check(q, [keys, values], heads);
    assert_eq!(
        saved.out.shape(),
        q.shape(),
        "attention_backward: saved out"
    );
    assert_eq!(
        saved.lse.shape(),
        [ranges.len(), heads.query],
        "attention_backward: saved lse"
    );
    assert_eq!(dout.shape(), q.shape(), "attention_backward: dout");
    let saved = backward::Saved {
        out: saved.out.f32s(),
        lse: saved.lse.f32s(),
        dout: dout.f32s(),
    };
    let mut dq = Tensor::zeros(q.shape());
    let (mut dkeys, mut dvalues) = (Tensor::zeros(keys.shape()), Tensor::zeros(values.shape()));
    let grads = backward::Grads {
        q: Shared::new(dq.f32s_mut()),
        keys: Shared::new(dkeys.f32s_mut()),
        values: Shared::new(dvalues.f32s_mut()),
    };
    let segments = segments(runs(ranges));
    match keys.dtype() {
        DType::Bf16 => Inputs::new(q, Rows::<bf16>::new([keys, values]), seen, heads, scale)
            .backward(&segments, &saved, &grads),
        _ => Inputs::new(q, Rows::<f32>::new([keys, values]), seen, heads, scale)
            .backward(&segments, &saved, &grads),
    }
    (dq, dkeys, dvalues)
}

/// Panics unless the shapes agree, and heads in bf16 are pairs.
fn check(q: &Tensor, [keys, values]: [&Tensor; 2], heads: Heads) {
    check_queries(q, heads);
    let [_, key_columns] = keys.dims2();
    assert_eq!(
        key_columns,
        heads.key_value * heads.dim,
        "attention: keys {:?}",
        keys.shape()
    );
    assert_eq!(keys.shape(), values.shape(), "attention: keys and values");
    assert!(
        keys.dtype() != DType::Bf16 || heads.dim.is_multiple_of(2),
        "attention: {heads:?} in bf16"
    );
}

fn check_queries(q: &Tensor, heads: Heads) {
    let [_, columns] = q.dims2();
    assert!(
        heads.dim > 0 && heads.key_value > 0 && heads.query.is_multiple_of(heads.key_value),
        "attention: {heads:?}"
    );
    assert_eq!(
        columns,
        heads.query * heads.dim,
        "attention: q {:?}, {heads:?}",
        q.shape()
    );
}

impl<'a, K: Stored> Inputs<'a, K> {
    fn new(q: &'a Tensor, stored: K, seen: Seen<'a>, heads: Heads, scale: f32) -> Self {
        Self {
            q: q.f32s(),
            stored,
            seen,
            heads,
            scale,
        }
    }

    fn forward(self, runs: &[Run]) -> Attended {
        let heads = self.heads;
        let num_rows = self.q.len() / (heads.query * heads.dim);
        let mut out = Tensor::zeros(&[num_rows, heads.query * heads.dim]);
        let mut lse = Tensor::zeros(&[num_rows, heads.query]);
        let outputs = forward::Outputs {
            out: Shared::new(out.f32s_mut()),
            lse: Shared::new(lse.f32s_mut()),
        };
        let isa = Isa::active();
        // What is fetched of a row holds several heads: where queries are few, a task takes them together.
        let num_heads = match runs.iter().all(|run| is_few(&self, run, QUERIES)) {
            true => heads.key_value.div_ceil(rayon::current_num_threads()),
            false => 1,
        };
        self.for_each_task(runs, num_heads, |run, heads, scratch| {
            forward::run(isa, &self, run, heads, scratch, &outputs);
        });
        Attended { out, lse }
    }

    /// Calls `task` for every part and `num_heads` key-value heads; `S` is memory that tasks of a thread reuse.
    fn for_each_task<T: Sync, S: Default>(
        &self,
        parts: &[T],
        num_heads: usize,
        task: impl Fn(&T, Range<usize>, &mut S) + Sync,
    ) {
        let heads = self.heads.key_value;
        let groups = heads.div_ceil(num_heads);
        let num_tasks = parts.len() * groups;
        let min_tasks = if self.products() < MIN_PARALLEL_PRODUCTS {
            num_tasks
        } else {
            1
        };
        (0..num_tasks)
            .into_par_iter()
            .with_min_len(min_tasks.max(1))
            .for_each_init(S::default, |scratch, i| {
                let first = i % groups * num_heads;
                let heads = first..heads.min(first + num_heads);
                task(&parts[i / groups], heads, scratch)
            });
    }

    /// Returns the number of products of a query's and a key's element.
    fn products(&self) -> usize {
        self.seen.num_pairs() * self.heads.query * self.heads.dim
    }
}

impl<E: Element> Inputs<'_, Rows<'_, E>> {
    fn backward(
        self,
        segments: &[Segment],
        saved: &backward::Saved<'_>,
        grads: &backward::Grads<'_>,
    ) {
        let isa = Isa::active();
        self.for_each_task(segments, 1, |segment, heads, scratch| {
            backward::run(isa, &self, saved, segment, heads.start, scratch, grads);
        });
    }
}
