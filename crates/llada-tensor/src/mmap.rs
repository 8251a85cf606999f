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

impl MappedFile {
    /// Tells the system that `part`, a slice of this map, will not be needed soon: its pages no longer
    /// count as memory of this process. Read again, they come from the file again. A slice of anything
    /// else is left alone; returns whether it was one of this map.
    ///
    /// Does nothing where the system has no such call.
    pub fn release(&self, part: &[u8]) -> bool {
        let (ours, theirs) = (self.0.as_ptr_range(), part.as_ptr_range());
        let within = ours.start <= theirs.start && theirs.end <= ours.end;
        #[cfg(unix)]
        if within && !part.is_empty() {
            let offset = theirs.start as usize - ours.start as usize;
            // SAFETY: the range is within the map, and so are the whole pages around it. The map was made
            // read-only and stays so: no page was ever written, so that dropping one loses nothing, and
            // a reader of the same bytes, now or later, finds those of the file, which by the contract
            // of this type do not change.
            let told = unsafe {
                self.0.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    offset,
                    part.len(),
                )
            };
            // Advice: a system that does not take it only uses more memory.
            drop(told);
        }
        within
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
    fn released_bytes_are_read_again_and_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bytes");
        let bytes: Vec<u8> = (0..100_000).map(|index| (index % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = map_file(&path).unwrap();
        for part in [0..100_000, 5000..5001, 4095..70_003, 100_000..100_000] {
            assert_eq!(map[part.clone()], bytes[part.clone()]);
            assert!(map.release(&map[part]));
            assert_eq!(map[..], bytes);
        }
        let copy = bytes.clone();
        assert!(!map.release(&copy));
        assert_eq!(copy, bytes);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn released_pages_are_no_memory_of_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bytes");
        std::fs::write(&path, vec![1; 1 << 24]).unwrap();
        let map = map_file(&path).unwrap();
        let address = format!("{:x}-", map.as_ptr() as usize);
        let resident = || -> usize {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let entry = maps.split_once(&address).unwrap().1;
            let line = entry.lines().find_map(|line| line.strip_prefix("Rss:"));
            let kib = line.unwrap().trim().trim_end_matches(" kB");
            kib.parse().unwrap()
        };
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        assert_eq!(sum(&map), 1 << 24);
        assert!(resident() >= 1 << 14);
        map.release(&map[1 << 23..]);
        assert!(resident() <= 1 << 13);
        map.release(&map);
        assert!(resident() <= 1 << 6, "{}", resident());
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
