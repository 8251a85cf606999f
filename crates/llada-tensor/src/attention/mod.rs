//! Attention in which every query row sees at most two ranges of keys (`training.md` 3).
//!
//! Rows are split into [`Segment`]s that share no keys (a document, a sequence). One task handles a
//! segment and a key-value head: it packs the keys and values that the segment sees, then walks over
//! tiles of query rows whose ranges start alike, together with all query heads that use the
//! key-value head. Work is done only where some row of the tile sees a key; the ragged ends of a tile
//! get the score minus infinity.
//!
//! A row's result does not depend on its tile, and a key's gradient is summed by one task in row order.

mod backward;
mod forward;
mod pack;
mod products;
mod segments;
mod tile;

use rayon::prelude::*;

use crate::parallel::Shared;
use crate::{Isa, Tensor};
use pack::Source;
use segments::{Segment, segments};

/// Keys that one query row sees: rows `[0]..[1]` and rows `[2]..[3]` of the key array, disjoint, in
/// either order; an empty range has equal ends. At least one key is visible.
pub type KeyRanges = [u32; 4];

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
#[derive(Clone, Copy)]
struct Inputs<'a> {
    /// [N, H*P].
    q: &'a [f32],
    /// [M, G*P].
    keys: Source<'a>,
    /// [M, G*P].
    values: Source<'a>,
    heads: Heads,
    scale: f32,
}

/// Returns softmax(q k^T * scale over the visible keys) v.
/// # Shapes: q [N, H*P], keys and values [M, G*P] (M may exceed what the ranges use), ranges N.
///
/// # Panics
/// If shapes disagree, G does not divide H, a range lies outside the keys or a row sees no key.
pub fn attention(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    ranges: &[KeyRanges],
    heads: Heads,
    scale: f32,
) -> Attended {
    check(q, keys, values, ranges, heads);
    let inputs = inputs(q, keys, values, heads, scale);
    let mut out = Tensor::zeros(q.shape());
    let mut lse = Tensor::zeros(&[ranges.len(), heads.query]);
    let (shared_out, shared_lse) = (Shared::new(out.f32s_mut()), Shared::new(lse.f32s_mut()));
    for_each_task(ranges, heads, |isa, segment, head, scratch| {
        forward::run(
            isa,
            inputs,
            segment,
            head,
            scratch,
            &shared_out,
            &shared_lse,
        );
    });
    Attended { out, lse }
}

/// Returns (dq [N, H*P], dkeys [M, G*P], dvalues [M, G*P]). Keys that no row sees get zeros.
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
    check(q, keys, values, ranges, heads);
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
    let inputs = inputs(q, keys, values, heads, scale);
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
    for_each_task(ranges, heads, |isa, segment, head, scratch| {
        backward::run(isa, inputs, saved, segment, head, scratch, &grads);
    });
    (dq, dkeys, dvalues)
}

/// Calls `task` for every segment and key-value head; `S` is memory that tasks of a thread reuse.
fn for_each_task<S: Default>(
    ranges: &[KeyRanges],
    heads: Heads,
    task: impl Fn(Isa, &Segment, usize, &mut S) + Sync,
) {
    let isa = Isa::active();
    let segments = segments(ranges);
    let num_tasks = segments.len() * heads.key_value;
    let products: usize = ranges.iter().map(visible).sum::<usize>() * heads.query * heads.dim;
    let min_tasks = if products < MIN_PARALLEL_PRODUCTS {
        num_tasks
    } else {
        1
    };
    (0..num_tasks)
        .into_par_iter()
        .with_min_len(min_tasks.max(1))
        .for_each_init(S::default, |scratch, i| {
            task(
                isa,
                &segments[i / heads.key_value],
                i % heads.key_value,
                scratch,
            )
        });
}

/// Returns the number of keys a row sees.
fn visible([a0, a1, b0, b1]: &KeyRanges) -> usize {
    (a1 - a0 + b1 - b0) as usize
}

fn inputs<'a>(
    q: &'a Tensor,
    keys: &'a Tensor,
    values: &'a Tensor,
    heads: Heads,
    scale: f32,
) -> Inputs<'a> {
    let source = |x: &'a Tensor| Source {
        values: x.f32s(),
        heads: heads.key_value,
        dim: heads.dim,
    };
    Inputs {
        q: q.f32s(),
        keys: source(keys),
        values: source(values),
        heads,
        scale,
    }
}

fn check(q: &Tensor, keys: &Tensor, values: &Tensor, ranges: &[KeyRanges], heads: Heads) {
    let ([rows, columns], [num_keys, key_columns]) = (q.dims2(), keys.dims2());
    assert!(
        heads.key_value > 0 && heads.query % heads.key_value == 0,
        "attention: {heads:?}"
    );
    assert_eq!(
        columns,
        heads.query * heads.dim,
        "attention: q {:?}, {heads:?}",
        q.shape()
    );
    assert_eq!(
        key_columns,
        heads.key_value * heads.dim,
        "attention: keys {:?}",
        keys.shape()
    );
    assert_eq!(keys.shape(), values.shape(), "attention: keys and values");
    assert_eq!(ranges.len(), rows, "attention: ranges");
    for range in ranges {
        let [a0, a1, b0, b1] = range.map(|end| end as usize);
        let inside = a0 <= a1 && a1 <= num_keys && b0 <= b1 && b1 <= num_keys;
        assert!(
            inside && a1 - a0 + b1 - b0 > 0,
            "attention: {range:?} of {num_keys} keys"
        );
    }
}
