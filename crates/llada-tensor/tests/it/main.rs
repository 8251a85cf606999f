//! Every operation at every instruction set of the machine against the reference.

mod attention;
mod data;
mod experts;
mod gemm;
mod gradients;
mod head;
mod low_rank;
mod norm;
mod optim;
mod rope;
mod router;
mod rows;
mod swiglu;
