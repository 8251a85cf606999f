//! What the engine relies on in the model's head.

use llada_diffusion::{BlockSize, prefill_ranges, propose};
use llada_model::{Input, Model};
use llada_tensor::Tensor;

use crate::support::{DENSE, GOLDEN, prompt};

const LEN: usize = 40;

/// Returns the hidden states of `ids`, block-causally.
fn run(model: &Model, ids: &[u32]) -> Vec<f32> {
    let rows: Vec<u32> = (0..LEN as u32).collect();
    let input = Input {
        ids,
        positions: &rows,
        ranges: &prefill_ranges(0, LEN, BlockSize::new(8).unwrap()),
        outputs: &rows,
        dropout: None,
    };
    model.forward(&input).f32s().to_vec()
}

#[test]
fn the_head_on_some_rows_is_the_whole_head_even_where_mask_is_the_maximum() {
    for model in [&*GOLDEN, &*DENSE] {
        let width = model.config.hidden_size;
        let hidden = run(model, &prompt(LEN, 9));
        let logits = model.logits(&Tensor::from_f32(&[LEN, width], hidden.clone()));
        for row in (0..LEN).step_by(3) {
            let alone = Tensor::from_f32(&[1, width], hidden[row * width..][..width].to_vec());
            let best = model.head_rows(&alone, None, None)[0].argmax;
            for mask in [best, 511] {
                let head = model.head_rows(&alone, None, Some(mask))[0];
                let (token, confidence) = propose(logits.row(row), &[mask]).unwrap();
                assert_eq!(head.argmax, token);
                assert!(((head.argmax_logit - head.lse).exp() - confidence).abs() < 1e-5);
            }
        }
    }
}
