//! The sandboxed child of this crate's tests: confines itself, then becomes the program.

use std::process::ExitCode;

#[expect(
    clippy::print_stderr,
    reason = "a program's standard error is where a reader looks"
)]
fn main() -> ExitCode {
    let spec = std::env::args().nth(1).unwrap_or_default();
    let error = llada_eval::sandbox::exec_confined(&spec);
    eprintln!("{}", llada_eval::sandbox::refusal(&error));
    ExitCode::from(llada_eval::sandbox::REFUSED)
}
