//! `llada sandbox-exec`, hidden: this program as the launcher of a model-written one.

use std::process::ExitCode;

use llada_eval::sandbox;

use crate::ui;

/// Name of the command, which [`sandbox::Launcher`] needs.
pub(crate) const NAME: &str = "sandbox-exec";

/// Confines this process and becomes the program; returns only if it refuses.
pub(crate) fn run(spec: &str) -> ExitCode {
    let error = sandbox::exec_confined(spec);
    ui::say(sandbox::refusal(&error));
    ExitCode::from(sandbox::REFUSED)
}
