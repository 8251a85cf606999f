//! Sizes and times of change of files: what tells whether they are still the same.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

/// Adds a file, or those of a directory; one that is missing is refused where it is read.
pub(super) fn add(path: &Path, files: &mut Map<String, Value>) -> io::Result<()> {
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
