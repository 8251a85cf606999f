//! The objective is a bound on likelihood: checked on a model small enough to enumerate.
//!
//! The "model" is a joint distribution over texts of 4 binary tokens, with a start token before them
//! where labels are shifted. A row predicts with the exact conditional given the tokens it can see,
//! so any leak through the layout, wrong weight or wrong denominator moves the result off
//! -log p(text).

use llada_diffusion::{
    Band, BlockSize, Counts, Elision, Grouping, LabelAlignment, MaskDraw, NoiseSchedule, NoisyCopy,
    NoisyDocument, Normalisation, RateScope, TrainRows, loss_weights,
};

const MASK: u32 = 9;
const START: u32 = 8;
const LEN: usize = 4;
const TEXT: [u32; LEN] = [1, 0, 1, 1];

/// Unnormalised probabilities of the 16 texts: arbitrary, without independence anywhere.
const JOINT: [f64; 16] = [
    3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0, 3.5, 8.0, 9.5, 7.0, 0.5, 3.0, 2.5, 4.5,
];

fn token(text: usize, i: usize) -> u32 {
    (text >> i & 1) as u32
}

/// Returns the probability of texts that agree with `known`, (index, token) pairs.
fn marginal(known: &[(usize, u32)]) -> f64 {
    let agrees = |&text: &usize| known.iter().all(|&(i, id)| token(text, i) == id);
    (0..16).filter(agrees).map(|text| JOINT[text]).sum::<f64>() / JOINT.iter().sum::<f64>()
}

fn exact_nll() -> f64 {
    -marginal(&TEXT.iter().copied().enumerate().collect::<Vec<_>>()).ln()
}

/// Returns -log p(target | known).
fn nll(known: &[(usize, u32)], target: (usize, u32)) -> f64 {
    let with_target: Vec<_> = known.iter().copied().chain([target]).collect();
    -(marginal(&with_target) / marginal(known)).ln()
}

/// One training setting, with the text preceded by a start token if labels are shifted.
struct Setting {
    noise: NoiseSchedule,
    block_size: BlockSize,
    alignment: LabelAlignment,
}

impl Setting {
    fn new(band: Band, size: usize, alignment: LabelAlignment) -> Self {
        let noise = NoiseSchedule::new(RateScope::Block, band);
        Self {
            noise,
            block_size: BlockSize::new(size).expect("sizes are above 0"),
            alignment,
        }
    }

    /// Returns how many positions precede the text.
    fn offset(&self) -> usize {
        usize::from(self.alignment == LabelAlignment::Shifted)
    }

    /// Returns the weighted loss of one draw, per supervised token.
    fn loss(&self, document: u64) -> f64 {
        let ids = [&[START][..self.offset()], &TEXT].concat();
        let mut supervised = vec![true; ids.len()];
        self.alignment.restrict(&mut supervised);
        let corruption = self
            .noise
            .corrupt(1, 0, document, &supervised, self.block_size);
        let weights = loss_weights(Normalisation::ElboToken, &supervised, &corruption);
        let noisy = NoisyDocument {
            clean_ids: &ids,
            copies: &[NoisyCopy {
                ids: &ids,
                masked: &corruption.masked,
            }],
            block_size: self.block_size,
            grouping: Grouping::default(),
        };
        let mut batch = TrainRows::new();
        batch.push_diffusion(0, &noisy, MASK, self.alignment, Elision::On);
        let scored = batch.loss_rows.iter().map(|loss| {
            let position = loss.position as usize;
            let target = (position - self.offset(), loss.target);
            f64::from(weights[position]) * nll(&self.known(&batch, loss.row as usize), target)
        });
        let counts = Counts::of(&supervised, &corruption);
        scored.sum::<f64>() / Normalisation::ElboToken.denominator(&counts) as f64
    }

    /// Returns the tokens of the text that `row` sees.
    fn known(&self, batch: &TrainRows, row: usize) -> Vec<(usize, u32)> {
        let [a0, a1, b0, b1] = batch.ranges[row];
        let keys = (a0..a1).chain(b0..b1).map(|key| key as usize);
        let tokens = keys.filter(|&key| batch.ids[key] < 2);
        tokens
            .map(|key| {
                (
                    batch.positions[key] as usize - self.offset(),
                    batch.ids[key],
                )
            })
            .collect()
    }

    /// Returns mean and standard error of the loss over many documents.
    fn mean_loss(&self) -> (f64, f64) {
        const DRAWS: u64 = 40_000;
        let losses: Vec<f64> = (0..DRAWS).map(|document| self.loss(document)).collect();
        let mean = losses.iter().sum::<f64>() / DRAWS as f64;
        let variance = losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / DRAWS as f64;
        (mean, (variance / DRAWS as f64).sqrt())
    }
}

/// Returns the expectation of the loss of one block of 4 at a fixed rate, over all 16 masks.
fn enumerated_at(rate: f64) -> f64 {
    let masks = (0..1usize << LEN).map(|mask| {
        let is_masked = |i: usize| mask >> i & 1 == 1;
        let known: Vec<_> = (0..LEN)
            .filter(|&i| !is_masked(i))
            .map(|i| (i, TEXT[i]))
            .collect();
        let probability = rate.powi(mask.count_ones() as i32)
            * (1.0 - rate).powi(LEN as i32 - mask.count_ones() as i32);
        let loss: f64 = (0..LEN)
            .filter(|&i| is_masked(i))
            .map(|i| nll(&known, (i, TEXT[i])))
            .sum();
        probability * loss / rate
    });
    masks.sum::<f64>() / LEN as f64
}

#[test]
fn at_a_fixed_rate_the_mean_loss_is_the_enumerated_one() {
    for rate in [0.25f32, 0.5, 0.9] {
        let band = Band::new(rate, rate).unwrap();
        let (mean, error) = Setting::new(band, LEN, LabelAlignment::Same).mean_loss();
        let expected = enumerated_at(f64::from(rate));
        assert!(
            (mean - expected).abs() < 5.0 * error,
            "rate {rate}: {mean} is not {expected}"
        );
    }
}

#[test]
fn exact_conditionals_make_the_bound_tight_at_every_block_size() {
    for size in [1, 2, 3, LEN] {
        let setting = Setting::new(Band::FULL, size, LabelAlignment::Same);
        let (mean, error) = setting.mean_loss();
        let expected = exact_nll() / LEN as f64;
        // The band's floor of 0.001 leaves out a thousandth of the integral.
        let tolerance = 5.0 * error + 1e-3;
        assert!(
            (mean - expected).abs() < tolerance,
            "size {size}: {mean} is not {expected}"
        );
    }
}

#[test]
fn masking_a_fixed_number_with_its_own_weight_is_unbiased_too() {
    // Two of four tokens: each pair with probability 1/6, weight 4/2.
    let mut setting = Setting::new(Band::new(0.5, 0.5).unwrap(), LEN, LabelAlignment::Same);
    setting.noise.draw = MaskDraw::ExactK;
    let pairs = (0..LEN).flat_map(|i| (0..i).map(move |j| [j, i]));
    let total: f64 = pairs
        .flat_map(|pair| {
            let known: Vec<_> = (0..LEN)
                .filter(|i| !pair.contains(i))
                .map(|i| (i, TEXT[i]))
                .collect();
            pair.map(|i| nll(&known, (i, TEXT[i])))
        })
        .sum();
    let expected = total / 6.0 * 2.0 / LEN as f64;
    let (mean, error) = setting.mean_loss();
    assert!(
        (mean - expected).abs() < 5.0 * error,
        "{mean} is not {expected}"
    );
}

#[test]
fn blocks_of_one_all_masked_give_the_chain_rule_in_one_draw() {
    let band = Band::new(1.0, 1.0).unwrap();
    for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
        let loss = Setting::new(band, 1, alignment).loss(0);
        assert!(
            (loss - exact_nll() / LEN as f64).abs() < 1e-9,
            "{alignment}: {loss}"
        );
    }
}

#[test]
fn shifted_labels_predict_the_start_of_a_block_without_the_rest_of_it() {
    // Blocks [start x0] [x1 x2] [x3]: x1 is predicted from before its block, x2 with x1 masked half
    // of the time.
    let known: Vec<_> = TEXT.iter().copied().enumerate().collect();
    let chain_rule = |i: usize| nll(&known[..i], known[i]);
    let x2 = 0.5 * (chain_rule(2) + nll(&known[..1], known[2]));
    let expected = (chain_rule(0) + chain_rule(1) + x2 + chain_rule(3)) / LEN as f64;
    let setting = Setting::new(Band::FULL, 2, LabelAlignment::Shifted);
    let (mean, error) = setting.mean_loss();
    assert!(
        (mean - expected).abs() < 5.0 * error + 1e-3,
        "{mean} is not {expected}"
    );
}
