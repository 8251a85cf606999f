//! Slow, obvious versions of the operations with f64 accumulation: the oracles of every fast kernel.

pub mod attention;
pub mod experts;
pub mod head;
pub mod matmul;
pub mod norm;
pub mod optim;
pub mod rope;
pub mod router;
pub mod swiglu;
