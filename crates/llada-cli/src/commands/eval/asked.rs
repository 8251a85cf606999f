//! What a run was asked for, so that the results of two runs never mix.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use llada_eval::{Item, Task, data_files};
use serde_json::{Map, Value, json};

use crate::args::EvalRunArgs;

/// Flags that change neither answers nor what is asked.
const FREE_FLAGS: [&str; 3] = ["--concurrency", "--out", "--threads"];

/// Returns the arguments, and the sizes and times of all files that decide an answer.
pub(super) fn asked(args: &EvalRunArgs, tasks: &[(Task, Vec<Item>)]) -> anyhow::Result<Value> {
    let mut paths = vec![args.model.dir.clone()];
    paths.extend(args.baseline.clone());
    paths.extend(
        args.tasks
            .iter()
            .filter(|name| name.ends_with(".toml"))
            .map(PathBuf::from),
    );
    for (task, _) in tasks {
        paths.extend(data_files(task, &args.data)?);
    }
    let mut files = Map::new();
    for path in paths {
        let found = add(&path, &mut files);
        found.with_context(|| format!("cannot look at `{}`", path.display()))?;
    }
    Ok(json!({
        "model": args.model.dir,
        "arguments": arguments(std::env::args().skip(1)),
        "files": files,
    }))
}

/// Adds a file, or those of a directory; one that is missing is refused where it is read.
fn add(path: &Path, files: &mut Map<String, Value>) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        files.insert(path.display().to_string(), state(&metadata)?);
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let metadata = std::fs::metadata(&path)?;
        if metadata.is_file() {
            files.insert(path.display().to_string(), state(&metadata)?);
        }
    }
    Ok(())
}

/// Size in bytes and time of the last change in nanoseconds: a checkpoint is too large to be hashed.
fn state(metadata: &Metadata) -> io::Result<Value> {
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH);
    let nanoseconds = u64::try_from(changed.unwrap_or_default().as_nanos());
    Ok(json!([metadata.len(), nanoseconds.unwrap_or(u64::MAX)]))
}

/// Returns the arguments that say what is run.
fn arguments(given: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut given = given.filter(|argument| argument != "--json");
    while let Some(argument) = given.next() {
        let is_free =
            |flag: &&&str| argument == ***flag || argument.starts_with(&format!("{flag}="));
        match FREE_FLAGS.iter().find(is_free) {
            Some(flag) if argument == **flag => drop(given.next()), // its value follows
            Some(_) => {}
            None => kept.push(argument),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_change_no_answer_are_not_part_of_a_run() {
        let given = [
            "eval",
            "run",
            "m",
            "--concurrency",
            "4",
            "--out=x",
            "--json",
            "--limit",
            "5",
        ];
        let kept = arguments(given.map(str::to_owned).into_iter());
        assert_eq!(kept, ["eval", "run", "m", "--limit", "5"]);
    }
}
