//! AdamW on one parameter.

use crate::AdamW;

/// Returns the parameter and its moments after one step.
pub fn adamw(config: &AdamW, param: f64, grad: f64, [m, v]: [f64; 2]) -> (f64, [f64; 2]) {
    let [lr, beta1, beta2, eps, decay] = [
        config.learning_rate,
        config.beta1,
        config.beta2,
        config.eps,
        config.weight_decay,
    ]
    .map(f64::from);
    let m = beta1 * m + (1.0 - beta1) * grad;
    let v = beta2 * v + (1.0 - beta2) * grad * grad;
    let steps = config.step_num as f64;
    let corrected_m = m / (1.0 - beta1.powf(steps));
    let corrected_v = v / (1.0 - beta2.powf(steps));
    let decayed = param - lr * decay * param;
    (
        decayed - lr * corrected_m / (corrected_v.sqrt() + eps),
        [m, v],
    )
}
