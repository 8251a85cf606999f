//! Forward passes against an independent implementation.

use std::path::Path;

use llada_model::{Input, KeepDtype, Model};
use llada_tensor::Precision;

#[test]
fn every_golden_forward_case_agrees_within_5e_5() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden");
    let differences = llada_model::forward_parity(&golden).unwrap();
    assert_eq!(differences.len(), 7);
    for (case, difference) in differences {
        assert!(difference < 5e-5, "{case}: {difference}");
    }
}

#[test]
fn the_real_parent_gives_the_recorded_logits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = root.join("assets/tinystories-656k");
    let loaded = llada_model::load(&dir, Precision::F32, KeepDtype::F32).unwrap();
    let model = Model::new(loaded.config, loaded.weights);
    let file = root.join("testdata/golden/tinystories-656k/forward.safetensors");
    let bytes = std::fs::read(file).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<u32> {
        let data = file.tensor(name).unwrap().data().to_vec();
        data.chunks(4)
            .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
            .collect()
    };
    let ids = words("ids");
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    let ranges: Vec<_> = rows.iter().map(|i| [0, i + 1, 0, 0]).collect();
    let input = Input {
        ids: &ids,
        positions: &rows,
        ranges: &ranges,
        outputs: &rows,
        dropout: None,
    };
    let logits = model.logits(&model.forward(&input));
    for (ours, theirs) in logits.f32s().iter().zip(words("logits")) {
        assert!((ours - f32::from_bits(theirs)).abs() < 5e-5);
    }
}
