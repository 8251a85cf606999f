use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::BlockFormat;

/// Relative root mean square error on Gaussian weights, with a margin of 3 % over `gguf.md` 5.
const GAUSSIAN_ERROR: [(BlockFormat, f64); 6] = [
    (BlockFormat::Q4_0, 0.0888),
    (BlockFormat::Q5_0, 0.0441),
    (BlockFormat::Q8_0, 0.0056),
    (BlockFormat::Q4K, 0.0739),
    (BlockFormat::Q5K, 0.0373),
    (BlockFormat::Q6K, 0.0184),
];
/// SHA-256 of the blocks of [`vector`], as ggml 0.25.3 writes them (`gguf.md` 5.4).
const HASHES: [(BlockFormat, &str); 5] = [
    (
        BlockFormat::Q4_0,
        "24f3c72edc8294e55ed08683e2e196ae1198306f1e7e05bc6fc78614951c48ec",
    ),
    (
        BlockFormat::Q8_0,
        "3d2552147d70d7ad55b32ea79ef25b808b65ae731916208c27bc9830d387c39d",
    ),
    (
        BlockFormat::Q4K,
        "292a7bf2ec198049df31bd0a4db48f989136e54a9d8150d0ea1f24fae0cb6cae",
    ),
    (
        BlockFormat::Q5K,
        "ce922684f50860945926520d72d48ad458915eb976593615072f793df9e974fc",
    ),
    (
        BlockFormat::Q6K,
        "5a65c3bce17bad0ec9fc66c9e613bb467bc8b879251284327ccfa576d124aa99",
    ),
];

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The 256 values of `gguf.md` 5.4: blocks of several sizes, of zeros, of one sign, and constant.
fn vector() -> Vec<f32> {
    let value = |i: i32| {
        let v = (((7 * i * i + 37 * i + 11) % 251) - 125) as f32 / 128.0;
        let v = v * 2.0_f32.powi(i / 32 % 4 - 2);
        match i / 32 {
            3 => 0.0,
            5 => v.abs(),
            6 => -v.abs(),
            7 => 0.25,
            _ => v,
        }
    };
    (0..256).map(value).collect()
}

fn quantised(format: BlockFormat, values: &[f32]) -> Vec<u8> {
    let mut blocks = Vec::new();
    format.quantise(values, &mut blocks);
    blocks
}

fn there_and_back(format: BlockFormat, values: &[f32]) -> Vec<f32> {
    let mut back = vec![0.0; values.len()];
    format.dequantise(&quantised(format, values), &mut back);
    back
}

/// Returns the root of summed squares of the error over that of the values.
fn relative_error(values: &[f32], back: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = values.iter().zip(back).map(|(x, y)| square(x - y)).sum();
    (error / values.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

/// Sums of 12 uniform numbers: near enough to a Gaussian, and the same on every machine.
fn gaussian(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..len)
        .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
        .collect()
}

#[test]
fn blocks_are_those_of_the_reference_quantiser() {
    let bytes = quantised(BlockFormat::F32, &vector());
    let expected = "43a7a245bf202f8e48e40d8f99e2040c2281f8c84578b22943d11837a2dab7fe";
    assert_eq!(hash(&bytes), expected, "the test vector itself");
    for (format, expected) in HASHES {
        let found = hash(&quantised(format, &vector()));
        assert_eq!(found, expected, "{}", format.name());
    }
}

#[test]
fn errors_on_gaussian_weights_are_those_of_the_reference() {
    let values = gaussian(1 << 16);
    for (format, bound) in GAUSSIAN_ERROR {
        let error = relative_error(&values, &there_and_back(format, &values));
        assert!(error < bound, "{}: {error} above {bound}", format.name());
        assert!(
            error > 0.9 * bound,
            "{}: bound {bound} is loose for {error}",
            format.name()
        );
    }
}

#[test]
fn an_offset_costs_little_where_values_have_both_signs() {
    let values = gaussian(1 << 12);
    for (with, without) in [
        (BlockFormat::Q4_1, BlockFormat::Q4_0),
        (BlockFormat::Q5_1, BlockFormat::Q5_0),
    ] {
        let [with, without] =
            [with, without].map(|format| relative_error(&values, &there_and_back(format, &values)));
        assert!(with < without, "{with} is not below {without}");
    }
}

#[test]
fn zeros_stay_zeros_in_every_format() {
    let zeros = vec![0.0; 512];
    for format in BlockFormat::ALL {
        assert_eq!(there_and_back(format, &zeros), zeros, "{}", format.name());
    }
}

#[test]
fn a_block_has_the_bytes_that_its_format_says() {
    for format in BlockFormat::ALL {
        let values = vec![1.0; format.block_values()];
        assert_eq!(quantised(format, &values).len(), format.block_bytes());
    }
}

#[test]
fn codes_are_read_by_products_as_they_are_read_here() {
    let values = gaussian(4 * 512);
    for codes in crate::Codes::ALL {
        let format = codes.format();
        assert_eq!(format.codes(), Some(codes));
        let tensor = crate::Tensor::from_codes(codes, [4, 512], &quantised(format, &values));
        assert_eq!(tensor.to_f32().f32s(), there_and_back(format, &values));
    }
}

#[test]
#[should_panic(expected = "33 values in blocks of 32")]
fn values_that_are_no_whole_blocks_are_a_callers_bug() {
    quantised(BlockFormat::Q8_0, &[0.0; 33]);
}

proptest! {
    #[test]
    fn no_value_is_further_off_than_its_blocks_scale(values in prop::collection::vec(-8.0f32..8.0, 256)) {
        let largest = values.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        for (format, levels) in [(BlockFormat::Q4_0, 8.0), (BlockFormat::Q5_0, 16.0), (BlockFormat::Q8_0, 127.0)] {
            let back = there_and_back(format, &values);
            // One level (the largest value of the other sign is cut by one), and the scale's rounding.
            let bound = largest / levels * 1.001 + largest / 1024.0;
            for (x, y) in values.iter().zip(&back) {
                prop_assert!((x - y).abs() <= bound, "{}: {x} became {y}", format.name());
            }
        }
    }
}
