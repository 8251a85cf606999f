//! Data files: which there are, and the rows in them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A row, or what is wrong with it.
pub(super) type Row = std::result::Result<Map<String, Value>, String>;

/// Endings of data files in directories.
const ENDINGS: [&str; 4] = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"];

/// Returns the data files that `path` stands for: itself, or all below a directory in the order of
/// their names. Files with other endings (licences, cards) and hidden ones are left out there.
pub(super) fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    list(path, &mut files)?;
    files.sort();
    if files.is_empty() {
        let problem = format!("has no data file; expected names in {}", ENDINGS.join(", "));
        return Err(Error::unsuitable(path, problem));
    }
    Ok(files)
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        // A link to a directory is not followed: it may lead back here.
        let is_dir = entry
            .file_type()
            .map_err(Error::io("read", &path))?
            .is_dir();
        if name.starts_with('.') {
            continue;
        } else if is_dir {
            list(&path, files)?;
        } else if ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns the rows of a data file: JSONL, plain or packed, or Parquet.
///
/// # Errors
/// If the file cannot be read or unpacked, or a row is no object.
pub fn read_rows(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let mut rows = Vec::new();
    for_each_row(path, &mut |line, row| {
        rows.push(row.map_err(|problem| Error::Row {
            path: path.into(),
            line,
            problem,
        })?);
        Ok(())
    })?;
    Ok(rows)
}

/// Calls `visit` with the number, from 1, and the content of every row of a file.
///
/// # Errors
/// If the file cannot be read or unpacked, and as `visit`.
pub(super) fn for_each_row(
    path: &Path,
    visit: &mut dyn FnMut(usize, Row) -> Result<()>,
) -> Result<()> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("parquet") => parquet_rows(path, visit),
        _ => json_lines(&unpacked(path)?, visit),
    }
}

/// Returns the bytes of a file, unpacked if its ending says that it is packed.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    let read = match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes),
        Some("zst") => zstd::Decoder::new(file).and_then(|mut file| file.read_to_end(&mut bytes)),
        _ => file.read_to_end(&mut bytes),
    };
    read.map_err(Error::io("read", path))?;
    Ok(bytes)
}

fn json_lines(bytes: &[u8], visit: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
    for (line, row) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if !row.trim_ascii().is_empty() {
            visit(line, json_object(row))?;
        }
    }
    Ok(())
}

fn json_object(row: &[u8]) -> Row {
    let text = std::str::from_utf8(row).map_err(|e| format!("not UTF-8: {e}"))?;
    serde_json::from_str(text).map_err(|e| format!("expected a JSON object: {e}"))
}

#[cfg(feature = "parquet")]
use super::parquet::for_each_row as parquet_rows;

#[cfg(not(feature = "parquet"))]
fn parquet_rows(path: &Path, _: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let problem = "cannot be read: this program was built without the feature `parquet`";
    Err(Error::unsuitable(path, problem))
}
