//! What the commands of `cargo xtask` run.

use anyhow::Result;

use crate::step::{cargo, cargo_doc, is_installed, optional};

/// Seconds of fuzzing in CI: enough to show that the targets run and to find what is easily found.
pub(crate) const FUZZ_SECONDS: &str = "10";

/// Lets the fuzz workspace reuse the dependencies that the main one has built.
const SHARED_TARGET: &str = "--target-dir=target";

/// Runs every test of the workspace, then the examples in its documentation.
pub(crate) fn test() -> Result<()> {
    if is_installed("cargo-nextest") {
        cargo(&["nextest", "run", "--workspace"])?;
    } else {
        cargo(&["test", "--workspace", "--lib", "--bins", "--tests"])?;
    }
    cargo(&["test", "--workspace", "--doc"])
}

/// Runs everything that continuous integration checks, cheapest first.
pub(crate) fn ci() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    optional("typos", &[])?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])?;
    test()?;
    cargo_doc(&["--workspace", "--no-deps", "--document-private-items"])?;
    optional("cargo-deny", &["check", "licenses", "bans", "sources"])?;
    cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])?;
    cargo(&[
        "clippy",
        "--manifest-path",
        "fuzz/Cargo.toml",
        SHARED_TARGET,
        "--",
        "-D",
        "warnings",
    ])?;
    fuzz(FUZZ_SECONDS)
}

/// Runs the fuzz targets, which are a workspace of their own, for so many seconds in all.
pub(crate) fn fuzz(seconds: &str) -> Result<()> {
    let manifest = "fuzz/Cargo.toml";
    cargo(&[
        "run",
        "--manifest-path",
        manifest,
        SHARED_TARGET,
        "--",
        "--seconds",
        seconds,
    ])
}
