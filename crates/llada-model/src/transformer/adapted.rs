//! Products of rows and weights that may have a low-rank part, whose inputs have dropout in training:
//! `y = W x + scale B (A dropout(x))`.
//!
//! Routed experts take no part in dropout: rows reach them by way of the router, one to several experts.

use llada_diffusion::Rng;
use llada_diffusion::rng::unit;
use llada_tensor::{
    Gradient, LinearBackward, LowRank, Tensor, Weight, add_assign, linear, map_parallel,
};

/// Rows that one task drops elements of.
const TASK_ROWS: usize = 64;

/// Which elements of its input rows an adapter does not see: a function of the row, the layer and the
/// place in the layer alone. The others are scaled up, so that their expectation stays.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    rate: f32,
    rows: Vec<Rng>,
}

impl Dropout {
    /// Drops elements with probability `rate`, of each of N rows by a generator of its own.
    ///
    /// # Panics
    /// If the rate is not in 0..1.
    pub fn new(rate: f32, rows: Vec<Rng>) -> Self {
        assert!((0.0..1.0).contains(&rate), "dropout of {rate}");
        Self { rate, rows }
    }

    /// Returns that of some of the rows.
    pub(super) fn select(&self, rows: &[u32]) -> Self {
        Self {
            rate: self.rate,
            rows: rows.iter().map(|&row| self.rows[row as usize]).collect(),
        }
    }

    /// Drops elements of `x`; applied to a gradient it is its own backward. # Shapes: x [N, D].
    fn apply(&self, place: u64, mut x: Tensor) -> Tensor {
        let [num_rows, width] = x.dims2();
        assert_eq!(num_rows, self.rows.len(), "rows of a dropout");
        let tasks = x.f32s_mut().chunks_mut(width.max(1) * TASK_ROWS).collect();
        map_parallel(tasks, |task, values: &mut [f32]| {
            let rows = self.rows[task * TASK_ROWS..].iter();
            for (row, values) in rows.zip(values.chunks_exact_mut(width)) {
                self.apply_to_row(row, place, values);
            }
        });
        x
    }

    fn apply_to_row(&self, row: &Rng, place: u64, values: &mut [f32]) {
        let scale = 1.0 / (1.0 - self.rate);
        for (group, values) in (0..).zip(values.chunks_mut(4)) {
            for (value, word) in values.iter_mut().zip(row.at(0, place, group)) {
                *value *= if unit(word) < self.rate { 0.0 } else { scale };
            }
        }
    }
}

/// An input of a layer's products. Products of one input share what is dropped of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Site {
    AttentionInput,
    AttentionOutput,
    MlpInput,
    MlpInner,
}

/// The dropout of one input of one layer; none outside of training.
#[derive(Clone, Copy)]
pub(super) struct Noise<'a> {
    dropout: Option<&'a Dropout>,
    layer: usize,
    site: Site,
}

impl<'a> Noise<'a> {
    pub(super) fn new(dropout: Option<&'a Dropout>, layer: usize, site: Site) -> Self {
        Self {
            dropout,
            layer,
            site,
        }
    }

    /// Returns the dropout of another input of the same layer.
    pub(super) fn at(self, site: Site) -> Self {
        Self { site, ..self }
    }

    /// # Shapes: x [N, I], w [O, I], bias `[O]` -> [N, O].
    pub(super) fn linear(self, x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Tensor {
        let Some((dropout, low_rank)) = self.of(w) else {
            return linear(x, w, bias);
        };
        let mut y = linear(x, &w.base(), bias);
        let seen = dropout.apply(self.place(), x.clone());
        low_rank.add_product(&seen, w.precision(), &mut y);
        y
    }

    /// Begins the backward pass of a product. # Shapes: dy [N, O], w [O, I].
    pub(super) fn backward<'w>(self, dy: &'w Tensor, w: &'w Weight) -> Backward<'a, 'w> {
        Backward {
            noise: self,
            weight: w,
            linear: LinearBackward::new(dy, w),
        }
    }

    /// Returns what is dropped and for which low-rank part, if both are there.
    fn of<'w>(self, w: &'w Weight) -> Option<(&'a Dropout, &'w LowRank)> {
        Some((self.dropout?, w.low_rank()?))
    }

    fn place(self) -> u64 {
        (self.layer as u64) << 2 | self.site as u64
    }
}

/// The backward pass of a product.
pub(super) struct Backward<'a, 'w> {
    noise: Noise<'a>,
    weight: &'w Weight,
    linear: LinearBackward<'w>,
}

impl Backward<'_, '_> {
    /// Returns the gradient of the input, [N, I].
    pub(super) fn input(&self) -> Tensor {
        let Some((dropout, _)) = self.noise.of(self.weight) else {
            return self.linear.input();
        };
        let mut dx = self.linear.base_input();
        let mut dseen = Tensor::zeros(dx.shape());
        self.linear.add_low_rank_input(&mut dseen);
        add_assign(&mut dx, &dropout.apply(self.noise.place(), dseen));
        dx
    }

    /// Adds the gradient of the input to `dx`, [N, I].
    pub(super) fn add_input(&self, dx: &mut Tensor) {
        match self.noise.of(self.weight) {
            None => self.linear.add_input(dx),
            Some(_) => add_assign(dx, &self.input()),
        }
    }

    /// Adds the gradient of the weight. # Shapes: x [N, I].
    pub(super) fn weight(&self, x: &Tensor, grad: &mut Gradient) {
        match self.noise.of(self.weight) {
            None => self.linear.weight(x, grad),
            Some((dropout, _)) => {
                let seen = dropout.apply(self.noise.place(), x.clone());
                self.linear.weight(&seen, grad);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use llada_diffusion::Stream;

    use super::*;

    const RATE: f32 = 0.2;
    const WIDTH: usize = 130;

    fn dropped(rows: &[u32], place: u64) -> Tensor {
        let rng = Rng::new(1, Stream::Dropout);
        let rows: Vec<Rng> = rows.iter().map(|&row| rng.fork(0, 0, row)).collect();
        let ones = vec![1.0; rows.len() * WIDTH];
        let ones = Tensor::from_f32(&[rows.len(), WIDTH], ones);
        Dropout::new(RATE, rows).apply(place, ones)
    }

    #[test]
    fn elements_are_zero_at_the_rate_or_scaled_so_that_the_mean_stays() {
        let rows: Vec<u32> = (0..300).collect();
        let dropped = dropped(&rows, 0);
        let num_zeros = dropped.f32s().iter().filter(|value| **value == 0.0).count();
        let scaled = dropped.f32s().iter().filter(|value| **value == 1.25);
        assert_eq!(num_zeros + scaled.count(), dropped.len());
        let share = num_zeros as f64 / dropped.len() as f64;
        assert!(
            (share - 0.2).abs() < 0.01,
            "five standard deviations: {share}"
        );
    }

    #[test]
    fn what_is_dropped_belongs_to_the_row_and_the_place() {
        let (some, all) = (dropped(&[7, 3], 5), dropped(&[1, 2, 3, 7], 5));
        assert_eq!((some.row(0), some.row(1)), (all.row(3), all.row(2)));
        assert_ne!(some.row(0), some.row(1));
        assert_ne!(some, dropped(&[7, 3], 6));
    }
}
