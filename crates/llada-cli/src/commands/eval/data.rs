//! Where the data of tasks lie: in files that the user has, or on the Hub.
//!
//! Files of the Hub become JSON lines, which is what tasks read, once per commit and in the cache.

use std::path::{Path, PathBuf};

use anyhow::Context;
use llada_eval::{Task, replace};
use llada_hub::HubId;
use llada_train::data::read_rows;

use crate::commands::models;
use crate::{failure, ui};

/// Where the rows lie in the cache. Another version takes none of this one's.
const DIR: &str = "data/v1";

/// Returns the data file of a task, or the directory in which it lies: what was given, or else what the
/// task names on the Hub. An id that was given takes the place of the task's.
///
/// Examples of the Hub lie beside the rows, under the name that the task then has for them.
pub(super) fn locate(task: &mut Task, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let named = given.map(|path| models::hub_id(path).ok_or(path));
    if let Some(Err(path)) = named {
        return Ok(path.to_owned());
    }
    let Some(hub) = task.hub.clone() else {
        return Err(unpublished(task, given));
    };
    let id = match named {
        Some(Ok(id)) => id,
        _ => hub.id.parse().map_err(failure::usage)?,
    };
    ui::say(format!(
        "data of `{}`: {id} on the Hub, {}",
        task.name, hub.data
    ));
    let examples = task.shots.as_mut().filter(|shots| shots.count > 0);
    let shots = hub.shots.as_deref().filter(|_| examples.is_some());
    let patterns: Vec<&str> = std::iter::once(hub.data.as_str()).chain(shots).collect();
    let files = rows_of(&id, &patterns).with_context(|| match given {
        Some(path) => format!(
            "`{}` is no file or directory here, nor data to be had by Hub id",
            path.display()
        ),
        None => format!("cannot have the data of task `{}`", task.name),
    })?;
    if let (Some(examples), [_, file]) = (examples, &files[..]) {
        let name = file.file_name().unwrap_or_default();
        examples.files = vec![name.to_string_lossy().into_owned()];
    }
    files.into_iter().next().context("a pattern has a file")
}

fn unpublished(task: &Task, given: Option<&Path>) -> anyhow::Error {
    let (name, files) = (&task.name, task.data.files.join(" or "));
    let needs = format!(
        "task `{name}` names no data set of the Hub, so --data must have its file: {files}"
    );
    failure::usage(match given {
        Some(path) => format!(
            "`{}` is no file or directory here, and {needs}",
            path.display()
        ),
        None => needs,
    })
}

/// Returns a file of JSON lines for each pattern of a data set.
fn rows_of(id: &HubId, patterns: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let (snapshot, found) =
        models::with_bar(id, &mut |hub, watch| hub.dataset(id, patterns, watch))?;
    let name = format!("{}-{}", id.repo().replace('/', "--"), snapshot.commit);
    let dir = ui::cache_dir()?.join(DIR).join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot write `{}`", dir.display()))?;
    let pairs = patterns.iter().zip(&found);
    let prepare = |(pattern, files): (&&str, &Vec<PathBuf>)| {
        let name = pattern.replace('/', "--").replace('*', "_");
        let path = dir.join(name + ".jsonl");
        if !path.exists() {
            write_rows(files, &path)?;
        }
        Ok(path)
    };
    pairs.map(prepare).collect()
}

fn write_rows(files: &[PathBuf], path: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for file in files {
        for row in read_rows(file)? {
            text += &serde_json::to_string(&row)?;
            text.push('\n');
        }
    }
    Ok(replace(path, &text)?)
}
