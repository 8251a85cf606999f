use super::*;

#[test]
fn every_recorded_loss_and_gradient_is_reproduced() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden");
    let cases = train_parity(&golden).unwrap();
    assert_eq!(cases.len(), 8);
    for (name, parity) in cases {
        assert!(parity.loss_rel < 1e-5, "{name}: {parity:?}");
        assert!(parity.grad_norm_rel < 1e-4, "{name}: {parity:?}");
        assert!(parity.grad_rel < 1e-4, "{name}: {parity:?}");
    }
}

#[test]
fn a_difference_that_is_not_a_number_is_never_hidden() {
    assert!(worst(f64::NAN, 0.5).is_nan());
    assert!(worst(0.5, f64::NAN).is_nan());
    assert_eq!(ratio(0.0, 0.0), 0.0);
    assert_eq!(ratio(1.0, 0.0), f64::INFINITY);
}
