//! From errors to messages and exit codes.

use std::fmt::Display;
use std::process::ExitCode;

/// An error in what the user gave: arguments, a request, a recipe or a file. Exit code 2.
#[derive(Debug)]
struct Usage(String);

impl Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Marks an error as one of usage.
pub(crate) fn usage(message: impl Display) -> anyhow::Error {
    anyhow::Error::new(Usage(message.to_string()))
}

/// Says where an error is, which stays one of usage if it was.
pub(crate) fn at<T>(place: Option<&str>, result: anyhow::Result<T>) -> anyhow::Result<T> {
    let Some(place) = place else { return result };
    result.map_err(|error| match error.downcast::<Usage>() {
        Ok(error) => usage(format!("{place}: {error}")),
        Err(error) => error.context(place.to_owned()),
    })
}

/// Returns the chain of causes on one line.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // A wrapper often repeats its source.
        if !message.contains(&text) {
            message += if message.is_empty() { "" } else { ": " };
            message += &text;
        }
    }
    format!("error: {message}")
}

/// Prints the error and returns the exit code.
#[expect(
    clippy::print_stderr,
    reason = "the one place where errors reach the user"
)]
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("{}", message(error));
    ExitCode::from(if is_of_input(error) { 2 } else { 1 })
}

/// Returns whether the user can mend what went wrong: arguments, a request, or a file of a model.
fn is_of_input(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || error.chain().any(|cause| {
            use llada_train::Error;
            let model = match cause.downcast_ref::<Error>() {
                Some(Error::NotDiffusion(_) | Error::OtherBlocks(_)) => return true,
                Some(Error::Model(model)) => Some(model), // it words itself as that one
                _ => cause.downcast_ref::<llada_model::Error>(),
            };
            let hub = cause.downcast_ref::<llada_hub::Error>();
            model.is_some_and(llada_model::Error::is_of_input)
                || hub.is_some_and(llada_hub::Error::is_of_input)
        })
}
