//! Comparison with recorded forward passes of an independent implementation (`testdata/golden`).

use std::collections::BTreeMap;
use std::path::Path;

use llada_tensor::{KeyRanges, Precision, Tensor};
use safetensors::SafeTensors;

use crate::{Error, Input, KeepDtype, Model, load};

/// Runs every case of `forward.json` with the model beside it, in f32.
///
/// Returns, per case, the largest absolute difference of a logit.
///
/// # Errors
/// If a file is missing or malformed, or a mask row is not one or two ranges of keys.
pub fn forward_parity(golden: &Path) -> Result<BTreeMap<String, f32>, Error> {
    let loaded = load(&golden.join("model"), Precision::F32, KeepDtype::F32)?;
    let model = Model::new(loaded.config, loaded.weights);
    let names = read(&golden.join("forward.json"))?;
    let names: Vec<String> =
        serde_json::from_slice(&names).map_err(|e| malformed(golden, e.to_string()))?;
    let bytes = read(&golden.join("forward.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| malformed(golden, e.to_string()))?;
    let compare = |name: String| {
        let difference = case(&model, &file, &name).map_err(|why| malformed(golden, why))?;
        Ok((name, difference))
    };
    names.into_iter().map(compare).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(Error::io("read", path))
}

fn malformed(golden: &Path, problem: String) -> Error {
    Error::Checkpoint {
        path: golden.into(),
        problem,
    }
}

/// Returns the largest absolute difference of one case.
fn case(model: &Model, file: &SafeTensors<'_>, name: &str) -> Result<f32, String> {
    let tensor = |suffix: &str| {
        let name = format!("{name}.{suffix}");
        file.tensor(&name)
            .map(|view| view.data().to_vec())
            .map_err(|e| format!("{name}: {e}"))
    };
    let (ids, positions) = (words(&tensor("ids")?), words(&tensor("pos")?));
    let mask = tensor("mask")?;
    let ranges = mask
        .chunks(ids.len())
        .map(|row| ranges_of(row).ok_or_else(|| format!("{name}.mask: not two ranges")))
        .collect::<Result<Vec<_>, _>>()?;
    let outputs: Vec<u32> = (0..).take(ids.len()).collect();
    let input = Input {
        ids: &ids,
        positions: &positions,
        ranges: &ranges,
        outputs: &outputs,
        dropout: None,
    };
    let logits = model.logits(&model.forward(&input));
    Ok(max_difference(&logits, &tensor("logits")?))
}

fn max_difference(logits: &Tensor, expected: &[u8]) -> f32 {
    let expected = words(expected).into_iter().map(f32::from_bits);
    let differences = logits
        .f32s()
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs());
    // A NaN anywhere must show, and `f32::max` would drop it.
    differences.fold(
        0.0,
        |worst, d| if d.is_nan() || d > worst { d } else { worst },
    )
}

/// Turns one row of a dense mask into the two ranges it consists of.
fn ranges_of(mask: &[u8]) -> Option<KeyRanges> {
    let mut ends = Vec::new();
    for (index, pair) in (1..).zip(mask.windows(2)) {
        if pair[0] != pair[1] {
            ends.push(index);
        }
    }
    if mask.first() == Some(&1) {
        ends.insert(0, 0);
    }
    if mask.last() == Some(&1) {
        ends.push(mask.len() as u32);
    }
    match ends[..] {
        [a, b] => Some([a, b, b, b]),
        [a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    }
}

/// Reads little-endian 32-bit words.
fn words(bytes: &[u8]) -> Vec<u32> {
    let word = |chunk: &[u8]| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    bytes.chunks_exact(4).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_row_becomes_its_ranges() {
        assert_eq!(ranges_of(&[1, 1, 0, 0]), Some([0, 2, 2, 2]));
        assert_eq!(ranges_of(&[0, 1, 0, 1]), Some([1, 2, 3, 4]));
        assert_eq!(ranges_of(&[1]), Some([0, 1, 1, 1]));
        assert_eq!(ranges_of(&[1, 0, 1, 0, 1]), None);
    }
}
