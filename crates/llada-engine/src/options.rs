//! What the engine must know of a checkpoint besides its weights.

use llada_diffusion::LabelAlignment;
use llada_model::Config;

/// Facts of a checkpoint that decoding needs. Some checkpoints do not say them; set the fields then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What an open position is shown as. Needed for block diffusion.
    pub mask_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Which row predicts a position.
    pub label_alignment: LabelAlignment,
    /// Block length of requests that name none.
    pub block_size: Option<usize>,
    /// How a finished block enters the cache.
    pub commit: CommitMode,
}

impl Options {
    /// Returns what the configuration says.
    pub fn new(config: &Config) -> Self {
        Self {
            mask_token_id: config.mask_token_id,
            eos_token_ids: config.eos_token_ids.clone(),
            label_alignment: config.label_alignment.unwrap_or_default(),
            block_size: config.block_size,
            commit: CommitMode::default(),
        }
    }
}

/// How the keys and values of clean blocks are computed. The output is the same: rows of the next
/// block see the clean rows, and clean rows see nothing of the next block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitMode {
    /// In the forward that takes the next block's first step, the prompt's blocks likewise.
    #[default]
    Fused,
    /// In a forward of their own.
    Separate,
}
