//! From settings to a policy. A setting that would have no effect is refused.

use llada_engine::{Acceptance, Edit, Policy, Preset, Quota, Reopen, Schedule, Window};

use crate::error::{Error, Result};
use crate::{AcceptanceArg, EditArg, Settings};

/// Ids of the operations of LLaDA2.2.
#[derive(Clone, Copy, Debug)]
pub struct EditIds {
    /// Deletes a position.
    pub delete: Option<u32>,
    /// Inserts a position.
    pub split: Option<u32>,
}

/// Returns the policy that the settings describe.
pub(crate) fn policy(settings: &Settings, ids: EditIds) -> Result<Policy> {
    let preset = settings.mode.unwrap_or(Preset::Quality2).policy();
    let edit = match settings.edit {
        Some(choice) => edit(choice, ids)?,
        None => preset.edit,
    };
    if edit == Edit::Off {
        let details = [
            (
                "max_post_edit_steps",
                settings.max_post_edit_steps.is_some(),
            ),
            ("penalty_lambda", settings.penalty_lambda.is_some()),
            ("reopen_blocks", settings.reopen_blocks.is_some()),
        ];
        refuse(&details, "needs `edit` to be on")?;
    }
    Ok(Policy {
        acceptance: acceptance(settings, preset.acceptance)?,
        quota: quota(settings)?,
        edit,
        max_post_edit_steps: settings
            .max_post_edit_steps
            .unwrap_or(preset.max_post_edit_steps),
        penalty_lambda: settings.penalty_lambda.unwrap_or(preset.penalty_lambda),
        window: window(settings)?,
        reopen: reopen(settings)?,
    })
}

/// Returns how many of the most probable tokens are told.
pub(crate) fn top_logprobs(settings: &Settings) -> Result<usize> {
    if settings.logprobs != Some(true) {
        let details = [("top_logprobs", settings.top_logprobs.is_some())];
        refuse(&details, "needs `logprobs`")?;
    }
    Ok(settings.top_logprobs.unwrap_or(0))
}

/// Returns how done blocks are edited again.
fn reopen(settings: &Settings) -> Result<Option<Reopen>> {
    let rounds = settings.reopen_rounds;
    match settings.reopen_blocks {
        None => {
            let details = [("reopen_rounds", rounds.is_some())];
            refuse(&details, "needs `reopen_blocks`")?;
            Ok(None)
        }
        Some(blocks) => Ok(Some(Reopen {
            blocks,
            rounds: rounds.unwrap_or(1),
        })),
    }
}

/// Returns the running set of blocks. One that is larger than a block has to say when blocks enter.
fn window(settings: &Settings) -> Result<Window> {
    let Some(buffer_blocks) = settings.buffer_blocks else {
        let details = [
            ("admit_threshold", settings.admit_threshold.is_some()),
            ("semi_complete", settings.semi_complete.is_some()),
        ];
        refuse(&details, "needs `buffer_blocks`")?;
        return Ok(Window::default());
    };
    let Some(admit_threshold) = settings.admit_threshold else {
        return Err(Error::field(
            "buffer_blocks",
            "needs `admit_threshold`, the filled share of a block at which the next one starts: \
             below 1 the text is approximate",
        ));
    };
    Ok(Window {
        buffer_blocks,
        admit_threshold,
        semi_complete: settings
            .semi_complete
            .unwrap_or(Window::default().semi_complete),
    })
}

/// Refuses what only block diffusion knows.
pub(crate) fn refuse_blocks(settings: &Settings) -> Result<()> {
    let details = [
        ("block_length", settings.block_length.is_some()),
        ("mode", settings.mode.is_some()),
        ("edit", settings.edit.is_some()),
        ("acceptance", settings.acceptance.is_some()),
        ("threshold", settings.threshold.is_some()),
        ("steps", settings.steps.is_some()),
        ("min_transfer", settings.min_transfer.is_some()),
        ("reopen_blocks", settings.reopen_blocks.is_some()),
        ("buffer_blocks", settings.buffer_blocks.is_some()),
        ("reference_schedule", settings.reference_schedule.is_some()),
    ];
    refuse(
        &details,
        "has no effect with --ar, nor on any model that writes token by token",
    )
}

fn edit(choice: EditArg, ids: EditIds) -> Result<Edit> {
    match (choice, ids.delete, ids.split) {
        (EditArg::Off, ..) => Ok(Edit::Off),
        (EditArg::Above(above), ..) => Ok(Edit::Above(above)),
        (EditArg::Revise(above), Some(delete_token_id), Some(split_token_id)) => Ok(Edit::Revise {
            above,
            delete_token_id,
            split_token_id,
        }),
        (EditArg::Revise(_), ..) => Err(Error::field(
            "edit",
            "revise needs tokens that delete and insert, which the checkpoint does not say; \
             pass --delete-id and --split-id",
        )),
    }
}

fn acceptance(settings: &Settings, preset: Acceptance) -> Result<Acceptance> {
    let preset = match preset {
        Acceptance::Threshold(threshold)
        | Acceptance::Credit(threshold)
        | Acceptance::Hierarchy { threshold, .. } => threshold,
        Acceptance::Bacd { high, .. } => high,
    };
    let threshold = settings.threshold.unwrap_or(preset);
    let given = [
        ("threshold", settings.threshold.is_some()),
        ("low", settings.low.is_some()),
        ("high", settings.high.is_some()),
    ];
    let [_, low, high] = given;
    let choice = settings.acceptance.unwrap_or_default();
    let reason = "has no effect with this `acceptance`: threshold and credit take `threshold`, \
                  hierarchy `threshold` and `low`, bacd `low` and `high`";
    Ok(match choice {
        AcceptanceArg::Threshold => {
            refuse(&[low, high], reason)?;
            Acceptance::Threshold(threshold)
        }
        AcceptanceArg::Credit => {
            refuse(&[low, high], reason)?;
            Acceptance::Credit(threshold)
        }
        AcceptanceArg::Hierarchy => {
            refuse(&[high], reason)?;
            Acceptance::Hierarchy {
                threshold,
                low: settings.low.unwrap_or(0.4),
            }
        }
        AcceptanceArg::Bacd => {
            refuse(&given[..1], reason)?;
            Acceptance::Bacd {
                low: settings.low.unwrap_or(0.6),
                high: settings.high.unwrap_or(0.9),
            }
        }
    })
}

fn quota(settings: &Settings) -> Result<Quota> {
    match (settings.steps, settings.min_transfer) {
        (Some(_), Some(_)) => Err(Error::field(
            "steps",
            "and `min_transfer` exclude each other; give one",
        )),
        (Some(steps), None) => Ok(Quota::Steps(steps)),
        (None, min_transfer) => Ok(Quota::MinTransfer(min_transfer.unwrap_or(1))),
    }
}

/// Returns when decoding leaves a block.
pub(crate) fn schedule(settings: &Settings) -> Result<Schedule> {
    let eos_early_stop = settings.eos_early_stop == Some(true);
    if settings.reference_schedule == Some(true) {
        return Ok(Schedule::Reference { eos_early_stop });
    }
    refuse(
        &[("eos_early_stop", eos_early_stop)],
        "needs `reference_schedule`",
    )?;
    Ok(Schedule::Exact)
}

/// Refuses the first setting that is given.
fn refuse(settings: &[(&'static str, bool)], reason: &str) -> Result<()> {
    match settings.iter().find(|(_, is_given)| *is_given) {
        Some(&(name, _)) => Err(Error::field(name, reason)),
        None => Ok(()),
    }
}
