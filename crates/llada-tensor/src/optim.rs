//! AdamW and the global gradient norm.

use rayon::prelude::*;

use crate::parallel::rows_per_task;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Tensor};

/// Settings of one AdamW step (arXiv:1711.05101), bias-corrected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay; 0 for norms, biases and embeddings.
    pub weight_decay: f32,
    /// 1-based number of this step.
    pub step_num: u64,
}

/// Elements whose squares are summed by one task. A constant, so that the order of additions does not
/// depend on the number of threads.
const SUM_CHUNK: usize = 1 << 16;

/// Updates `param` and both moments in place; `grad` is multiplied by `grad_scale` (clipping) first.
///
/// Decay comes first and `eps` is added to the corrected root, as in PyTorch:
/// `p -= lr * wd * p; p -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)` with `c = 1 - beta^step_num`.
pub fn adamw_step(
    config: &AdamW,
    param: &mut Tensor,
    grad: &Tensor,
    grad_scale: f32,
    first: &mut Tensor,
    second: &mut Tensor,
) {
    for other in [grad.len(), first.len(), second.len()] {
        assert_eq!(param.len(), other, "adamw_step: gradient and moments");
    }
    let (isa, factors) = (Isa::active(), &Factors::new(config, grad_scale));
    let task = rows_per_task(param.len(), 4);
    let moments = first
        .f32s_mut()
        .par_chunks_mut(task)
        .zip(second.f32s_mut().par_chunks_mut(task));
    let params = param
        .f32s_mut()
        .par_chunks_mut(task)
        .zip(grad.f32s().par_chunks(task));
    params
        .zip(moments)
        .for_each(|((param, grad), (first, second))| {
            dispatch(
                isa,
                Update {
                    factors,
                    param,
                    grad,
                    first,
                    second,
                },
            );
        });
}

/// Updates some elements. The plain loop becomes vectors of the instruction set.
struct Update<'a> {
    factors: &'a Factors,
    param: &'a mut [f32],
    grad: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let moments = self.first.iter_mut().zip(self.second);
        let params = self.param.iter_mut().zip(self.grad);
        for ((param, grad), (first, second)) in params.zip(moments) {
            self.factors.update(param, *grad, first, second);
        }
    }
}

/// Returns the sum of squares in f64, in a fixed order.
pub fn sum_of_squares(x: &Tensor) -> f64 {
    let (isa, chunks) = (Isa::active(), x.f32s().par_chunks(SUM_CHUNK));
    let sums: Vec<f64> = chunks.map(|x| dispatch(isa, SumOfSquares(x))).collect();
    sums.iter().sum()
}

/// What one step multiplies with, computed in f64 once.
struct Factors {
    grad_scale: f32,
    keep: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    inverse_root_correction2: f32,
    step_size: f32,
    eps: f32,
}

impl Factors {
    fn new(config: &AdamW, grad_scale: f32) -> Self {
        let (lr, decay) = (
            f64::from(config.learning_rate),
            f64::from(config.weight_decay),
        );
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(config.step_num as f64);
        Self {
            grad_scale,
            keep: (1.0 - lr * decay) as f32,
            beta1: config.beta1,
            one_minus_beta1: (1.0 - f64::from(config.beta1)) as f32,
            beta2: config.beta2,
            one_minus_beta2: (1.0 - f64::from(config.beta2)) as f32,
            inverse_root_correction2: (1.0 / correction(config.beta2).sqrt()) as f32,
            step_size: (lr / correction(config.beta1)) as f32,
            eps: config.eps,
        }
    }

    #[inline(always)]
    fn update(&self, param: &mut f32, grad: f32, first: &mut f32, second: &mut f32) {
        let grad = grad * self.grad_scale;
        *first = self.beta1 * *first + self.one_minus_beta1 * grad;
        *second = self.beta2 * *second + self.one_minus_beta2 * grad * grad;
        let root = second.sqrt() * self.inverse_root_correction2 + self.eps;
        *param = *param * self.keep - self.step_size * *first / root;
    }
}

/// Sums over one chunk, in eight interleaved chains that the compiler keeps in vectors.
struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut sums = [0.0; 8];
        let xs = self.0.chunks_exact(8);
        let square = |&x: &f32| f64::from(x) * f64::from(x);
        let tail: f64 = xs.remainder().iter().map(square).sum();
        for x in xs {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += square(x);
            }
        }
        sums.iter().sum::<f64>() + tail
    }
}
