//! Every vector operation at every instruction set against `std`.

use super::{Kernel, Simd, dispatch, unpack_pair};
use crate::Isa;

/// Applies `exp` and `sigmoid` to every element.
struct Functions<'a> {
    x: &'a [f32],
}

impl Kernel for Functions<'_> {
    type Output = [Vec<f32>; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut out = [vec![0.0; self.x.len()], vec![0.0; self.x.len()]];
        for (i, chunk) in self.x.chunks(S::LANES).enumerate() {
            let x = s.load_or(chunk, 7.0);
            s.store_some(s.exp(x), &mut out[0][i * S::LANES..]);
            s.store_some(s.sigmoid(x), &mut out[1][i * S::LANES..]);
        }
        out
    }
}

fn functions(isa: Isa, x: &[f32]) -> [Vec<f32>; 2] {
    dispatch(isa, Functions { x })
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let x: Vec<f32> = (0..20_003)
        .map(|i| (i as f32 - 10_000.0) * 0.0087)
        .collect();
    for isa in Isa::available() {
        for (&x, &got) in x.iter().zip(&functions(isa, &x)[0]) {
            let want = f64::from(x).exp();
            let ulp = f64::from((want as f32).next_up() - want as f32);
            assert!(
                (f64::from(got) - want).abs() <= 2.0 * ulp,
                "{isa:?} exp({x}) = {got}"
            );
        }
    }
}

#[test]
fn exp_ends_in_zero_infinity_and_nan() {
    let x = [
        f32::NEG_INFINITY,
        -1e30,
        -110.0,
        0.0,
        89.0,
        1e30,
        f32::INFINITY,
    ];
    for isa in Isa::available() {
        let [exp, _] = functions(isa, &x);
        assert_eq!(
            exp,
            [
                0.0,
                0.0,
                0.0,
                1.0,
                f32::INFINITY,
                f32::INFINITY,
                f32::INFINITY
            ]
        );
        assert!(functions(isa, &[f32::NAN])[0][0].is_nan());
    }
}

#[test]
fn sigmoid_is_accurate_and_saturates() {
    let x = [
        f32::NEG_INFINITY,
        -200.0,
        -3.5,
        0.0,
        0.25,
        30.0,
        f32::INFINITY,
    ];
    for isa in Isa::available() {
        for (x, got) in x.into_iter().zip(&functions(isa, &x)[1]) {
            let want = 1.0 / (1.0 + f64::from(-x).exp());
            assert!(
                (f64::from(*got) - want).abs() <= 2e-7,
                "{isa:?} sigmoid({x}) = {got}"
            );
        }
    }
}

/// Exercises the remaining operations; returns lane 0 of each.
struct Operations {
    a: f32,
    b: f32,
    c: f32,
}

impl Kernel for Operations {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let (a, b, c) = (s.splat(self.a), s.splat(self.b), s.splat(self.c));
        let results = [
            s.add(a, b),
            s.sub(a, b),
            s.mul(a, b),
            s.div(a, b),
            s.fma(a, b, c),
            s.max(a, b),
            s.min(a, b),
            s.round(b),
            s.scale_pow2(a, s.splat(-3.0)),
        ];
        let mut lane = [0.0];
        results
            .map(|v| {
                s.store_some(v, &mut lane);
                lane[0]
            })
            .to_vec()
    }
}

#[test]
fn operations_agree_with_plain_arithmetic() {
    for isa in Isa::available() {
        let got = dispatch(
            isa,
            Operations {
                a: 4.0,
                b: 2.5,
                c: -8.0,
            },
        );
        assert_eq!(
            got,
            [6.5, 1.5, 10.0, 1.6, 2.0, 4.0, 2.5, 2.0, 0.5],
            "{isa:?}"
        );
    }
}

/// Reduces a slice by sum and maximum, and takes the bf16 dot product with itself.
struct Reductions<'a> {
    x: &'a [f32],
}

impl Kernel for Reductions<'_> {
    type Output = [f32; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; 2] {
        let largest = s.reduce_max(s.load_or(self.x, f32::NEG_INFINITY));
        [s.reduce_add(s.load_or(self.x, 0.0)), largest]
    }
}

#[test]
fn reductions_see_every_lane_and_nothing_else() {
    let x = [1.0, -2.0, 3.0, 40.0, 5.0, -6.0, 7.0];
    for isa in Isa::available() {
        for n in 1..=x.len() {
            let want = [
                x[..n].iter().sum(),
                x[..n].iter().copied().fold(f32::MIN, f32::max),
            ];
            assert_eq!(
                dispatch(isa, Reductions { x: &x[..n] }),
                want,
                "{isa:?} {n}"
            );
        }
    }
}

/// Multiplies bf16 pairs and adds the products to `acc`.
struct PairDot {
    a: f32,
    b: f32,
    acc: f32,
}

impl Kernel for PairDot {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let dot = s.dot_bf16(s.splat(self.a), s.splat(self.b), s.splat(self.acc));
        s.reduce_max(dot)
    }
}

/// Returns a bf16 pair.
fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits((low.to_bits() >> 16) | high.to_bits())
}

#[test]
fn pair_products_add_both_halves() {
    for isa in Isa::available() {
        let dot = dispatch(
            isa,
            PairDot {
                a: pair(1.5, -2.0),
                b: pair(4.0, 8.0),
                acc: 100.0,
            },
        );
        assert_eq!(dot, 100.0 + 1.5 * 4.0 - 2.0 * 8.0, "{isa:?}");
    }
}

#[test]
fn pair_products_are_added_one_by_one_the_high_halves_first() {
    let large = 2.0_f32.powi(24); // takes up a one that is added to it, but not one that is taken away
    for isa in Isa::available() {
        let add = |low: f32, high: f32| {
            let (a, b) = (pair(low, high), pair(1.0, 1.0));
            dispatch(isa, PairDot { a, b, acc: 1.0 })
        };
        assert_eq!(
            [add(-large, large), add(large, -large)],
            [0.0, 1.0],
            "{isa:?}"
        );
    }
}

/// Adds the products of four bytes to `acc`, those of `a` being any, then at most 127.
struct ByteDots {
    a: [u8; 4],
    b: [i8; 4],
    acc: i32,
}

impl Kernel for ByteDots {
    type Output = [i32; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [i32; 2] {
        let splat = |bits: u32| s.splat(f32::from_bits(bits));
        let small = self.a.map(|a| a & 127);
        let [a, small] = [self.a, small].map(|a| splat(u32::from_le_bytes(a)));
        let b = splat(u32::from_le_bytes(self.b.map(i8::cast_unsigned)));
        let acc = splat(self.acc.cast_unsigned());
        [s.dot_bytes(a, b, acc), s.dot_small_bytes(small, b, acc)].map(|dots| {
            let mut lanes = [0.0; 16];
            s.store(dots, &mut lanes);
            lanes[S::LANES - 1].to_bits().cast_signed()
        })
    }
}

#[test]
fn products_of_bytes_are_exact_at_the_ends_of_their_ranges() {
    let (left, right) = ([0, 1, 127, 255], [-128, -1, 0, 127]);
    let fours = |i: usize| [i, i / 4, i / 16, i / 64].map(|i| i % 4);
    for isa in Isa::available() {
        for (i, j) in (0..256).flat_map(|i| (0..256).map(move |j| (i, j))) {
            let (a, b, acc) = (fours(i).map(|i| left[i]), fours(j).map(|j| right[j]), -77);
            let sum = |mask: u8| {
                let products = a
                    .iter()
                    .zip(b)
                    .map(|(a, b)| i32::from(a & mask) * i32::from(b));
                acc + products.sum::<i32>()
            };
            let got = dispatch(isa, ByteDots { a, b, acc });
            assert_eq!(got, [sum(255), sum(127)], "{isa:?} {a:?} {b:?}");
        }
    }
}

/// Returns the lanes of two counting vectors, zipped.
struct Zip;

impl Kernel for Zip {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let count: Vec<f32> = (0..2 * S::LANES).map(|i| i as f32).collect();
        let [low, high] = s.zip(s.load(&count), s.load(&count[S::LANES..]));
        let mut zipped = vec![0.0; 2 * S::LANES];
        s.store(low, &mut zipped);
        s.store(high, &mut zipped[S::LANES..]);
        zipped
    }
}

#[test]
fn zipping_alternates_the_lanes() {
    for isa in Isa::available() {
        let zipped = dispatch(isa, Zip);
        let lanes = zipped.len() / 2;
        let want: Vec<f32> = (0..lanes)
            .flat_map(|i| [i as f32, (lanes + i) as f32])
            .collect();
        assert_eq!(zipped, want, "{isa:?}");
    }
}

/// Returns the pairs of bf16 numbers.
struct PairUp<'a> {
    high: &'a [half::bf16],
    low: &'a [half::bf16],
}

impl Kernel for PairUp<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut lanes = vec![0.0; S::LANES];
        s.store(s.pair_bf16(self.high, self.low), &mut lanes);
        lanes
    }
}

#[test]
fn paired_numbers_are_what_they_were() {
    let x: Vec<f32> = (0..16)
        .map(|i| 0.37 * i as f32 - 3.0)
        .chain([1e-40])
        .collect();
    let high: Vec<_> = x.iter().rev().copied().map(half::bf16::from_f32).collect();
    let low: Vec<_> = x.into_iter().map(half::bf16::from_f32).collect();
    let zeros = [half::bf16::ZERO; 17];
    for isa in Isa::available() {
        let pairs = |low| dispatch(isa, PairUp { high: &high, low });
        let lanes = pairs(&zeros);
        let want: Vec<f32> = high[..lanes.len()].iter().map(|x| x.to_f32()).collect();
        assert_eq!(lanes, want, "{isa:?}");
        let halves: Vec<_> = pairs(&low).into_iter().map(unpack_pair).collect();
        let want = low
            .iter()
            .zip(&high)
            .map(|(low, high)| [low.to_f32(), high.to_f32()]);
        assert_eq!(
            halves,
            want.take(lanes.len()).collect::<Vec<_>>(),
            "{isa:?}"
        );
    }
}

/// Returns the halves of all lanes of two vectors of bf16 pairs, joined and packed.
struct Pairs<'a> {
    /// A vector and another one, as many elements as [`Simd::LANES`] each.
    x: &'a [f32],
}

impl Kernel for Pairs<'_> {
    type Output = [Vec<f32>; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let (a, b) = (s.load(self.x), s.load(&self.x[S::LANES..]));
        [s.join_bf16(a, b), s.pack_bf16(a, b)].map(|pairs| {
            let mut lanes = vec![0.0; S::LANES];
            s.store(pairs, &mut lanes);
            lanes.into_iter().flat_map(unpack_pair).collect()
        })
    }
}

#[test]
fn pairs_are_rounded_to_nearest_even_and_keep_their_order() {
    // Ties to either side, beside them, and past the largest bf16.
    let bits = [0x3f80_8000_u32, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff];
    let x: Vec<f32> = bits
        .map(f32::from_bits)
        .into_iter()
        .chain([f32::MAX, f32::INFINITY, -0.0])
        .chain((0..25).map(|i| 0.1 * i as f32))
        .collect();
    let rounded = |x: &[f32]| -> Vec<f32> {
        let round = |&x: &f32| half::bf16::from_f32(x).to_f32();
        x.iter().map(round).collect()
    };
    for isa in Isa::available() {
        let [joined, packed] = dispatch(isa, Pairs { x: &x });
        let (a, b) = x[..packed.len()].split_at(packed.len() / 2);
        let alternating: Vec<f32> = a.iter().zip(b).flat_map(|(&a, &b)| [a, b]).collect();
        assert_eq!(joined, rounded(&alternating), "{isa:?}");
        assert_eq!(packed, rounded(&x[..packed.len()]), "{isa:?}");
    }
}

#[test]
fn pairs_keep_nan() {
    for isa in Isa::available() {
        let [joined, packed] = dispatch(isa, Pairs { x: &[f32::NAN; 32] });
        assert!(joined.iter().chain(&packed).all(|x| x.is_nan()), "{isa:?}");
    }
}
