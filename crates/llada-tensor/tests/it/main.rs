//! Every operation at every instruction set of the machine against the reference.

mod data;
mod gemm;
