//! What is computed from the logits of one row.

use super::HeadRow;
use crate::simd::{Kernel, Simd};

/// Logits whose sums are taken in `f32`; the sums of the stretches are added in `f64`.
const STRETCH: usize = 512;

/// Stands for the logits past the end: e^x is zero, and x e^x is not NaN as it were for -inf.
const PAST_END: f32 = -1e30;

/// Computes a [`HeadRow`]. The logits are unchanged in the end.
pub(super) struct Statistics<'a> {
    pub(super) logits: &'a mut [f32],
    pub(super) target: Option<u32>,
    pub(super) banned: Option<u32>,
}

impl Kernel for Statistics<'_> {
    type Output = HeadRow;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> HeadRow {
        let Self {
            logits,
            target,
            banned,
        } = self;
        let (argmax, argmax_logit, max) = match banned {
            Some(id) if (id as usize) < logits.len() => {
                let banned = std::mem::replace(&mut logits[id as usize], f32::NEG_INFINITY);
                let (argmax, allowed) = largest(s, logits);
                logits[id as usize] = banned;
                (argmax, allowed, allowed.max(banned))
            }
            _ => {
                let (argmax, max) = largest(s, logits);
                (argmax, max, max)
            }
        };
        let [sum, moment] = exponential_sums(s, logits, max);
        // -inf among the logits leaves the sum finite, but not the moment.
        let log_sum = if moment.is_finite() {
            sum.ln()
        } else {
            f64::NAN
        };
        HeadRow {
            lse: (f64::from(max) + log_sum) as f32,
            target_logit: target.map_or(f32::NAN, |id| logits[id as usize]),
            entropy: (log_sum - moment / sum) as f32,
            argmax: argmax as u32,
            argmax_logit,
        }
    }
}

/// Returns the first index of the largest logit, and that logit.
#[inline(always)]
fn largest<S: Simd>(s: S, logits: &[f32]) -> (usize, f32) {
    let (mut best, mut best_stretch) = (f32::NEG_INFINITY, 0);
    for (index, stretch) in logits.chunks(STRETCH).enumerate() {
        let mut max = s.splat(f32::NEG_INFINITY);
        for x in stretch.chunks(S::LANES) {
            max = s.max(s.load_or(x, f32::NEG_INFINITY), max); // NaN is passed over
        }
        let max = s.reduce_max(max);
        if max > best {
            (best, best_stretch) = (max, index * STRETCH);
        }
    }
    let within = logits[best_stretch..].iter().position(|&x| x == best);
    (best_stretch + within.unwrap_or(0), best)
}

/// Returns the sums of e^d and of d e^d, where d = logit - max.
#[inline(always)]
fn exponential_sums<S: Simd>(s: S, logits: &[f32], max: f32) -> [f64; 2] {
    let max = s.splat(max);
    let mut sums = [0.0; 2];
    for stretch in logits.chunks(STRETCH) {
        let (mut sum, mut moment) = (s.splat(0.0), s.splat(0.0));
        for x in stretch.chunks(S::LANES) {
            let d = s.sub(s.load_or(x, PAST_END), max);
            let e = s.exp(d);
            sum = s.add(sum, e);
            moment = s.fma(d, e, moment);
        }
        sums[0] += f64::from(s.reduce_add(sum));
        sums[1] += f64::from(s.reduce_add(moment));
    }
    sums
}

/// Turns logits z into the loss' gradient: `nll_weight (p - onehot) - entropy_weight p (ln p + H)`.
pub(super) struct LogitGradient<'a> {
    pub(super) logits: &'a mut [f32],
    pub(super) row: HeadRow,
    pub(super) target: u32,
    pub(super) nll_weight: f32,
    pub(super) entropy_weight: f32,
}

impl Kernel for LogitGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let lse = s.splat(self.row.lse);
        let entropy_weight = s.splat(-self.entropy_weight);
        let constant = s.splat(self.nll_weight - self.entropy_weight * self.row.entropy);
        for z in self.logits.chunks_mut(S::LANES) {
            let ln_p = s.sub(s.load_or(z, PAST_END), lse);
            let dz = s.mul(s.exp(ln_p), s.fma(entropy_weight, ln_p, constant));
            s.store_some(dz, z);
        }
        self.logits[self.target as usize] -= self.nll_weight;
    }
}
