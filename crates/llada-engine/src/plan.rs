//! A request checked against the model: afterwards nothing in it can be wrong.

use llada_diffusion::{
    Acceptance, BlockSize, DenoiseStep, Edit, FinishReason, LabelAlignment, Policy, Predictor,
    Quota, Sequence, finished,
};
use llada_model::Config;

use crate::{Error, Method, Options, Request, Sampling, Schedule};

/// Stands for MASK where none is shown to the model: no token has this id.
const NO_MASK: u32 = u32::MAX;

/// Settings of a request, all resolved.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) block_size: BlockSize,
    pub(crate) mask_token_id: u32,
    pub(crate) policy: Policy,
    pub(crate) schedule: Schedule,
    pub(crate) stop_ids: Vec<u32>,
    alignment: LabelAlignment,
}

impl Request {
    /// Checks the request against a model before there is an engine. [`Engine::submit`] checks the same, and
    /// that its pages suffice.
    ///
    /// # Errors
    /// If something in it cannot be done.
    ///
    /// [`Engine::submit`]: crate::Engine::submit
    pub fn check(&self, options: &Options, config: &Config) -> Result<(), Error> {
        Plan::new(self, options, config).map(drop)
    }
}

impl Plan {
    pub(crate) fn new(
        request: &Request,
        options: &Options,
        config: &Config,
    ) -> Result<Self, Error> {
        check_common(request, options, config)?;
        let plan = match request.method {
            Method::BlockDiffusion => Self::diffusion(request, options, config)?,
            Method::Autoregression => Self::autoregression(stop_ids(request, options)?),
        };
        if plan.is_shifted() && request.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if matches!(plan.policy.edit, Edit::Revise { .. }) && request.top_logprobs > 0 {
            let expected = "0 where edits insert and delete";
            return Err(field("top_logprobs", request.top_logprobs, expected));
        }
        Ok(plan)
    }

    fn diffusion(request: &Request, options: &Options, config: &Config) -> Result<Self, Error> {
        let plan = Self {
            block_size: block_size(request, options, config)?,
            mask_token_id: options.mask_token_id.ok_or(Error::NoMaskId)?,
            policy: Policy {
                quota: quota(request)?,
                ..request.policy
            },
            schedule: request.schedule,
            stop_ids: stop_ids(request, options)?,
            alignment: options.label_alignment,
        };
        let (edits, window) = (plan.policy.edit != Edit::Off, plan.policy.window);
        if edits && plan.schedule != Schedule::Exact {
            return Err(field("edit", "on", "`off` with the reference schedule"));
        }
        if let (Some(reopen), true) = (plan.policy.reopen, plan.is_shifted()) {
            let expected = "none with shifted labels";
            return Err(field("reopen_blocks", reopen.blocks, expected));
        }
        let is_usual = !plan.is_shifted() && plan.schedule == Schedule::Exact;
        if window.is_approximate() && !is_usual {
            let expected = "1 with shifted labels or the reference schedule";
            return Err(field("buffer_blocks", window.buffer_blocks, expected));
        }
        if let Edit::Revise {
            delete_token_id,
            split_token_id,
            ..
        } = plan.policy.edit
        {
            check_ids("delete_token_id", &[delete_token_id], config)?;
            check_ids("split_token_id", &[split_token_id], config)?;
            // Each of the three is banned at times, and a token must be left.
            let found = config.vocab_size;
            if found <= 3 {
                return Err(llada_diffusion::Error::NoToken { found }.into());
            }
        }
        Ok(plan)
    }

    fn autoregression(stop_ids: Vec<u32>) -> Self {
        Self {
            block_size: BlockSize::ONE,
            mask_token_id: NO_MASK,
            policy: Policy {
                acceptance: Acceptance::Threshold(-1.0), // whatever is proposed
                ..Policy::default()
            },
            schedule: Schedule::Exact,
            stop_ids,
            alignment: LabelAlignment::Shifted,
        }
    }

    /// Returns an error if the text cannot be followed token by token.
    pub(crate) fn check_constrained(&self) -> Result<(), Error> {
        if self.policy.edit != Edit::Off {
            let expected = "`off` for an answer that follows a grammar";
            return Err(field("edit", "on", expected));
        }
        let window = self.policy.window;
        match window.is_approximate() {
            true => Err(field(
                "buffer_blocks",
                window.buffer_blocks,
                "1 for an answer that follows a grammar",
            )),
            false => Ok(()),
        }
    }

    pub(crate) fn is_shifted(&self) -> bool {
        self.alignment == LabelAlignment::Shifted
    }

    pub(crate) fn is_stop(&self, id: u32) -> bool {
        self.stop_ids.contains(&id)
    }

    /// Returns the position of the row that predicts `position`.
    pub(crate) fn predicting_row(&self, position: usize) -> usize {
        let predictor = self.alignment.predictor(position, self.block_size);
        match predictor.expect("position 0 of shifted labels is in the prompt") {
            Predictor::Noisy(row) | Predictor::Clean(row) => row,
        }
    }

    /// Returns why decoding ends after `step`, or `None` if it goes on.
    pub(crate) fn end(&self, sequence: &Sequence, step: &DenoiseStep) -> Option<FinishReason> {
        let is_stop = |id| self.is_stop(id);
        let leaves = match self.schedule {
            Schedule::Exact => true,
            Schedule::Reference { eos_early_stop } => {
                let tokens = sequence.tokens();
                let wrote_stop = || step.written.iter().any(|&i| is_stop(tokens[i]));
                let is_finished =
                    || finished(tokens, sequence.open(), sequence.prompt_len(), is_stop).is_some();
                step.block_done() || (eos_early_stop && wrote_stop() && is_finished())
            }
        };
        step.finish.filter(|_| leaves)
    }
}

/// Checks what block diffusion and autoregression have in common.
fn check_common(request: &Request, options: &Options, config: &Config) -> Result<(), Error> {
    check_ids("prompt", &request.prompt, config)?;
    check_ids("stop_ids", &request.stop_ids, config)?;
    check_ids("eos_token_ids", &options.eos_token_ids, config)?;
    check_ids("mask_token_id", options.mask_token_id.as_slice(), config)?;
    check_mask(request, options, config)?;
    check_length(request, config)?;
    check_sampling(&request.sampling)?;
    if request.top_logprobs > Request::MAX_TOP_LOGPROBS {
        let expected = format!("at most {}", Request::MAX_TOP_LOGPROBS);
        return Err(field("top_logprobs", request.top_logprobs, &expected));
    }
    let bias: Vec<u32> = request
        .sampling
        .logit_bias
        .iter()
        .map(|&(id, _)| id)
        .collect();
    check_ids("logit_bias", &bias, config)
}

fn check_ids(field: &'static str, ids: &[u32], config: &Config) -> Result<(), Error> {
    let vocab_size = config.vocab_size;
    match ids.iter().position(|&id| id as usize >= vocab_size) {
        Some(index) => Err(Error::UnknownId {
            field,
            index,
            id: ids[index],
            vocab_size,
        }),
        None => Ok(()),
    }
}

/// Refuses MASK in the prompt, where it would look like a position still to be filled, and as the
/// only token there is.
fn check_mask(request: &Request, options: &Options, config: &Config) -> Result<(), Error> {
    let Some(mask_token_id) = options.mask_token_id else {
        return Ok(());
    };
    if config.vocab_size == 1 {
        return Err(llada_diffusion::Error::NoToken { found: 1 }.into());
    }
    let mut prompt = request.prompt.iter();
    match prompt.position(|&id| id == mask_token_id) {
        Some(position) => Err(llada_diffusion::Error::MaskInPrompt {
            mask_token_id,
            position,
        }
        .into()),
        None => Ok(()),
    }
}

fn check_length(request: &Request, config: &Config) -> Result<(), Error> {
    let (prompt_len, max_new_tokens) = (request.prompt.len(), request.max_new_tokens);
    if max_new_tokens == 0 {
        return Err(field("max_new_tokens", max_new_tokens, "at least 1"));
    }
    let limit = config.max_position_embeddings;
    if prompt_len.saturating_add(max_new_tokens) > limit {
        return Err(Error::Context {
            prompt_len,
            max_new_tokens,
            limit,
        });
    }
    Ok(())
}

fn check_sampling(sampling: &Sampling) -> Result<(), Error> {
    let in_range = |name, value: f32, is_good: bool, expected| match is_good {
        true => Ok(()),
        false => Err(field(name, value, expected)),
    };
    let Sampling {
        temperature,
        top_p,
        min_p,
        repetition_penalty,
        ..
    } = *sampling;
    let from_zero = temperature >= 0.0 && temperature.is_finite();
    in_range(
        "temperature",
        temperature,
        from_zero,
        "a finite number from 0",
    )?;
    let is_share = top_p > 0.0 && top_p <= 1.0;
    in_range("top_p", top_p, is_share, "a number above 0, at most 1")?;
    let is_share = (0.0..=1.0).contains(&min_p);
    in_range("min_p", min_p, is_share, "a number from 0 to 1")?;
    let is_factor = repetition_penalty > 0.0 && repetition_penalty.is_finite();
    in_range(
        "repetition_penalty",
        repetition_penalty,
        is_factor,
        "a finite number above 0",
    )?;
    let finite = [
        ("presence_penalty", sampling.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty),
    ];
    let biases = sampling
        .logit_bias
        .iter()
        .map(|&(_, bias)| ("logit_bias", bias));
    finite
        .into_iter()
        .chain(biases)
        .try_for_each(|(name, value)| in_range(name, value, value.is_finite(), "a finite number"))
}

fn block_size(request: &Request, options: &Options, config: &Config) -> Result<BlockSize, Error> {
    let size = request
        .block_length
        .or(options.block_size)
        .ok_or(Error::NoBlockLength)?;
    // A block longer than the context would only add rows that no answer can use.
    let limit = config.max_position_embeddings;
    let block_size = match BlockSize::new(size) {
        Ok(block_size) if size <= limit => block_size,
        _ => {
            let expected = format!("1 to {limit}, the model's context");
            return Err(field("block_length", size, &expected));
        }
    };
    match config.block_routing() {
        Some(routing) if routing.block_size != size => {
            let expected = format!("{}, the rows that share experts", routing.block_size);
            Err(field("block_length", size, &expected))
        }
        _ => Ok(block_size),
    }
}

fn quota(request: &Request) -> Result<Quota, Error> {
    match request.policy.quota {
        Quota::MinTransfer(0) => Err(field("min_transfer", 0, "at least 1")),
        Quota::Steps(0) => Err(field("steps", 0, "at least 1")),
        Quota::Steps(steps) if request.schedule != Schedule::Exact => {
            Ok(Quota::Steps(steps.min(request.max_new_tokens)))
        }
        quota => Ok(quota),
    }
}

/// Returns the ids that end the text.
fn stop_ids(request: &Request, options: &Options) -> Result<Vec<u32>, Error> {
    let mut ids = request.stop_ids.clone();
    if !request.ignore_eos {
        ids.extend(&options.eos_token_ids);
        if ids.is_empty() {
            return Err(Error::NoEosId);
        }
    }
    Ok(ids)
}

fn field(field: &'static str, found: impl ToString, expected: &str) -> Error {
    Error::Field {
        field,
        found: found.to_string(),
        expected: expected.to_owned(),
    }
}
