use llada_diffusion::{BlockSize, Elision, LabelAlignment, MaskDraw, Normalisation};
use llada_model::Weights;
use llada_tensor::Precision;

use super::*;
use crate::batch::{Assembly, EditWeights, Task};
use crate::data::{Document, Drawn, Unit};
use crate::mask_noise::MaskNoise;
use crate::optimizer::gradient_norm;
use crate::testing::{self, assembly, corpus, drawn, model};

mod block_routing;

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
    let loss = cap(&model, &[batch], 0.0, Activations::Keep, &mut sharpened);
    assert_eq!(loss.loss, sums.loss);
    assert_eq!(sharpened, plain);
}

#[test]
fn cap_adds_the_entropy_of_right_guesses_only() {
    let (model, mut batch) = (
        model(LabelAlignment::Same),
        micro_batch(Normalisation::MaskedMean),
    );
    let guesses: Vec<u32> = score(&model, &batch).iter().map(|row| row.argmax).collect();
    batch.rows.loss_rows[0].target = guesses[0]; // at least one right guess
    let mut grads = model.zero_gradients();
    let likelihood = weighted_nll(&model, &batch, Activations::Keep, &mut grads).loss;
    let loss = cap(
        &model,
        std::slice::from_ref(&batch),
        0.5,
        Activations::Keep,
        &mut grads,
    );
    assert!(loss.num_correct > 0 && loss.mean_entropy > 0.0);
    assert!((loss.loss - likelihood - 0.5 * loss.mean_entropy).abs() < 1e-12);
    for (row, guess) in batch.rows.loss_rows.iter_mut().zip(guesses) {
        row.target = u32::from(guess == 0); // no right guess at all
    }
    let none = cap(&model, &[batch], 0.5, Activations::Keep, &mut grads);
    assert_eq!((none.num_correct, none.mean_entropy), (0, 0.0));
}

#[test]
fn the_entropy_of_a_batch_does_not_depend_on_its_micro_batches() {
    let model = model(LabelAlignment::Same);
    let mut grads = [model.zero_gradients(), model.zero_gradients()];
    let losses = [1000, 1].map(|micro_batch_rows| {
        let assembly = Assembly {
            micro_batch_rows,
            ..assembly(LabelAlignment::Same, Elision::On)
        };
        let mut batch = assembly.batch(&corpus(), drawn(), BlockSize::new(4).unwrap());
        for micro_batch in &mut batch.micro_batches {
            let guesses = score(&model, micro_batch);
            let rows = micro_batch.rows.loss_rows.iter_mut().zip(&guesses);
            let rows = rows.filter(|(row, _)| row.position.is_multiple_of(2));
            rows.for_each(|(row, guess)| row.target = guess.argmax);
        }
        assert_eq!(batch.micro_batches.len() > 1, micro_batch_rows == 1);
        let grads = &mut grads[usize::from(micro_batch_rows == 1)];
        cap(&model, &batch.micro_batches, 0.7, Activations::Keep, grads)
    });
    assert_eq!(losses[0].num_correct, losses[1].num_correct);
    assert!((losses[0].loss - losses[1].loss).abs() < 1e-6 * losses[0].loss);
    let [whole, parts] = grads;
    for ((name, whole), (_, parts)) in whole.tensors().iter().zip(parts.tensors()) {
        let pairs = whole.f32s().iter().zip(parts.f32s());
        let worst = pairs.fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(worst < 1e-5, "{name}: {worst}");
    }
}

/// Pairs of answers that share a prompt.
fn pairs() -> Vec<Document> {
    let answer = |ids: &[u32]| Document::answer(ids.to_vec(), 2);
    vec![
        answer(&[1, 2, 3, 4, 5]),
        answer(&[1, 2, 9, 8, 7, 6, 5, 4]),
        answer(&[7, 7, 1, 2, 3, 1]),
        answer(&[7, 7, 4]),
    ]
}

fn pair_batch(documents: &[Document], micro_batch_rows: usize) -> Batch {
    let mut assembly = Assembly {
        unit: Unit::Pair,
        micro_batch_rows,
        ..assembly(LabelAlignment::Same, Elision::On)
    };
    if let Task::Diffusion(diffusion) = &mut assembly.task {
        diffusion.noises[0].draw = MaskDraw::ExactK;
        diffusion.noises = vec![diffusion.noises[0]; 3];
    }
    let pair = |document| Drawn { epoch: 0, document };
    let drawn = (0..documents.len() / 2).map(pair).collect();
    assembly.batch(documents, drawn, BlockSize::new(4).unwrap())
}

fn preference(seed: u64) -> Preference {
    let config = testing::config(LabelAlignment::Same);
    let weights = Weights::random(&config, seed, Precision::F32);
    Preference {
        reference: Reference::Model(Model::new(config, weights).into()),
        beta: 0.1,
    }
}

#[test]
fn a_policy_equal_to_its_reference_has_no_margin() {
    let model = model(LabelAlignment::Same);
    let batch = pair_batch(&pairs(), 1000);
    let sums = preference(1).measure(&model, &batch.micro_batches[0], &[]);
    assert_eq!((sums.margin, sums.num_pairs), (0.0, 2));
    assert!((sums.loss - 2.0 * 2f64.ln()).abs() < 1e-12);
}

#[test]
fn swapping_the_answers_flips_the_margin() {
    let model = model(LabelAlignment::Same);
    let [chosen, rejected, ..] = &pairs()[..] else {
        panic!("two answers")
    };
    let margin = |documents: &[Document]| {
        let batch = pair_batch(documents, 1000);
        preference(2)
            .measure(&model, &batch.micro_batches[0], &[])
            .margin
    };
    let (margin, swapped) = (
        margin(&[chosen.clone(), rejected.clone()]),
        margin(&[rejected.clone(), chosen.clone()]),
    );
    assert!(margin != 0.0 && (margin + swapped).abs() < 1e-9 * margin.abs());
}

#[test]
fn both_answers_of_a_pair_get_the_same_masks() {
    let batch = pair_batch(&pairs()[..2], 1000);
    let masked = |doc| {
        let rows = batch.micro_batches[0].rows.loss_rows.iter();
        let in_first_block = rows.filter(move |row| row.doc == doc && row.position < 4);
        in_first_block
            .map(|row| (row.copy, row.position))
            .collect::<Vec<_>>()
    };
    assert_eq!(masked(0), masked(1));
    assert!(masked(0).iter().any(|&(copy, _)| copy == 2), "three draws");
}

#[test]
fn a_preference_loss_does_not_depend_on_micro_batches_and_its_slope_is_the_gradient() {
    let mut model = model(LabelAlignment::Same);
    let loss = Loss::Dpo(preference(2));
    let keep = Activations::Keep;
    let (whole, parts) = (pair_batch(&pairs(), 1000), pair_batch(&pairs(), 1));
    assert_eq!(
        (whole.micro_batches.len(), parts.micro_batches.len()),
        (1, 2)
    );
    let mut grads = model.zero_gradients();
    let (sums, _) = loss.accumulate(&model, &whole, keep, &mut grads);
    let mut others = model.zero_gradients();
    let (split, measures) = loss.accumulate(&model, &parts, keep, &mut others);
    assert!((sums.loss - split.loss).abs() < 1e-9, "{sums:?} {split:?}");
    assert_eq!(measures["dpo_loss"], split.loss);
    // A step against the gradient lowers the loss by its squared norm times the step.
    let norm = gradient_norm(&grads);
    let step = (1e-3 / norm) as f32;
    let trained = model.weights.trained_mut(&grads).into_iter();
    for (weight, (_, grad)) in trained.zip(grads.tensors()) {
        let entries = weight.f32s_mut().iter_mut().zip(grad.f32s());
        entries.for_each(|(w, g)| *w -= step * g);
    }
    let (after, _) = loss.accumulate(&model, &whole, keep, &mut others);
    let (fell, expected) = (sums.loss - after.loss, f64::from(step) * norm * norm);
    assert!(
        (fell / expected - 1.0).abs() < 0.02,
        "{fell} for {expected}"
    );
}

#[test]
fn noise_on_mask_and_the_router_loss_are_the_same_in_every_loss() {
    let config = testing::moe_config(LabelAlignment::Same);
    let weights = Weights::random(&config, 1, Precision::F32);
    let model = Model::new(config, weights);
    let assembly = Assembly {
        micro_batch_rows: 1,
        ..assembly(LabelAlignment::Same, Elision::On)
    };
    let mut batch = assembly.batch(&corpus(), drawn(), BlockSize::new(4).unwrap());
    let run = |loss: Loss, batch: &Batch| {
        let mut grads = model.zero_gradients();
        let (sums, _) = loss.accumulate(&model, batch, Activations::Keep, &mut grads);
        (sums, grads)
    };
    let plain = run(Loss::Likelihood, &batch);
    batch.set_mask_noise(MaskNoise::at(&model, 0, 4, 3, &batch.drawn).as_ref());
    batch.set_router_z_loss(0.1);
    let expected = run(Loss::Likelihood, &batch);
    assert!(expected.0.loss != plain.0.loss, "the noise is in the input");
    assert!(!expected.0.routers.0.is_empty());
    let on_policy = OnPolicy {
        share: 0.0,
        seed: 1,
    };
    assert!(run(Loss::Cap { lambda: 0.0 }, &batch) == expected);
    assert!(run(Loss::OnPolicy(on_policy), &batch) == expected);
    let edit = Loss::Edit(Turns {
        operations: None,
        num: 1,
        threshold: 0.5,
        weights: EditWeights {
            wrong: 1.0,
            right: 1.0,
        },
    });
    let (sums, grads) = run(edit, &batch);
    assert!(sums.routers == expected.0.routers && grads == expected.1);
}
