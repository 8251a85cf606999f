//! Read-only memory maps of weight files.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a file, paged in as they are read.
///
/// The file must not be truncated or written by another process while it is mapped: reading a page
/// that is gone ends the process. Weight files are written beside and renamed, never changed.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps `path` for reading.
///
/// # Errors
/// If the file cannot be opened or mapped.
pub fn map_file(path: &Path) -> io::Result<MappedFile> {
    let file = File::open(path)?;
    // SAFETY: the map is private to this process and read-only. That nobody changes the file under
    // it cannot be enforced by an operating system call; it is the documented contract above, the
    // same that every reader of memory-mapped weights relies on.
    let map = unsafe { Mmap::map(&file) }?;
    Ok(MappedFile(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_the_bytes_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bytes");
        std::fs::write(&path, b"0123456789").unwrap();
        assert_eq!(&map_file(&path).unwrap()[..], b"0123456789");
    }

    #[test]
    fn an_empty_file_maps_to_no_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        File::create(&path).unwrap();
        assert!(map_file(&path).unwrap().is_empty());
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = map_file(Path::new("no/such/file")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
