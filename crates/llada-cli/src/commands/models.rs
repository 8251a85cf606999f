//! Models as people name them: a directory, a GGUF file, or an id of the Hub.

use std::path::{Path, PathBuf};

use anyhow::Context;
use llada_hub::{Action, Hub, HubId, Part, Progress, Snapshot};

use crate::ui;

/// Returns where a model lies; one that is named by its Hub id is fetched if the cache lacks a part.
pub(super) fn whole(given: &Path) -> anyhow::Result<PathBuf> {
    locate(given, Part::Whole)
}

/// Returns where the configuration and the tokenizer of a model lie, likewise.
pub(super) fn texts(given: &Path) -> anyhow::Result<PathBuf> {
    locate(given, Part::Texts)
}

fn locate(given: &Path, part: Part) -> anyhow::Result<PathBuf> {
    match hub_id(given) {
        Some(id) => Ok(fetch(&id, part)?.dir),
        None => Ok(given.to_owned()),
    }
}

/// Reads a name as a Hub id, unless there is such a path.
pub(super) fn hub_id(given: &Path) -> Option<HubId> {
    match given.exists() {
        true => None,
        false => given.to_str()?.parse().ok(),
    }
}

/// Returns a model of the Hub.
pub(super) fn fetch(id: &HubId, part: Part) -> anyhow::Result<Snapshot> {
    let model = with_bar(id, &mut |hub, watch| hub.model(id, part, watch));
    model.with_context(|| {
        format!("`{id}` is no directory or file here, and cannot be had as a Hub id")
    })
}

/// What a download is told.
type Watch<'a> = dyn FnMut(Progress<'_>) + 'a;

/// Runs a download with a bar of its bytes.
pub(super) fn with_bar<T>(
    id: &HubId,
    download: &mut dyn FnMut(&Hub, &mut Watch<'_>) -> llada_hub::Result<T>,
) -> anyhow::Result<T> {
    let hub = Hub::from_env()?;
    let bar = ui::byte_bar();
    let mut is_first = true;
    let done = download(&hub, &mut |progress| {
        if std::mem::take(&mut is_first) {
            ui::say(format!("fetching `{id}` into `{}`", hub.cache.display()));
        }
        show(&bar, progress);
    });
    bar.finish_and_clear();
    Ok(done?)
}

fn show(bar: &indicatif::ProgressBar, progress: Progress<'_>) {
    if bar.length() != Some(progress.total) {
        bar.set_length(progress.total);
        bar.reset_eta();
    }
    match progress.action {
        Action::Fetch => {
            bar.set_position(progress.before + progress.done);
            bar.set_message(progress.file.to_owned());
        }
        Action::Check => bar.set_message(format!("checking {}", progress.file)),
    }
}
