//! Slow, obvious versions of the operations with f64 accumulation: the oracles of every fast kernel.

pub mod matmul;
