use super::*;
use crate::{Counts, Normalisation, loss_weights};

const SEED: u64 = 11;

fn size(n: usize) -> BlockSize {
    BlockSize::new(n).unwrap()
}

fn schedule(scope: RateScope, lo: f32, hi: f32) -> NoiseSchedule {
    NoiseSchedule::new(scope, Band::new(lo, hi).unwrap())
}

#[test]
fn bands_outside_zero_to_one_are_refused() {
    for (lo, hi) in [
        (0.0, 0.5),
        (0.6, 0.5),
        (0.5, 1.1),
        (-0.1, 0.2),
        (f32::NAN, 0.5),
    ] {
        assert!(
            matches!(Band::new(lo, hi), Err(Error::Band { .. })),
            "{lo} {hi}"
        );
    }
    assert!(Band::new(1.0, 1.0).is_ok());
}

#[test]
fn noise_depends_on_seed_epoch_document_and_nothing_else() {
    let schedule = schedule(RateScope::Block, 0.3, 0.8);
    let draw = |seed, epoch, doc| schedule.corrupt(seed, epoch, doc, &[true; 64], size(8));
    let reference = draw(SEED, 0, 5);
    assert_eq!(reference, draw(SEED, 0, 5));
    for other in [draw(SEED + 1, 0, 5), draw(SEED, 1, 5), draw(SEED, 0, 6)] {
        assert_ne!(reference.masked, other.masked);
        assert_ne!(reference.rates, other.rates);
    }
}

#[test]
fn the_mask_of_a_token_does_not_depend_on_the_tokens_after_it() {
    let schedule = schedule(RateScope::Block, 0.3, 0.8);
    let long = schedule.corrupt(SEED, 0, 1, &[true; 40], size(8));
    let short = schedule.corrupt(SEED, 0, 1, &[true; 21], size(8));
    assert_eq!(long.masked[..21], short.masked);
    assert_eq!(long.rates[..21], short.rates);
}

#[test]
fn rates_are_uniform_in_the_band_in_both_scopes() {
    for scope in [RateScope::Block, RateScope::Document] {
        let schedule = schedule(scope, 0.2, 0.8);
        let mut bins = [0u32; 10];
        for document in 0..5000 {
            for rate in schedule.rates(SEED, 0, document, 4) {
                assert!((0.2..=0.8).contains(&rate));
                bins[(((rate - 0.2) / 0.06) as usize).min(9)] += 1;
            }
        }
        // Standard deviation of a bin: 85 if documents are independent.
        assert!(
            bins.iter().all(|&n| n.abs_diff(2000) < 425),
            "{scope}: {bins:?}"
        );
    }
}

#[test]
fn the_rates_of_a_document_are_spread_evenly() {
    let schedule = schedule(RateScope::Block, 0.001, 1.0);
    for document in 0..200 {
        let mut rates = schedule.rates(SEED, 0, document, 8);
        rates.sort_by(f32::total_cmp);
        let widest = rates
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .fold(0.0, f32::max);
        assert!(
            widest < 0.25,
            "independent draws of 8 would often leave such a gap"
        );
    }
}

#[test]
fn one_rate_per_document_is_shared_by_its_blocks() {
    let corruption =
        schedule(RateScope::Document, 0.1, 0.9).corrupt(SEED, 0, 3, &[true; 20], size(4));
    assert!(
        corruption
            .rates
            .iter()
            .all(|&rate| rate == corruption.rates[0])
    );
    let by_block = schedule(RateScope::Block, 0.1, 0.9).corrupt(SEED, 0, 3, &[true; 20], size(4));
    assert!(
        by_block
            .rates
            .chunks(4)
            .all(|block| block.iter().all(|rate| *rate == block[0]))
    );
    assert_ne!(by_block.rates[0], by_block.rates[4]);
}

#[test]
fn a_fixed_rate_masks_that_share_of_tokens() {
    let schedule = schedule(RateScope::Block, 0.3, 0.3);
    let masked: usize = (0..1000)
        .map(|document| {
            schedule
                .corrupt(SEED, 0, document, &[true; 50], size(8))
                .num_masked()
        })
        .sum();
    // 50,000 draws: standard deviation 102.
    assert!(masked.abs_diff(15_000) < 510, "{masked}");
}

#[test]
fn a_rate_of_one_masks_everything_supervised_and_nothing_else() {
    let supervised: Vec<bool> = (0..32).map(|i| i % 3 != 0).collect();
    for draw in [MaskDraw::Independent, MaskDraw::ExactK] {
        let schedule = NoiseSchedule {
            draw,
            ..schedule(RateScope::Block, 1.0, 1.0)
        };
        assert_eq!(
            schedule.corrupt(SEED, 0, 0, &supervised, size(8)).masked,
            supervised
        );
    }
}

#[test]
fn unsupervised_tokens_are_never_masked() {
    let supervised: Vec<bool> = (0..40).map(|i| i >= 13).collect();
    for (scope, draw) in [
        (RateScope::Block, MaskDraw::Independent),
        (RateScope::Document, MaskDraw::Independent),
        (RateScope::Block, MaskDraw::ExactK),
        (RateScope::Document, MaskDraw::ExactK),
    ] {
        let schedule = NoiseSchedule {
            draw,
            ..schedule(scope, 0.5, 1.0)
        };
        for document in 0..50 {
            let corruption = schedule.corrupt(SEED, 0, document, &supervised, size(8));
            let twin = corruption.complement(&supervised);
            for masked in [corruption.masked, twin.masked] {
                assert!(
                    masked
                        .iter()
                        .zip(&supervised)
                        .all(|(&masked, &sup)| sup || !masked)
                );
            }
        }
    }
}

#[test]
fn twins_partition_the_supervised_tokens_and_weigh_each_once() {
    let supervised: Vec<bool> = (0..30).map(|i| i >= 4).collect();
    for document in 0..50 {
        let schedule = schedule(RateScope::Block, 0.2, 0.8);
        let corruption = schedule.corrupt(SEED, 2, document, &supervised, size(8));
        let twin = corruption.complement(&supervised);
        let weights = [&corruption, &twin]
            .map(|copy| loss_weights(Normalisation::MaskedMean, &supervised, copy));
        let mut counts = Counts::of(&supervised, &corruption);
        counts += Counts::of(&supervised, &twin);
        for (i, &sup) in supervised.iter().enumerate() {
            assert_eq!(weights[0][i] + weights[1][i], f32::from(sup));
            assert_eq!(corruption.rates[i] + twin.rates[i], 1.0);
        }
        assert_eq!(Normalisation::MaskedMean.denominator(&counts), 26);
    }
}

#[test]
fn in_a_symmetric_band_each_twin_masks_half_of_the_time() {
    let schedule = schedule(RateScope::Document, 0.2, 0.8);
    let mut per_token = [0u32; 8];
    for document in 0..20_000 {
        let corruption = schedule.corrupt(SEED, 0, document, &[true; 8], size(8));
        let twin = corruption.complement(&[true; 8]);
        // Which twin comes first is arbitrary: look at the second.
        per_token
            .iter_mut()
            .zip(twin.masked)
            .for_each(|(n, m)| *n += u32::from(m));
    }
    // Standard deviation 71.
    assert!(
        per_token.iter().all(|&n| n.abs_diff(10_000) < 355),
        "{per_token:?}"
    );
}

#[test]
fn exact_k_masks_the_rounded_share_of_each_scope_and_at_least_one() {
    let supervised: Vec<bool> = (0..24).map(|i| i >= 12).collect();
    let exact = NoiseSchedule {
        draw: MaskDraw::ExactK,
        ..schedule(RateScope::Block, 0.05, 0.05)
    };
    let corruption = exact.corrupt(SEED, 0, 0, &supervised, size(8));
    let masked_in = |rows: std::ops::Range<usize>| {
        corruption.masked[rows]
            .iter()
            .filter(|&&masked| masked)
            .count()
    };
    assert_eq!(
        [masked_in(0..8), masked_in(8..16), masked_in(16..24)],
        [0, 1, 1]
    );
    assert_eq!(
        (corruption.rates[12], corruption.rates[16]),
        (1.0 / 4.0, 1.0 / 8.0)
    );
}

#[test]
fn exact_k_masks_every_token_equally_often() {
    let exact = NoiseSchedule {
        draw: MaskDraw::ExactK,
        ..schedule(RateScope::Document, 0.4, 0.4)
    };
    let mut per_token = [0u32; 5];
    for document in 0..10_000 {
        let corruption = exact.corrupt(SEED, 0, document, &[true; 5], size(5));
        assert_eq!(corruption.num_masked(), 2);
        per_token
            .iter_mut()
            .zip(corruption.masked)
            .for_each(|(n, m)| *n += u32::from(m));
    }
    // Standard deviation 49.
    assert!(
        per_token.iter().all(|&n| n.abs_diff(4000) < 245),
        "{per_token:?}"
    );
}
