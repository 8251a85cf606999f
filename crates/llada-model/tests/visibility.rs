//! What a row's output may depend on (`training.md` section 13, items 2 and 3).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod support;

use llada_diffusion::{
    BlockSize, Elision, Grouping, LabelAlignment, NoisyCopy, NoisyDocument, TrainRows,
};
use llada_model::{Activations, Input, Model};
use llada_tensor::Tensor;

use support::golden_models;

const MASK: u32 = 511;
const LEN: usize = 24;
const BLOCK: usize = 8;

/// Every token chooses its experts, or every block does.
fn models() -> [Model; 2] {
    golden_models(6)
}

fn document() -> Vec<u32> {
    (0..LEN as u32).map(|i| 7 + 13 * i).collect()
}

/// All rows of one document: clean ones first, then noisy ones in which `masked` is hidden.
fn rows(ids: &[u32], masked: &[usize]) -> TrainRows {
    let mask: Vec<bool> = (0..ids.len()).map(|i| masked.contains(&i)).collect();
    let document = NoisyDocument {
        clean_ids: ids,
        copies: &[NoisyCopy { ids, masked: &mask }],
        block_size: BlockSize::new(BLOCK).unwrap(),
        grouping: Grouping::default(),
    };
    let mut rows = TrainRows::new();
    rows.push_diffusion(0, &document, MASK, LabelAlignment::Same, Elision::Off);
    rows
}

/// Logits of every row, [rows, V].
fn logits(model: &Model, rows: &TrainRows) -> Tensor {
    let outputs: Vec<u32> = (0..rows.len() as u32).collect();
    let input = Input {
        ids: &rows.ids,
        positions: &rows.positions,
        ranges: &rows.ranges,
        outputs: &outputs,
        dropout: None,
    };
    model.logits(&model.forward(&input))
}

#[test]
fn noisy_rows_without_noise_give_the_logits_of_the_clean_rows() {
    for model in &models() {
        let rows = rows(&document(), &[]);
        let logits = logits(model, &rows);
        for i in 0..LEN {
            for (clean, noisy) in logits.row(i).iter().zip(logits.row(LEN + i)) {
                assert!(
                    (clean - noisy).abs() < 3e-5,
                    "position {i}: {clean} {noisy}"
                );
            }
        }
    }
}

#[test]
fn a_clean_token_reaches_no_earlier_block_bit_by_bit() {
    for model in &models() {
        let before = logits(model, &rows(&document(), &[1, 9, 17]));
        let mut changed = document();
        changed[2 * BLOCK] = 400;
        let after = logits(model, &rows(&changed, &[1, 9, 17]));
        for row in (0..2 * BLOCK).chain(LEN..LEN + 2 * BLOCK) {
            assert_eq!(before.row(row), after.row(row), "row {row}");
        }
        assert_ne!(before.row(2 * BLOCK + 1), after.row(2 * BLOCK + 1));
    }
}

#[test]
fn a_mask_reaches_only_the_noisy_rows_of_its_block_bit_by_bit() {
    for model in &models() {
        let before = logits(model, &rows(&document(), &[9]));
        let after = logits(model, &rows(&document(), &[9, 12]));
        for row in 0..2 * LEN {
            let is_own = (LEN + BLOCK..LEN + 2 * BLOCK).contains(&row);
            assert_eq!(before.row(row) != after.row(row), is_own, "row {row}");
        }
    }
}

#[test]
fn asking_for_fewer_rows_changes_none_of_them_bit_by_bit() {
    for model in &models() {
        let rows = rows(&document(), &[3, 4, 20]);
        let all = logits(model, &rows);
        let outputs = [0, 5, LEN as u32 + 3, 2 * LEN as u32 - 1];
        let input = Input {
            ids: &rows.ids,
            positions: &rows.positions,
            ranges: &rows.ranges,
            outputs: &outputs,
            dropout: None,
        };
        let some = model.logits(&model.forward(&input));
        for (i, &row) in outputs.iter().enumerate() {
            assert_eq!(some.row(i), all.row(row as usize), "row {row}");
        }
    }
}

/// Gradients of all parameters, given those of some rows of a document.
fn gradients(model: &Model, outputs: &[u32], dhidden: &Tensor, kept: Activations) -> Vec<Tensor> {
    let rows = rows(&document(), &[3, 4, 20]);
    let input = Input {
        ids: &rows.ids,
        positions: &rows.positions,
        ranges: &rows.ranges,
        outputs,
        dropout: None,
    };
    let mut grads = model.zero_gradients();
    let (_, tape) = model.forward_recorded(&input, kept);
    model.backward(&input, tape, dhidden, &mut grads);
    let tensors = grads.tensors().into_iter();
    tensors.map(|(_, grad)| grad.clone()).collect()
}

#[test]
fn gradients_of_some_rows_are_those_of_all_rows_with_zeros_for_the_others() {
    let outputs = [0, 5, LEN as u32 + 3, 2 * LEN as u32 - 1];
    let all: Vec<u32> = (0..2 * LEN as u32).collect();
    for model in &models() {
        let width = model.config.hidden_size;
        let mut dhidden = Tensor::zeros(&[2 * LEN, width]);
        let mut dsome = Tensor::zeros(&[outputs.len(), width]);
        for (i, &row) in outputs.iter().enumerate() {
            for column in 0..width {
                let value = ((7 * i + column) % 5) as f32 - 2.0;
                dhidden.f32s_mut()[row as usize * width + column] = value;
                dsome.f32s_mut()[i * width + column] = value;
            }
        }
        let want = gradients(model, &all, &dhidden, Activations::Keep);
        for kept in [Activations::Keep, Activations::Recompute] {
            let some = gradients(model, &outputs, &dsome, kept);
            for (some, want) in some.iter().zip(&want) {
                let pairs = some.f32s().iter().zip(want.f32s());
                let scale = want.f32s().iter().fold(1e-3_f32, |m, w| m.max(w.abs()));
                for (some, want) in pairs {
                    assert!((some - want).abs() < 1e-5 * scale, "{some} {want}");
                }
            }
        }
    }
}
