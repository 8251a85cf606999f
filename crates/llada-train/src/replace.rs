//! Files that appear whole.

use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file beside its name first, so that whoever is interrupted leaves the old one or the new.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    std::fs::write(partial, text).map_err(Error::io("write", partial))?;
    std::fs::rename(partial, path).map_err(Error::io("write", path))
}
