//! What can be wrong with the numbers a recipe or a request hands to this crate.

/// An invalid setting or input; the message says what was expected, what was found and what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block must hold at least one token.
    #[error("block size is 0; expected at least 1 (1 makes every token its own block)")]
    ZeroBlockSize,
    /// A mask-ratio band is empty or leaves (0, 1].
    #[error("mask-ratio band is {lo} to {hi}; expected 0 < lo <= hi <= 1")]
    Band {
        /// Lower end as given.
        lo: f32,
        /// Upper end as given.
        hi: f32,
    },
    /// A block-size schedule needs at least one stage.
    #[error("block-size schedule is empty; list at least one stage of a block size and its tokens")]
    EmptySchedule,
    /// A stage of a block-size schedule trains on nothing.
    #[error("stage {stage} of the block-size schedule has 0 tokens; give it a budget or remove it")]
    EmptyStage {
        /// Index of the stage, from 0.
        stage: usize,
    },
    /// The token budgets of a schedule do not fit in 64 bits.
    #[error("token budgets of the block-size schedule add up to more than 2^64 - 1; lower them")]
    TokenOverflow,
    /// A learning-rate schedule rises, is negative or is not a number.
    #[error("learning rate goes from {peak} to {min}; expected finite numbers, 0 <= min <= peak")]
    LearningRate {
        /// Rate after the warm-up as given.
        peak: f32,
        /// Rate at the end as given.
        min: f32,
    },
    /// The warm-up is longer than the run.
    #[error("warm-up takes {warmup_steps} of {total_steps} steps; expected at most all of them")]
    Warmup {
        /// Steps of the warm-up.
        warmup_steps: u64,
        /// Steps of the whole run.
        total_steps: u64,
    },
    /// A word in a recipe or a checkpoint is not one of a closed set.
    #[error("unknown {what} `{found}`; expected one of {expected}")]
    UnknownName {
        /// What the word was to name.
        what: &'static str,
        /// The word as given.
        found: String,
        /// The words that are known.
        expected: String,
    },
    /// A prompt holds the MASK id, which would be indistinguishable from a row still to be filled.
    #[error("prompt holds the MASK id {mask_token_id} at position {position}; remove it")]
    MaskInPrompt {
        /// The MASK id of the checkpoint.
        mask_token_id: u32,
        /// First position that holds it.
        position: usize,
    },
    /// A request asks for no tokens.
    #[error("number of new tokens is 0; ask for at least 1")]
    NoNewTokens,
    /// Prompt and answer together do not fit in an address space.
    #[error("prompt of {prompt_len} and {max_new_tokens} new tokens are too long; ask for fewer")]
    TooLong {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Tokens asked for.
        max_new_tokens: usize,
    },
    /// A number of a decoding policy is NaN or infinite.
    #[error("{what} is {found}; expected a finite number")]
    NotFinite {
        /// Which number.
        what: &'static str,
        /// The number as given.
        found: f32,
    },
    /// The bounds of an adaptive threshold leave nothing between them.
    #[error("adaptive threshold is kept within {low} to {high}; expected low <= high")]
    Bounds {
        /// Lower bound as given.
        low: f32,
        /// Upper bound as given.
        high: f32,
    },
    /// A window without blocks would never move on.
    #[error("window has 0 blocks; expected at least 1 (1 decodes block after block)")]
    EmptyWindow,
    /// A block must not change once later ones were conditioned on it.
    #[error("window lets blocks begin early while editing is on; use 1 block, or turn editing off")]
    EditedWindow,
    /// Blocks are re-opened for nothing.
    #[error(
        "{blocks} done blocks are edited again in {rounds} rounds; expected at least 1 of each"
    )]
    EmptyReopen {
        /// Blocks as given.
        blocks: usize,
        /// Rounds as given.
        rounds: usize,
    },
    /// Only tokens that stay where they are can be edited once later blocks exist.
    #[error(
        "done blocks are edited again without a confidence to edit above; set one, or leave them"
    )]
    ReopenWithoutEdit,
    /// Tokens with different meanings share an id.
    #[error("ids of MASK, delete and split are {ids:?}; expected three different ones")]
    SameIds {
        /// The ids as given, in this order.
        ids: [u32; 3],
    },
    /// A model produced NaN or infinity; deciding a token from it would be a guess.
    #[error("logit of token {token} is {value}; expected finite numbers, check the weights")]
    NonFiniteLogit {
        /// Token id of the first such logit.
        token: usize,
        /// Its value.
        value: f32,
    },
    /// There is no wrong token to put in place of a right one.
    #[error(
        "vocabulary has {found} tokens that are not special; expected at least 2 to draw edits from"
    )]
    NoReplacement {
        /// Number of tokens given.
        found: usize,
    },
    /// No token is left to choose from.
    #[error(
        "vocabulary has {found} tokens; expected at least one besides MASK and those that edit"
    )]
    NoToken {
        /// Number of logits given.
        found: usize,
    },
}
