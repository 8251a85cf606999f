//! What the engine must know besides a model's weights.

use llada_diffusion::LabelAlignment;
use llada_model::{Config, KvStore};
use llada_tensor::Precision;

use crate::Error;

/// Facts of a checkpoint, and how the engine works.
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
    /// What keys and values are rounded to in the cache.
    pub kv_precision: Precision,
    /// How much runs together.
    pub capacity: Capacity,
    /// Work that is left out because it does not change the output.
    pub savings: Savings,
}

impl Options {
    /// Returns what the configuration says, with keys and values in `f32`, the default capacity and all
    /// savings.
    pub fn new(config: &Config) -> Self {
        Self::with_kv_precision(config, Precision::F32)
    }

    /// As [`Options::new`], with keys and values in `kv_precision`, of which the capacity depends.
    pub fn with_kv_precision(config: &Config, kv_precision: Precision) -> Self {
        Self {
            mask_token_id: config.mask_token_id,
            eos_token_ids: config.eos_token_ids.clone(),
            label_alignment: config.label_alignment.unwrap_or_default(),
            block_size: config.block_size,
            kv_precision,
            capacity: Capacity::new(config, kv_precision),
            savings: Savings::default(),
        }
    }
}

/// Bounds on memory and on the work of one forward. Outputs do not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Most requests that run together; the others wait. At least 1.
    pub slots: usize,
    /// Rows of keys and values in a page; best the block size, so that a page is a block.
    pub page_rows: usize,
    /// Pages in all. A request whose text does not fit into them is refused.
    pub pages: usize,
    /// Most rows of prompts in one forward, so that long prompts do not hold up running texts; a
    /// block always goes whole.
    pub prefill_rows: usize,
}

impl Capacity {
    /// Bytes of keys and values that the default has room for, if that is more than one context.
    const DEFAULT_BYTES: usize = 1 << 30;

    /// Returns the rows of all pages.
    ///
    /// # Errors
    /// If a bound lets nothing through, or rows have no number: they are counted in 32 bits.
    pub(crate) fn rows(&self) -> Result<usize, Error> {
        self.check()?;
        let most = u32::MAX as usize / self.page_rows;
        match self.pages <= most {
            true => Ok(self.pages * self.page_rows),
            false => Err(Error::Field {
                field: "pages",
                found: self.pages.to_string(),
                expected: format!("at most {most}"),
            }),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let bounds = [
            ("slots", self.slots),
            ("page_rows", self.page_rows),
            ("pages", self.pages),
        ];
        match bounds.iter().find(|(_, bound)| *bound == 0) {
            Some(&(field, _)) => Err(Error::Field {
                field,
                found: "0".to_owned(),
                expected: "at least 1".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Returns room for 64 requests or a gibibyte, whichever is less, and for one whole context at
    /// least. Memory is taken from the system as pages come into use.
    pub fn new(config: &Config, kv_precision: Precision) -> Self {
        let page_rows = config.block_size.unwrap_or(32).max(1);
        let context = config.max_position_embeddings.next_multiple_of(page_rows);
        let row_bytes = KvStore::bytes_per_row(config, kv_precision);
        let affordable = Self::DEFAULT_BYTES / row_bytes.max(1);
        let slots = 64;
        let rows = affordable.min(slots * context).max(context);
        Self {
            slots,
            page_rows,
            pages: rows.div_ceil(page_rows) + 1,
            prefill_rows: 512,
        }
    }
}

/// Savings that leave every output the same; switched off only to prove that and to measure them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savings {
    /// A finished block enters the cache in the forward of the next block's first step, a prompt in
    /// that of the first.
    pub fused_commit: bool,
    /// Requests share the keys and values of what they have in common.
    pub prefix_cache: bool,
    /// Head and last layer work only for rows that decide a token.
    pub needed_rows: bool,
    /// Plain greedy choices never see whole logits.
    pub fused_head: bool,
}

impl Default for Savings {
    fn default() -> Self {
        Self {
            fused_commit: true,
            prefix_cache: true,
            needed_rows: true,
            fused_head: true,
        }
    }
}
