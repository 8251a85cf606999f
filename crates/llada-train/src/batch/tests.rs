use llada_diffusion::{Band, MaskDraw, RateScope};
use llada_model::{Activations, Gradients, Model};
use llada_tensor::Tensor;
use proptest::prelude::*;

use super::*;
use crate::data::Span;
use crate::objective::Loss;
use crate::testing::{EOS, MASK, assembly, corpus, drawn, model};

/// Loss and gradients of a batch, in one forward pass per micro-batch.
fn loss_and_gradients(model: &Model, batch: &Batch) -> (f64, Gradients) {
    let mut grads = model.zero_gradients();
    let (sums, _) = Loss::Likelihood.accumulate(model, batch, Activations::Keep, &mut grads);
    (sums.loss, grads)
}

fn assert_close(actual: &(f64, Gradients), expected: &(f64, Gradients)) {
    assert!(
        (actual.0 / expected.0 - 1.0).abs() < 1e-5,
        "{} and {}",
        actual.0,
        expected.0
    );
    for ((name, actual), (_, expected)) in actual.1.tensors().iter().zip(expected.1.tensors()) {
        let largest = |tensor: &Tensor| tensor.f32s().iter().fold(0.0, |m, x| f32::max(m, x.abs()));
        let mut difference: Tensor = (*actual).clone();
        difference
            .f32s_mut()
            .iter_mut()
            .zip(expected.f32s())
            .for_each(|(a, b)| *a -= b);
        let bound = 2e-5 * largest(expected).max(1e-3);
        assert!(
            largest(&difference) <= bound,
            "{name}: {}",
            largest(&difference)
        );
    }
}

fn diffusion(assembly: &mut Assembly) -> &mut Diffusion {
    match &mut assembly.task {
        Task::Diffusion(diffusion) => diffusion,
        Task::Causal { .. } => unreachable!("the test assembly denoises"),
    }
}

fn size(tokens: usize) -> BlockSize {
    BlockSize::new(tokens).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn loss_and_gradients_do_not_depend_on_micro_batches_or_order(
        micro_batch_rows in 1_usize..80,
        order in Just(drawn()).prop_shuffle(),
        block in 1_usize..9,
        shifted in any::<bool>(),
        twins in any::<bool>(),
        which in 0_usize..3,
    ) {
        let alignment = if shifted { LabelAlignment::Shifted } else { LabelAlignment::Same };
        let normalisations =
            [Normalisation::ElboToken, Normalisation::MaskedMean, Normalisation::Sequence];
        let mut whole = assembly(alignment, Elision::On);
        whole.normalisation = normalisations[which];
        diffusion(&mut whole).complementary = twins;
        let split = Assembly { micro_batch_rows, ..whole.clone() };
        let model = model(alignment);
        let expected = whole.batch(&corpus(), drawn(), size(block));
        let actual = split.batch(&corpus(), order, size(block));
        prop_assert_eq!(actual.counts, expected.counts);
        assert_close(&loss_and_gradients(&model, &actual), &loss_and_gradients(&model, &expected));
    }
}

#[test]
fn elision_and_recomputation_change_no_gradient() {
    for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
        for block in [1, 3, 4, 100] {
            let model = model(alignment);
            let batch =
                |elision| assembly(alignment, elision).batch(&corpus(), drawn(), size(block));
            let (elided, full) = (batch(Elision::On), batch(Elision::Off));
            assert!(elided.num_rows() < full.num_rows());
            let expected = loss_and_gradients(&model, &full);
            assert_close(&loss_and_gradients(&model, &elided), &expected);
            let mut grads = model.zero_gradients();
            let recompute = Activations::Recompute;
            let (sums, _) = Loss::Likelihood.accumulate(&model, &elided, recompute, &mut grads);
            assert_close(&(sums.loss, grads), &expected);
        }
    }
}

#[test]
fn a_block_as_long_as_the_document_is_full_sequence_diffusion() {
    let model = model(LabelAlignment::Same);
    let mut whole = assembly(LabelAlignment::Same, Elision::On);
    diffusion(&mut whole).noises[0].scope = RateScope::Document;
    diffusion(&mut whole).fill = None;
    let blocks = whole.batch(&corpus(), drawn(), size(64));
    diffusion(&mut whole).objective = Objective::Mdlm;
    let documents = whole.batch(&corpus(), drawn(), size(2));
    assert!(
        documents.micro_batches[0]
            .rows
            .rows
            .iter()
            .all(|row| !row.clean)
    );
    assert_eq!(
        documents.micro_batches[0].rows,
        blocks.micro_batches[0].rows
    );
    assert_eq!(
        loss_and_gradients(&model, &documents),
        loss_and_gradients(&model, &blocks)
    );
}

#[test]
fn shifted_blocks_of_one_masked_token_are_the_causal_loss() {
    let model = model(LabelAlignment::Shifted);
    let mut denoising = assembly(LabelAlignment::Shifted, Elision::On);
    diffusion(&mut denoising).noises[0] = NoiseSchedule {
        scope: RateScope::Block,
        band: Band::new(1.0, 1.0).unwrap(),
        draw: MaskDraw::Independent,
    };
    diffusion(&mut denoising).fill = None; // the parent is not taught what follows the end
    let mut causal = denoising.clone();
    causal.task = Task::Causal {
        loss_on_prompt: false,
    };
    let [denoising, causal] =
        [denoising, causal].map(|a| a.batch(&corpus(), drawn(), BlockSize::ONE));
    assert_close(
        &loss_and_gradients(&model, &denoising),
        &loss_and_gradients(&model, &causal),
    );
}

#[test]
fn a_prompt_is_never_masked_and_never_scored() {
    let mut assembly = assembly(LabelAlignment::Same, Elision::Off);
    diffusion(&mut assembly).noises[0].band = Band::new(1.0, 1.0).unwrap();
    let answer = vec![Drawn {
        epoch: 0,
        document: 3,
    }];
    let batch = assembly.batch(&corpus(), answer, size(4));
    let rows = &batch.micro_batches[0].rows;
    let prompt = (0..rows.len()).filter(|&row| rows.rows[row].pos < 5);
    assert!(prompt.clone().count() > 0);
    assert!(prompt.clone().all(|row| rows.ids[row] != MASK));
    assert!(rows.loss_rows.iter().all(|row| row.position >= 5));
}

#[test]
fn an_answer_is_filled_with_eos_to_the_end_of_its_block_and_learns_it() {
    let batch = |fill| {
        let mut assembly = assembly(LabelAlignment::Same, Elision::On);
        diffusion(&mut assembly).fill = fill;
        diffusion(&mut assembly).noises[0].band = Band::new(1.0, 1.0).unwrap();
        assembly.batch(
            &corpus(),
            vec![Drawn {
                epoch: 0,
                document: 3,
            }],
            size(4),
        )
    };
    let filled = batch(Some(EOS));
    let targets: Vec<u32> = filled.micro_batches[0]
        .rows
        .loss_rows
        .iter()
        .map(|row| row.target)
        .collect();
    assert_eq!(
        targets,
        [13, 20, 27, 5, 12, EOS, EOS],
        "positions 5 to 11, the text ends at 9"
    );
    assert_eq!(filled.counts.supervised, 7);
    assert_eq!(batch(None).counts.supervised, 5);
}

#[test]
fn twins_score_every_supervised_token_once() {
    let mut assembly = assembly(LabelAlignment::Same, Elision::On);
    diffusion(&mut assembly).complementary = true;
    assembly.normalisation = Normalisation::MaskedMean;
    let batch = assembly.batch(&corpus(), drawn(), size(4));
    assert_eq!(
        batch.counts.masked * 2,
        batch.counts.supervised,
        "each copy counts all tokens"
    );
    let mut scored: Vec<_> = batch.micro_batches[0]
        .rows
        .loss_rows
        .iter()
        .map(|row| (row.doc, row.position))
        .collect();
    scored.sort_unstable();
    let num_scored = scored.len();
    scored.dedup();
    assert_eq!(scored.len(), num_scored);
    assert_eq!(num_scored as u64, batch.counts.masked);
}

#[test]
fn noise_belongs_to_the_document_and_not_to_its_neighbours() {
    let assembly = assembly(LabelAlignment::Same, Elision::On);
    let targets = |drawn: Vec<Drawn>, doc: u32| -> Vec<u32> {
        let batch = assembly.batch(&corpus(), drawn, size(4));
        let rows = batch.micro_batches[0].rows.loss_rows.clone();
        rows.into_iter()
            .filter(|row| row.doc == doc)
            .map(|row| row.position)
            .collect()
    };
    let first = Drawn {
        epoch: 0,
        document: 0,
    };
    let last_of_batch = drawn().into_iter().rev().collect();
    assert_eq!(targets(last_of_batch, 3), targets(vec![first], 0));
    let later = Drawn { epoch: 1, ..first };
    assert_ne!(targets(vec![first], 0), targets(vec![later], 0));
}

#[test]
fn causal_prompts_are_scored_only_on_request() {
    let answer = vec![Drawn {
        epoch: 0,
        document: 3,
    }];
    let num_scored = |loss_on_prompt| {
        let mut assembly = assembly(LabelAlignment::Same, Elision::On);
        assembly.task = Task::Causal { loss_on_prompt };
        let batch = assembly.batch(&corpus(), answer.clone(), BlockSize::ONE);
        assert_eq!(
            batch.counts.masked,
            batch.micro_batches[0].rows.loss_rows.len() as u64
        );
        batch.counts.masked
    };
    assert_eq!(num_scored(false), 5);
    assert_eq!(num_scored(true), 9);
}

#[test]
fn a_batch_in_which_nothing_is_masked_has_no_forward_pass() {
    let mut assembly = assembly(LabelAlignment::Same, Elision::On);
    assembly.normalisation = Normalisation::MaskedMean;
    diffusion(&mut assembly).noises[0].band = Band::new(1e-6, 1e-6).unwrap();
    let batch = assembly.batch(&corpus(), drawn(), size(4));
    assert_eq!(batch.counts.masked, 0);
    assert!(batch.micro_batches.is_empty());
}

/// A document of 22 tokens with answers at 3 to 6, 9 to 11 (the end of a block) and 17 to 21.
fn conversation() -> Document {
    let ids = (0..22).map(|i| (i * 5 + 2) % 29).collect();
    let span = |range| Span {
        range,
        ends_turn: true,
    };
    Document::new(ids, [3..7, 9..12, 17..22].map(span).to_vec())
}

/// The answers of a conversation as documents of their own, each with what came before it.
fn answers(conversation: &Document) -> Vec<Document> {
    let answer = |span: &Span| {
        let ids = conversation.ids[..span.range.end].to_vec();
        Document::answer(ids, span.range.start)
    };
    conversation.spans.iter().map(answer).collect()
}

/// Every turn of one conversation draws the noise of its document, number 0.
fn at_document_0(num_documents: usize) -> Vec<Drawn> {
    let first = Drawn {
        epoch: 0,
        document: 0,
    };
    vec![first; num_documents]
}

#[test]
fn a_conversation_is_the_sum_of_its_answers_after_what_came_before_them() {
    for (alignment, elision, twins, group_blocks) in [
        (LabelAlignment::Same, Elision::On, false, 1),
        (LabelAlignment::Same, Elision::Off, true, 1),
        (LabelAlignment::Shifted, Elision::On, true, 1),
        (LabelAlignment::Shifted, Elision::Off, false, 1),
        (LabelAlignment::Same, Elision::On, true, 2),
        (LabelAlignment::Shifted, Elision::On, false, 3),
    ] {
        let mut assembly = assembly(alignment, elision);
        diffusion(&mut assembly).complementary = twins;
        diffusion(&mut assembly).group_blocks = group_blocks;
        let model = model(alignment);
        let together = assembly.batch(&[conversation()], at_document_0(1), size(4));
        let mut apart = Vec::new();
        let mut counts = Counts::default();
        for answer in answers(&conversation()) {
            let batch = assembly.batch(&[answer], at_document_0(1), size(4));
            counts += batch.counts;
            apart.push(batch);
        }
        assert_eq!(together.counts, counts);
        let mut expected = (0.0, model.zero_gradients());
        for mut batch in apart {
            let share = batch.counts.supervised as f64 / counts.supervised as f64;
            let weights = batch.micro_batches.iter_mut().flat_map(|m| &mut m.weights);
            weights.for_each(|weight| *weight = (f64::from(*weight) * share) as f32);
            let keep = Activations::Keep;
            let (sums, _) = Loss::Likelihood.accumulate(&model, &batch, keep, &mut expected.1);
            expected.0 += sums.loss;
        }
        assert_close(&loss_and_gradients(&model, &together), &expected);
    }
}

#[test]
fn the_turns_of_a_conversation_share_its_clean_rows() {
    let mut assembly = assembly(LabelAlignment::Same, Elision::On);
    diffusion(&mut assembly).noises[0].band = Band::new(1.0, 1.0).unwrap();
    let batch = assembly.batch(&[conversation()], at_document_0(1), size(4));
    let rows = &batch.micro_batches[0].rows;
    let clean = rows.rows.iter().filter(|row| row.clean).count();
    // Blocks 0 and 1; block 2 and a block of EOS; blocks 4 and 5.
    assert_eq!((clean, rows.len()), (20, 20 + 8 + 8 + 8));
    let fillings = rows.loss_rows.iter().filter(|row| row.target == EOS);
    let places: Vec<_> = fillings.map(|row| (row.copy, row.position)).collect();
    assert_eq!(
        places,
        [(0, 7), (1, 12), (1, 13), (1, 14), (1, 15), (2, 22), (2, 23)]
    );
}

#[test]
fn a_whole_conversation_as_one_block_ends_each_turn_with_one_eos() {
    let mut assembly = assembly(LabelAlignment::Same, Elision::On);
    diffusion(&mut assembly).objective = Objective::Mdlm;
    diffusion(&mut assembly).noises[0].band = Band::new(1.0, 1.0).unwrap();
    let batch = assembly.batch(&[conversation()], at_document_0(1), size(4));
    let rows = &batch.micro_batches[0].rows;
    assert!(rows.rows.iter().all(|row| !row.clean));
    assert_eq!(rows.len(), 8 + 13 + 23);
    assert_eq!(batch.counts.supervised, 4 + 3 + 5 + 3);
}

/// Documents of a corpus as if a decoder had written them, each token of a block in another step.
fn recorded() -> Vec<Document> {
    let mut documents = corpus();
    for document in &mut documents {
        document.steps = (0..document.ids.len() as u32).map(|i| i * 3 % 4).collect();
    }
    documents
}

fn jumps(alignment: LabelAlignment, micro_batch_rows: usize) -> Assembly {
    let mut assembly = assembly(alignment, Elision::On);
    let most_steps = std::num::NonZeroU32::new(2).unwrap();
    diffusion(&mut assembly).trajectory = Some(TrajectoryNoise { most_steps });
    Assembly {
        normalisation: Normalisation::MaskedMean,
        micro_batch_rows,
        ..assembly
    }
}

#[test]
fn of_a_recorded_state_the_next_steps_are_learned_and_later_ones_are_mask() {
    let documents = recorded();
    let (mut num_scored, mut num_waiting) = (0, 0);
    for epoch in 0..20 {
        let drawn = (0..documents.len()).map(|document| Drawn { epoch, document });
        let assembly = jumps(LabelAlignment::Same, 1000);
        let batch = assembly.batch(&documents, drawn.collect(), size(4));
        let MicroBatch { rows, weights, .. } = &batch.micro_batches[0];
        let scored: Vec<_> = rows
            .loss_rows
            .iter()
            .map(|row| (row.doc, row.position))
            .collect();
        let step = |doc: u32, position: u32| {
            let turn = &documents[doc as usize].turns(Some(EOS), size(4))[0];
            (turn.steps[position as usize], turn.ids[position as usize])
        };
        for ((row, &id), place) in rows.rows.iter().zip(&rows.ids).zip(0..) {
            let (when, text) = step(row.doc, row.pos);
            let is_scored = scored.contains(&(row.doc, row.pos)) && !row.clean;
            let of_block = rows.rows.iter().zip(&rows.ids).filter(|(other, _)| {
                !other.clean && other.doc == row.doc && other.pos / 4 == row.pos / 4
            });
            let mut of_block = of_block.map(|(other, &id)| (step(other.doc, other.pos).0, id));
            match id {
                MASK if is_scored => {
                    assert_eq!(rows.loss_rows[num_of(&scored, row.doc, row.pos)].row, place);
                    assert!(of_block.all(|(other, id)| id == MASK || other < when));
                }
                MASK => {
                    num_waiting += 1;
                    assert!(!row.clean && of_block.all(|(other, id)| id == MASK || other < when));
                }
                id => assert_eq!(id, text),
            }
        }
        let expected = 1.0 / scored.len() as f32;
        assert!(weights.iter().all(|&weight| weight == expected));
        assert_eq!(batch.counts.masked, scored.len() as u64);
        num_scored += scored.len();
    }
    assert!(
        num_scored > 100 && num_waiting > 100,
        "{num_scored} and {num_waiting}"
    );
}

fn num_of(scored: &[(u32, u32)], doc: u32, position: u32) -> usize {
    let place = scored.iter().position(|&row| row == (doc, position));
    place.expect("the row is scored")
}

#[test]
fn the_loss_of_recorded_states_does_not_depend_on_micro_batches() {
    for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
        let model = model(alignment);
        let batch = |rows| jumps(alignment, rows).batch(&recorded(), drawn(), size(4));
        let (whole, split) = (batch(1000), batch(1));
        assert!(split.micro_batches.len() > 1);
        assert_close(
            &loss_and_gradients(&model, &split),
            &loss_and_gradients(&model, &whole),
        );
    }
}
