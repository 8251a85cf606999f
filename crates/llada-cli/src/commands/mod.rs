//! One file per command.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod convert;
mod decoding;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod report;
pub(crate) mod sums;
pub(crate) mod trace;
pub(crate) mod train;

use std::path::Path;

use llada_model::{KeepDtype, Model};
use llada_tensor::Precision;

use crate::ui;

/// Loads a checkpoint for decoding or evaluation and prints its warnings.
fn load_model(dir: &Path, precision: Precision) -> anyhow::Result<Model> {
    let loaded = llada_model::load(dir, precision, KeepDtype::AsStored)?;
    for warning in &loaded.warnings {
        ui::say(format!("warning: {warning}"));
    }
    let mut model = Model::new(loaded.config, loaded.weights);
    model.pack();
    Ok(model)
}
