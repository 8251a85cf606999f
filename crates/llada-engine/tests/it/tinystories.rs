//! A real autoregressive checkpoint: its logits, its greedy story, and the same story from a shifted
//! child with blocks of one.

use std::sync::LazyLock;

use llada_diffusion::causal_ranges;
use llada_engine::{
    Engine, FinishReason, Forwards, LabelAlignment, Method, Options, Request, Savings, reference,
};
use llada_model::{Input, Model};
use serde_json::Value;

use crate::support::{ids, load_model, read_json, root};

static MODEL: LazyLock<Model> = LazyLock::new(|| load_model("assets/tinystories-656k"));

fn expected() -> Value {
    read_json("testdata/golden/tinystories-656k/expected.json")
}

/// The prompt, and the greedy continuation that the golden file has after it.
fn story() -> (Vec<u32>, Vec<u32>) {
    let expected = expected();
    let prompt = ids(&expected["prompt_ids"]);
    let greedy = ids(&expected["greedy_ids"]);
    let continuation = greedy.strip_prefix(&prompt[..]).unwrap().to_vec();
    (prompt, continuation)
}

#[test]
fn logits_of_the_prompt_are_the_golden_ones() {
    let bytes = std::fs::read(root().join("testdata/golden/tinystories-656k/forward.safetensors"));
    let bytes = bytes.unwrap();
    let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let golden = golden.tensor("logits").unwrap();
    let (prompt, _) = story();
    let rows: Vec<u32> = (0..prompt.len() as u32).collect();
    let ranges = causal_ranges(prompt.len());
    let input = Input {
        ids: &prompt,
        positions: &rows,
        ranges: &ranges,
        outputs: &rows,
        dropout: None,
    };
    let logits = MODEL.logits(&MODEL.forward(&input));
    assert_eq!(golden.shape(), logits.shape());
    for (bytes, z) in golden.data().chunks_exact(4).zip(logits.f32s()) {
        let expected = f32::from_le_bytes(bytes.try_into().unwrap());
        assert!((z - expected).abs() < 5e-5, "{z} for {expected}");
    }
}

#[test]
fn greedy_autoregression_writes_the_golden_story() {
    let (prompt, continuation) = story();
    let mut streamed = Vec::new();
    let request = Request {
        method: Method::Autoregression,
        ..Request::new(prompt, 400)
    };
    let answer = Engine::new(&MODEL, Options::new(&MODEL.config))
        .unwrap()
        .generate(&request, &mut |ids| streamed.extend_from_slice(ids))
        .unwrap();
    assert_eq!(answer.output_ids, continuation);
    assert_eq!(streamed, continuation);
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    let denoise = continuation.len();
    assert_eq!(
        answer.forwards,
        Forwards {
            prefill: 1,
            denoise,
            commit: 0
        }
    );
}

#[test]
fn a_shifted_child_with_blocks_of_one_is_its_parent() {
    let (prompt, continuation) = story();
    for fused_commit in [true, false] {
        let options = Options {
            mask_token_id: Some(2047),
            label_alignment: LabelAlignment::Shifted,
            block_size: Some(1),
            savings: Savings {
                fused_commit,
                ..Savings::default()
            },
            ..Options::new(&MODEL.config)
        };
        let request = Request {
            trace: true,
            ..Request::new(prompt.clone(), 400)
        };
        let answer = Engine::new(&MODEL, options.clone())
            .unwrap()
            .generate(&request, &mut |_| {})
            .unwrap();
        assert_eq!(answer.output_ids, continuation);
        // The rows of MASK predict nothing and are never run: the parent's cost, too.
        let denoise = continuation.len();
        assert_eq!(
            answer.forwards,
            Forwards {
                prefill: 1,
                denoise,
                commit: 0
            }
        );
        let oracle = reference::generate(&MODEL, &options, &request).unwrap();
        assert_eq!(
            (oracle.output_ids, oracle.trace),
            (answer.output_ids, answer.trace)
        );
    }
}
