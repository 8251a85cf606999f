//! Quantised copies of models, each written once and kept.
//!
//! A copy is what `llada quantize --type` writes. Its name holds the commit of a model of the Hub, or what
//! tells whether a directory has changed; one that does not fit any more is never used and stays until
//! somebody removes it.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::Context;
use llada_hub::Part;
use llada_model::{BlockFormat, Config, FormatChoice};
use serde_json::Map;

use super::{models, quantize, states};
use crate::{failure, ui};

/// Where copies lie in the cache. Another version takes no copies of this one.
const DIR: &str = "quantised/v1";

/// Returns where a model lies, or its copy in `format`, which is written if there is none.
pub(super) fn open(given: &Path, format: Option<BlockFormat>) -> anyhow::Result<PathBuf> {
    let Some(format) = format else {
        return models::whole(given);
    };
    if given.is_file() {
        return Err(failure::usage(format!(
            "--quant: `{}` is a file, and a GGUF file has its types already; give a directory or a Hub \
             id, or write another file with `llada quantize`",
            given.display()
        )));
    }
    let copy = ui::cache_dir()?.join(DIR).join(name(given, format)?);
    if !copy.exists() {
        write(given, format, &copy)?;
    }
    Ok(copy)
}

/// Returns the name of a copy, which differs where the copy would.
fn name(given: &Path, format: BlockFormat) -> anyhow::Result<String> {
    let model = match models::hub_id(given) {
        Some(id) => {
            let commit = models::fetch(&id, Part::Texts)?.commit;
            format!("{}-{commit}", id.repo().replace('/', "--"))
        }
        None => {
            of_directory(given).with_context(|| format!("cannot look at `{}`", given.display()))?
        }
    };
    Ok(format!("{model}-{}.gguf", format.name()))
}

/// Names a directory by its path and by names, sizes and times of change of its files.
fn of_directory(dir: &Path) -> std::io::Result<String> {
    let dir = dir.canonicalize()?;
    let mut files = Map::new();
    states::add(&dir, &mut files)?;
    let files: BTreeMap<_, _> = files.into_iter().collect();
    let mut hasher = DefaultHasher::new();
    (&dir, serde_json::to_string(&files)?).hash(&mut hasher);
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{name}-{:016x}", hasher.finish()))
}

/// Writes a copy. Whoever wants the same one meanwhile waits for it.
fn write(given: &Path, format: BlockFormat, copy: &Path) -> anyhow::Result<()> {
    let input = models::whole(given)?;
    let config = Config::of_checkpoint(&input)?;
    let _lock = lock(copy).with_context(|| format!("cannot write `{}`", copy.display()))?;
    if copy.exists() {
        return Ok(());
    }
    // A process that was killed may have left its part, which is written anew.
    ui::say(format!(
        "writing a copy of `{}` in {}, once, to `{}`",
        given.display(),
        format.name(),
        copy.display()
    ));
    let choice = FormatChoice {
        default: format,
        kept: BTreeMap::new(),
    };
    quantize::write(&input, copy, &config, &choice, &mut |_| {})
}

/// Locks the writing of a copy, until the file is dropped.
fn lock(copy: &Path) -> std::io::Result<File> {
    if let Some(dir) = copy.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = File::create(copy.with_added_extension("lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            ui::say("another process is writing the same copy; waiting for it");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_changes_is_named_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("config.json"), "{}").unwrap();
        let before = of_directory(&model).unwrap();
        assert!(before.starts_with("model-"), "{before}");
        assert_eq!(of_directory(&model).unwrap(), before);
        std::fs::write(model.join("config.json"), "{ }").unwrap();
        assert_ne!(of_directory(&model).unwrap(), before);
    }
}
