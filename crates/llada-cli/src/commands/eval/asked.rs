//! What a run was asked for, so that the results of two runs never mix.

use std::path::{Path, PathBuf};

use anyhow::Context;
use llada_eval::data_files;
use serde_json::{Map, Value, json};

use super::run::Subject;
use crate::args::EvalRunArgs;
use crate::commands::states;

/// Flags that change neither answers nor what is asked.
const FREE_FLAGS: [&str; 3] = ["--concurrency", "--out", "--threads"];

/// Returns the arguments, and the sizes and times of all files that decide an answer.
pub(super) fn asked(
    args: &EvalRunArgs,
    model: &Path,
    baseline: Option<&Path>,
    subjects: &[Subject],
) -> anyhow::Result<Value> {
    let mut paths = vec![model.to_owned()];
    paths.extend(baseline.map(Path::to_owned));
    paths.extend(
        args.tasks
            .iter()
            .filter(|name| name.ends_with(".toml"))
            .map(PathBuf::from),
    );
    for subject in subjects {
        paths.extend(data_files(&subject.task, &subject.data)?);
    }
    let mut files = Map::new();
    for path in paths {
        let found = states::add(&path, &mut files);
        found.with_context(|| format!("cannot look at `{}`", path.display()))?;
    }
    Ok(json!({
        "model": args.model.dir,
        "arguments": arguments(std::env::args().skip(1)),
        "files": files,
    }))
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
