//! `attention` and its gradient against a dense mask, and their bit-identities.

use std::ops::Range;

use llada_tensor::{
    Attended, Heads, KeyRanges, KeyValues, Precision, RowGroup, Tensor, attention,
    attention_backward, attention_paged, reference,
};

use crate::data::{assert_close, doubles, for_every_isa, matrix, with_threads};
use crate::gradients::numeric_gradient;

/// Query rows with their ranges, over `num_keys` keys.
struct Layout {
    ranges: Vec<KeyRanges>,
    num_keys: usize,
}

impl Layout {
    fn sees(&self, row: usize, key: usize) -> bool {
        let [a0, a1, b0, b1] = self.ranges[row];
        (a0..a1).contains(&(key as u32)) || (b0..b1).contains(&(key as u32))
    }
}

/// Every row sees the rows of its document up to itself.
fn causal(documents: &[u32]) -> Layout {
    block_causal(documents, 1)
}

/// Every row sees the rows of its document up to the end of its block; the last block may be short.
fn block_causal(documents: &[u32], block: u32) -> Layout {
    let (mut ranges, mut start) = (Vec::new(), 0);
    for &len in documents {
        let end_of = |i: u32| (i / block + 1) * block;
        ranges.extend((0..len).map(|i| [start, start + end_of(i).min(len), 0, 0]));
        start += len;
    }
    Layout {
        ranges,
        num_keys: start as usize,
    }
}

/// Per document clean rows, then noisy rows: noisy blocks see earlier clean blocks and themselves.
fn noisy_and_clean(documents: &[u32], block: u32) -> Layout {
    let (mut ranges, mut clean) = (Vec::new(), 0);
    for &len in documents {
        let noisy = clean + len;
        let ends = |i: u32| (i / block * block, ((i / block + 1) * block).min(len));
        ranges.extend((0..len).map(|i| [clean, clean + ends(i).1, 0, 0]));
        ranges.extend((0..len).map(|i| {
            let (begin, end) = ends(i);
            [clean, clean + begin, noisy + begin, noisy + end]
        }));
        clean = noisy + len;
    }
    Layout {
        ranges,
        num_keys: clean as usize,
    }
}

/// A cache of which each sequence sees some rows beside its own block, in either order; it is larger
/// than what is used. Two sequences share a prefix, one row sees nothing but itself.
fn decode() -> Layout {
    let mut ranges = vec![[100, 104, 3, 45]; 4];
    ranges.extend([[3, 45, 104, 121]; 17]);
    ranges.extend([[60, 60, 90, 91], [60, 80, 0, 0], [200, 201, 60, 79]]);
    Layout {
        ranges,
        num_keys: 230,
    }
}

fn layouts() -> Vec<Layout> {
    vec![
        causal(&[1, 5, 37]),
        block_causal(&[30, 7], 8),
        block_causal(&[65], 32),
        noisy_and_clean(&[19, 3, 8], 8),
        noisy_and_clean(&[40], 32),
        decode(),
        long(),
    ]
}

/// Rows that see so many keys that the next ones are asked for.
fn long() -> Layout {
    let mut ranges = vec![[0, 1090, 1100, 1108]; 9];
    ranges.push([0, 1100, 0, 0]);
    Layout {
        ranges,
        num_keys: 1108,
    }
}

const HEADS: [Heads; 5] = [
    Heads {
        query: 1,
        key_value: 1,
        dim: 3,
    },
    Heads {
        query: 8,
        key_value: 4,
        dim: 16,
    },
    Heads {
        query: 3,
        key_value: 1,
        dim: 8,
    },
    Heads {
        query: 4,
        key_value: 4,
        dim: 40,
    },
    Heads {
        query: 20,
        key_value: 1,
        dim: 128,
    },
];

/// q, keys, values and the gradient of the output, with queries large enough for uneven weights.
fn inputs(layout: &Layout, heads: Heads) -> [Tensor; 4] {
    let rows = layout.ranges.len();
    let mut q = matrix(1, [rows, heads.query * heads.dim]);
    q.f32s_mut().iter_mut().for_each(|q| *q *= 3.0);
    let key_shape = [layout.num_keys, heads.key_value * heads.dim];
    let dout = matrix(4, [rows, heads.query * heads.dim]);
    [q, matrix(2, key_shape), matrix(3, key_shape), dout]
}

fn scale(heads: Heads) -> f32 {
    1.0 / (heads.dim as f32).sqrt()
}

fn forward(layout: &Layout, heads: Heads) -> Attended {
    let [q, keys, values, _] = inputs(layout, heads);
    attention(&q, &keys, &values, &layout.ranges, heads, scale(heads))
}

fn backward(layout: &Layout, heads: Heads) -> [Tensor; 3] {
    let [q, keys, values, dout] = inputs(layout, heads);
    let (ranges, scale) = (&layout.ranges, scale(heads));
    let saved = attention(&q, &keys, &values, ranges, heads, scale);
    attention_backward(&q, &keys, &values, ranges, heads, scale, &saved, &dout).into()
}

fn dense(layout: &Layout, heads: Heads, [q, keys, values]: [&[f64]; 3]) -> (Vec<f64>, Vec<f64>) {
    let sees = |row, key| layout.sees(row, key);
    reference::attention::attention(q, keys, values, sees, heads, scale(heads).into())
}

#[test]
fn outputs_agree_with_a_dense_mask() {
    for layout in layouts() {
        for heads in HEADS {
            let [q, keys, values, _] = inputs(&layout, heads).map(|t| doubles(t.f32s()));
            let (out, lse) = dense(&layout, heads, [&q, &keys, &values]);
            for_every_isa(|| {
                let attended = forward(&layout, heads);
                assert_close(attended.out.f32s(), &out, 3e-6);
                assert_close(attended.lse.f32s(), &lse, 3e-6);
            });
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let small = [
        causal(&[2, 9]),
        noisy_and_clean(&[7, 3], 4),
        Layout {
            ranges: vec![[6, 9, 0, 3], [0, 3, 9, 9], [10, 10, 10, 12]],
            num_keys: 14,
        },
    ];
    let heads = [
        Heads {
            query: 4,
            key_value: 2,
            dim: 4,
        },
        Heads {
            query: 1,
            key_value: 1,
            dim: 17,
        },
    ];
    for (layout, heads) in small
        .iter()
        .flat_map(|layout| heads.map(|heads| (layout, heads)))
    {
        let [q, keys, values, dout] = inputs(layout, heads).map(|t| doubles(t.f32s()));
        let want = [
            numeric_gradient(&q, &dout, |q| dense(layout, heads, [q, &keys, &values]).0),
            numeric_gradient(&keys, &dout, |keys| {
                dense(layout, heads, [&q, keys, &values]).0
            }),
            numeric_gradient(&values, &dout, |values| {
                dense(layout, heads, [&q, &keys, values]).0
            }),
        ];
        for_every_isa(|| {
            for (got, want) in backward(layout, heads).iter().zip(&want) {
                assert_close(got.f32s(), want, 1e-5);
            }
        });
    }
}

/// Operands are rounded before, so that only weights and gradients of scores are rounded on the way, each by at most half a
/// unit in the last of its 8 bits.
#[test]
fn gradients_in_bf16_are_those_of_rounded_operands() {
    let layout = noisy_and_clean(&[19, 3, 8], 8);
    for heads in [1, 2, 3].map(|index| HEADS[index]) {
        let round = |x: Tensor| x.to_bf16().to_f32();
        let scale = 0.25; // a power of two, so that rounded queries stay so
        let [q, keys, values, dout] = inputs(&layout, heads).map(round);
        let gradients = |keys: &Tensor, values: &Tensor| -> [Tensor; 3] {
            let ranges = &layout.ranges;
            let saved = attention(&q, keys, values, ranges, heads, scale);
            attention_backward(&q, keys, values, ranges, heads, scale, &saved, &dout).into()
        };
        for_every_isa(|| {
            let want = gradients(&keys, &values);
            let got = gradients(&keys.to_bf16(), &values.to_bf16());
            for (got, want) in got.iter().zip(&want) {
                assert_close(got.f32s(), &doubles(want.f32s()), 2.0_f64.powi(-7));
            }
        });
    }
}

#[test]
fn unseen_keys_get_zero_gradients_and_are_never_read() {
    let heads = HEADS[1];
    let layout = decode();
    let [q, mut keys, mut values, dout] = inputs(&layout, heads);
    let width = heads.key_value * heads.dim;
    let unseen: Vec<usize> = (0..layout.num_keys)
        .filter(|&key| (0..layout.ranges.len()).all(|row| !layout.sees(row, key)))
        .collect();
    assert!(unseen.len() > 20);
    for &key in &unseen {
        keys.f32s_mut()[key * width..][..width].fill(f32::NAN);
        values.f32s_mut()[key * width..][..width].fill(f32::NAN);
    }
    for_every_isa(|| {
        let (ranges, scale) = (&layout.ranges, scale(heads));
        let saved = attention(&q, &keys, &values, ranges, heads, scale);
        let (_, dkeys, dvalues) =
            attention_backward(&q, &keys, &values, ranges, heads, scale, &saved, &dout);
        assert_eq!(saved, forward(&layout, heads));
        for &key in &unseen {
            assert!(
                dkeys
                    .row(key)
                    .iter()
                    .chain(dvalues.row(key))
                    .all(|&x| x == 0.0)
            );
        }
    });
}

#[test]
fn a_row_alone_is_bit_identical_to_the_row_in_a_batch() {
    for_every_isa(|| {
        for layout in layouts() {
            for heads in [HEADS[1], HEADS[2], HEADS[3]] {
                let [q, keys, values, _] = inputs(&layout, heads);
                let bf16 = [&keys, &values].map(Tensor::to_bf16);
                for [keys, values] in [[keys, values], bf16] {
                    let attend = |q: &Tensor, ranges: &[KeyRanges]| {
                        attention(q, &keys, &values, ranges, heads, scale(heads))
                    };
                    let batch = attend(&q, &layout.ranges);
                    for (row, &range) in layout.ranges.iter().enumerate() {
                        let q = Tensor::from_f32(&[1, q.dims2()[1]], q.row(row).to_vec());
                        let alone = attend(&q, &[range]);
                        assert_eq!(alone.out.f32s(), batch.out.row(row));
                        assert_eq!(alone.lse.f32s(), batch.lse.row(row));
                    }
                }
            }
        }
    });
}

/// Three sequences of 70, 5 and 33 keys, of which blocks of rows at the end see all up to their own.
const SEQUENCES: [(usize, usize); 3] = [(70, 40), (5, 1), (33, 33)];

/// Keys that each row of a sequence sees, if blocks have 8 rows.
fn visible((len, rows): (usize, usize)) -> Vec<u32> {
    let end_of = |position: usize| (position / 8 * 8 + 8).min(len) as u32;
    (len - rows..len).map(end_of).collect()
}

/// Lays the sequences out in pages, the last page first, those of the sequences in turn; returns the
/// pieces of every sequence and the number of rows that takes.
fn pages(page_rows: usize) -> (Vec<Vec<Range<usize>>>, usize) {
    let mut next = 0;
    let mut pieces = vec![Vec::new(); SEQUENCES.len()];
    for page in (0..70usize.div_ceil(page_rows)).rev() {
        for (pieces, (len, _)) in pieces.iter_mut().zip(SEQUENCES) {
            let end = len.min((page + 1) * page_rows);
            if page * page_rows < end {
                pieces.insert(0, next..next + end - page * page_rows);
                next += page_rows;
            }
        }
    }
    (pieces, next)
}

/// Writes rows of arrays of sequences one after the other to where their pages are, over rows of NaNs.
fn scatter(
    [keys, values]: [&Tensor; 2],
    pieces: &[Vec<Range<usize>>],
    num_rows: usize,
    precision: Precision,
    heads: Heads,
) -> KeyValues {
    let mut stored = KeyValues::new(precision, num_rows, heads).expect("memory");
    let [_, width] = keys.dims2();
    let nans = Tensor::from_f32(&[num_rows, width], vec![f32::NAN; num_rows * width]);
    let all: Vec<u32> = (0..num_rows as u32).collect();
    stored.write(&all, &nans, &nans);
    let slots = pieces.iter().flatten().cloned().flatten();
    let slots: Vec<u32> = slots.map(|slot| slot as u32).collect();
    stored.write(&slots, keys, values);
    stored
}

#[test]
fn keys_in_pages_are_bit_identical_to_keys_in_order() {
    let visible = SEQUENCES.map(visible);
    for heads in [HEADS[1], HEADS[2], HEADS[3]] {
        let (mut first_key, mut ranges) = (0, Vec::new());
        for ((len, _), visible) in SEQUENCES.iter().zip(&visible) {
            ranges.extend(visible.iter().map(|&n| [first_key, first_key + n, 0, 0]));
            first_key += *len as u32;
        }
        let layout = Layout {
            ranges,
            num_keys: first_key as usize,
        };
        let [q, keys, values, _] = inputs(&layout, heads);
        for_every_isa(|| {
            let attend = |[keys, values]: [Tensor; 2]| {
                attention(&q, &keys, &values, &layout.ranges, heads, scale(heads)).out
            };
            let ordered = attend([&keys, &values].map(Tensor::to_f32));
            let ordered_bf16 = attend([&keys, &values].map(Tensor::to_bf16));
            for page_rows in [1, 4, 32, 100] {
                let (pieces, num_rows) = pages(page_rows);
                let mut first_row = 0;
                let groups = pieces.iter().zip(&visible).map(|(keys, visible)| {
                    let rows = first_row..first_row + visible.len();
                    first_row = rows.end;
                    RowGroup {
                        rows,
                        keys: keys.clone(),
                        visible: visible.clone(),
                    }
                });
                let groups: Vec<_> = groups.collect();
                for (precision, ordered) in
                    [(Precision::F32, &ordered), (Precision::Bf16, &ordered_bf16)]
                {
                    let stored = scatter([&keys, &values], &pieces, num_rows, precision, heads);
                    let paged = attention_paged(&q, &stored, &groups, heads, scale(heads));
                    assert_eq!(paged, *ordered, "{page_rows}, {precision:?}");
                }
            }
        });
    }
}

#[test]
fn stored_values_are_rounded_to_nearest_ties_to_even() {
    let heads = Heads {
        query: 1,
        key_value: 1,
        dim: 4,
    };
    // Ties to either side, a value between, and what has no bf16 beside infinity.
    let bits = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x7f7f_ffff];
    let row = Tensor::from_f32(&[1, 4], bits.map(f32::from_bits).to_vec());
    let zeros = Tensor::zeros(&[1, 4]);
    for slot in [2, 3] {
        for (precision, want) in [
            (Precision::F32, row.clone()),
            (Precision::Bf16, row.to_bf16().to_f32()),
        ] {
            let mut stored = KeyValues::new(precision, 5, heads).unwrap();
            stored.write(&[slot], &zeros, &row);
            let key = slot as usize..slot as usize + 1;
            let groups = [RowGroup {
                rows: 0..1,
                keys: [key].into(),
                visible: vec![1],
            }];
            let out = attention_paged(&zeros, &stored, &groups, heads, 1.0);
            assert_eq!(out, want, "row {slot} in {precision:?}");
        }
    }
}

#[test]
#[should_panic(expected = "row 5 of 5")]
fn a_row_that_is_not_there_is_refused() {
    let heads = HEADS[1];
    let row = Tensor::zeros(&[1, heads.key_value * heads.dim]);
    let mut stored = KeyValues::new(Precision::F32, 5, heads).unwrap();
    stored.write(&[5], &row, &row);
}

#[test]
fn keys_and_values_in_bf16_are_multiplied_by_rounded_queries_and_weights() {
    for layout in layouts() {
        for heads in &HEADS[1..] {
            let [q, keys, values, _] = inputs(&layout, *heads);
            let [keys, values] = [keys, values].map(|rows| rows.to_bf16());
            let mut scaled = q.clone();
            scaled
                .f32s_mut()
                .iter_mut()
                .for_each(|q| *q *= scale(*heads));
            let [scaled, wide_keys, wide_values] =
                [&scaled.to_bf16(), &keys, &values].map(|rows| doubles(rows.to_f32().f32s()));
            let sees = |row, key| layout.sees(row, key);
            let (out, lse) = reference::attention::attention(
                &scaled,
                &wide_keys,
                &wide_values,
                sees,
                *heads,
                1.0,
            );
            for_every_isa(|| {
                let ranges = &layout.ranges;
                let attended = attention(&q, &keys, &values, ranges, *heads, scale(*heads));
                assert_close(attended.lse.f32s(), &lse, 3e-6);
                // A weight moves by half a unit in the last of its 8 bits.
                assert_close(attended.out.f32s(), &out, 2.0_f64.powi(-9) + 3e-6);
            });
        }
    }
}

#[test]
fn one_and_two_threads_are_bit_identical() {
    let layout = noisy_and_clean(&[150, 90, 201], 8);
    let heads = HEADS[1];
    let [q, keys, values, dout] = inputs(&layout, heads);
    let bf16 = [&keys, &values].map(Tensor::to_bf16);
    for [keys, values] in [[keys, values], bf16] {
        let run = || {
            let (ranges, scale) = (&layout.ranges, scale(heads));
            let saved = attention(&q, &keys, &values, ranges, heads, scale);
            let grads = attention_backward(&q, &keys, &values, ranges, heads, scale, &saved, &dout);
            (saved, grads)
        };
        assert_eq!(with_threads(1, run), with_threads(2, run));
    }
}

#[test]
fn huge_scores_do_not_overflow() {
    let heads = HEADS[0];
    let key = |x: f32| vec![x, 0.0, 0.0];
    let q = Tensor::from_f32(&[1, 3], key(1e4));
    let keys = Tensor::from_f32(&[2, 3], [key(-1e4), key(1e4)].concat());
    let values = Tensor::from_f32(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    for_every_isa(|| {
        let attended = attention(&q, &keys, &values, &[[0, 2, 0, 0]], heads, 1.0);
        assert_eq!(attended.out.f32s(), [4.0, 5.0, 6.0]);
        assert_eq!(attended.lse.f32s(), [1e8]);
    });
}

#[test]
fn no_rows_give_no_output() {
    let heads = HEADS[1];
    let keys = matrix(1, [5, 64]);
    let attended = attention(&Tensor::zeros(&[0, 128]), &keys, &keys, &[], heads, 1.0);
    assert_eq!(
        (attended.out.shape(), attended.lse.shape()),
        (&[0, 128][..], &[0, 8][..])
    );
}
