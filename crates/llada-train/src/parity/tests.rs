use super::*;

#[test]
fn every_recorded_loss_and_gradient_is_reproduced() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden");
    let cases = train_parity(&golden).unwrap();
    assert_eq!(cases.len(), 8);
    for (name, parity) in cases {
        // The recorded preference loss is itself 1.2e-5 away from that of f64 arithmetic, which the
        // test below holds ours to.
        let loss_bound = if name == "dpo" { 2e-5 } else { 1e-5 };
        assert!(parity.loss_rel < loss_bound, "{name}: {parity:?}");
        assert!(parity.grad_norm_rel < 1e-4, "{name}: {parity:?}");
        assert!(parity.grad_rel < 1e-4, "{name}: {parity:?}");
    }
}

/// The loss by f64 arithmetic throughout: four sums near 470 nats, of which a margin of 0.3 is left.
const DPO_LOSS_F64: f64 = 0.708_052_310_946_251_1;

#[test]
fn the_preference_loss_is_that_of_double_precision() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden");
    let golden = Golden::open(&golden).unwrap();
    let (loss, _) = golden.gradients("dpo", &golden.cases["dpo"]).unwrap();
    let relative = (loss / DPO_LOSS_F64 - 1.0).abs();
    assert!(relative < 1e-5, "{loss}: {relative}");
}

#[test]
fn a_difference_that_is_not_a_number_is_never_hidden() {
    assert!(worst(f64::NAN, 0.5).is_nan());
    assert!(worst(0.5, f64::NAN).is_nan());
    assert_eq!(ratio(0.0, 0.0), 0.0);
    assert_eq!(ratio(1.0, 0.0), f64::INFINITY);
}
