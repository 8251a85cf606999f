use llada_diffusion::{BlockSize, Elbos, Elision, LabelAlignment, Normalisation};

use super::*;
use crate::batch::Assembly;
use crate::testing::{assembly, corpus, drawn, model};

fn micro_batch(normalisation: Normalisation) -> MicroBatch {
    let assembly = Assembly {
        normalisation,
        ..assembly(LabelAlignment::Same, Elision::On)
    };
    let size = BlockSize::new(4).unwrap();
    let mut batch = assembly.batch(&corpus(), drawn(), size);
    batch.micro_batches.remove(0)
}

#[test]
fn cap_without_weight_is_the_likelihood_loss_bit_by_bit() {
    let (model, batch) = (
        model(LabelAlignment::Same),
        micro_batch(Normalisation::MaskedMean),
    );
    let (mut plain, mut sharpened) = (model.zero_gradients(), model.zero_gradients());
    let sums = weighted_nll(&model, &batch, Activations::Keep, &mut plain);
    let loss = cap(&model, &batch, 0.0, Activations::Keep, &mut sharpened);
    assert_eq!(loss.loss, sums.loss);
    assert_eq!(sharpened, plain);
}

#[test]
fn cap_adds_the_entropy_of_right_guesses_only() {
    let (model, mut batch) = (
        model(LabelAlignment::Same),
        micro_batch(Normalisation::MaskedMean),
    );
    let guesses: Vec<u32> = score(&model, &batch.rows)
        .iter()
        .map(|row| row.argmax)
        .collect();
    batch.rows.loss_rows[0].target = guesses[0]; // at least one right guess
    let mut grads = model.zero_gradients();
    let likelihood = weighted_nll(&model, &batch, Activations::Keep, &mut grads).loss;
    let loss = cap(&model, &batch, 0.5, Activations::Keep, &mut grads);
    assert!(loss.num_correct > 0 && loss.mean_entropy > 0.0);
    assert!((loss.loss - likelihood - 0.5 * loss.mean_entropy).abs() < 1e-12);
    for (row, guess) in batch.rows.loss_rows.iter_mut().zip(guesses) {
        row.target = u32::from(guess == 0); // no right guess at all
    }
    let none = cap(&model, &batch, 0.5, Activations::Keep, &mut grads);
    assert_eq!((none.num_correct, none.mean_entropy), (0, 0.0));
}

#[test]
fn a_policy_equal_to_its_reference_has_no_margin_and_a_pair_can_be_swapped() {
    let model = model(LabelAlignment::Same);
    let (chosen, mut rejected) = (
        micro_batch(Normalisation::ElboToken),
        micro_batch(Normalisation::ElboToken),
    );
    rejected
        .rows
        .loss_rows
        .iter_mut()
        .for_each(|row| row.target = (row.target + 1) % 29);
    let pair = Pair {
        chosen: &chosen,
        rejected: &rejected,
    };
    let swapped = Pair {
        chosen: &rejected,
        rejected: &chosen,
    };
    let reference = Elbos {
        chosen: elbo(&model, &chosen),
        rejected: elbo(&model, &rejected),
    };
    let run = |pair, reference| {
        let mut grads = model.zero_gradients();
        dpo(
            &model,
            pair,
            reference,
            0.1,
            Activations::Recompute,
            &mut grads,
        )
    };
    let loss = run(pair, reference);
    assert_eq!((loss.margin, loss.loss), (0.0, 2f64.ln()));
    let nothing = Elbos {
        chosen: 0.0,
        rejected: 0.0,
    };
    assert_eq!(run(pair, nothing).margin, -run(swapped, nothing).margin);
}
