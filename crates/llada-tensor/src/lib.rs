//! Arrays on a device and the operations on them, each forward beside its backward.
//!
//! The crate knows no model: it offers [`Tensor`] (a contiguous array), [`Weight`] (a parameter that
//! can also hold a layout packed for matrix products) and coarse operations, each large enough to be
//! one launch on an accelerator. Activations are `f32`; matrix products may round their operands to
//! bf16 ([`Precision`]) but always accumulate in `f32`.
//!
//! Dimension letters: N rows (tokens) · M keys · D hidden · H query heads · G key-value heads ·
//! P head dim · V vocabulary · E experts · A active experts per token · F ffn · R rotary dims, or the
//! rank of a low-rank part.
//!
//! Results never depend on the number of threads, nor a row's result on the other rows of the batch:
//! every output element is one chain of additions in a fixed order. Shapes are checked once, at the
//! operation; a mismatch is a caller's bug and panics with both shapes.

mod arena;
mod attention;
mod buffer;
mod embedding;
mod experts;
mod gemm;
mod gradient;
mod head;
mod isa;
mod linear;
mod low_rank;
mod mmap;
mod norm;
mod optim;
mod paging;
mod parallel;
mod probe;
mod quant;
pub mod reference;
mod rope;
mod router;
mod rows;
mod simd;
mod swiglu;
mod tensor;
mod weight;

pub use attention::{
    Attended, Heads, KeyRanges, KeyValues, RowGroup, attention, attention_backward, attention_paged,
};
pub use embedding::{embed, embed_backward};
pub use experts::{ExpertGrads, ExpertWeights, ExpertsSaved, experts, experts_backward};
pub use gemm::{Codes, Precision};
pub use gradient::Gradient;
pub use head::{HeadRow, head_backward, head_rows, head_rows_and_backward};
pub use isa::{Isa, with_isa};
pub use linear::{LinearBackward, bias_backward, linear};
pub use low_rank::LowRank;
pub use mmap::{MappedFile, map_file};
pub use norm::{rms_norm, rms_norm_backward};
pub use optim::{AdamW, adamw_step, sum_of_squares};
pub use paging::PageFile;
pub use parallel::{join, keep_awake, map_parallel, num_threads};
pub use probe::{integer_rate, product_rate, read_rate};
pub use quant::BlockFormat;
pub use rope::{Rotation, rope, rope_backward};
pub use router::{RouterConfig, Routing, route, route_backward, route_blocks};
pub use rows::{
    add_assign, gather_rows, join_columns, scatter_add_rows, split_columns, stack_rows,
};
pub use swiglu::{SwigluGrads, swiglu, swiglu_backward};
pub use tensor::{DType, Tensor};
pub use weight::Weight;
