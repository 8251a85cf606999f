//! What the engine relies on in the model: rows that see the same keys come out the same, however
//! they are batched and cached.

use llada_diffusion::{BlockSize, prefill_ranges, propose};
use llada_model::{Input, KvCache, Model};
use llada_tensor::Tensor;

use crate::support::{DENSE, GOLDEN, prompt};

const LEN: usize = 40;

/// Runs `ids` block-causally over a cache, in chunks that end at `ends`; all hidden states in order.
fn run(model: &Model, ids: &[u32], ends: &[usize]) -> Vec<f32> {
    let mut cache = KvCache::new(&model.config);
    let mut hidden = Vec::new();
    for &end in ends {
        let start = cache.len();
        let positions: Vec<u32> = (start as u32..end as u32).collect();
        let outputs: Vec<u32> = (0..(end - start) as u32).collect();
        let input = Input {
            ids: &ids[start..end],
            positions: &positions,
            ranges: &prefill_ranges(start, end - start, BlockSize::new(8).unwrap()),
            outputs: &outputs,
        };
        hidden.extend_from_slice(model.forward(&input, Some(&mut cache)).f32s());
        cache.advance(end - start);
    }
    hidden
}

fn assert_close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let worst = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-5, "{worst}");
}

#[test]
fn one_pass_chunked_and_blockwise_prefill_agree_with_no_cache() {
    for model in [&*GOLDEN, &*DENSE] {
        let ids = prompt(LEN, 7);
        let rows: Vec<u32> = (0..LEN as u32).collect();
        let ranges = prefill_ranges(0, LEN, BlockSize::new(8).unwrap());
        let input = Input {
            ids: &ids,
            positions: &rows,
            ranges: &ranges,
            outputs: &rows,
        };
        let uncached = model.forward(&input, None);
        for ends in [&[40][..], &[16, 40], &[8, 16, 24, 32, 40]] {
            assert_close(&run(model, &ids, ends), uncached.f32s());
        }
    }
}

#[test]
fn a_later_block_does_not_change_an_earlier_one() {
    let ids = prompt(LEN, 7);
    let mut changed = ids.clone();
    changed[32..]
        .iter_mut()
        .for_each(|id| *id = (*id + 1) % 500);
    let width = GOLDEN.config.hidden_size;
    let [before, after] = [ids, changed].map(|ids| run(&GOLDEN, &ids, &[LEN]));
    assert_eq!(before[..32 * width], after[..32 * width]);
    assert_ne!(before[32 * width..], after[32 * width..]);
}

#[test]
fn the_head_on_some_rows_is_the_whole_head_even_where_mask_is_the_maximum() {
    for model in [&*GOLDEN, &*DENSE] {
        let width = model.config.hidden_size;
        let hidden = run(model, &prompt(LEN, 9), &[LEN]);
        let logits = model.logits(&Tensor::from_f32(&[LEN, width], hidden.clone()));
        for row in (0..LEN).step_by(3) {
            let alone = Tensor::from_f32(&[1, width], hidden[row * width..][..width].to_vec());
            let best = model.head_rows(&alone, None, None)[0].argmax;
            for mask in [best, 511] {
                let head = model.head_rows(&alone, None, Some(mask))[0];
                let (token, confidence) = propose(logits.row(row), mask).unwrap();
                assert_eq!(head.argmax, token);
                assert!(((head.argmax_logit - head.lse).exp() - confidence).abs() < 1e-5);
            }
        }
    }
}
