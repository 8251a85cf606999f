//! Arrays that lie in a file where memory is too small for them.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::buffer::Buffer;

/// Arrays begin at multiples of this, the largest page that systems have.
const PAGE: u64 = 1 << 16;

/// A file without a name, to which arrays move that memory is too small for.
///
/// The system reads a page of it when it is used, and may forget it at any time. The file is gone with the
/// last array in it.
#[derive(Debug)]
pub struct PageFile {
    file: File,
    len: u64,
}

impl PageFile {
    /// Creates a file in a directory that exists, which should not be one of a file system in memory.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create_in(dir: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(dir)?;
        Ok(Self { file, len: 0 })
    }

    /// Returns the bytes of the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether nothing has moved to the file.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes, and returns where they are now: at an address that is a multiple of a page.
    fn append(&mut self, bytes: &[u8]) -> io::Result<Mmap> {
        self.file.write_all(bytes)?;
        let gap = self.len + bytes.len() as u64;
        let gap = gap.next_multiple_of(PAGE) - gap;
        self.file.write_all(&[0; PAGE as usize][..gap as usize])?;
        let mut options = MmapOptions::new();
        // SAFETY: the file has no name, so that no other process has it; this one only appends.
        let map = unsafe { options.offset(self.len).len(bytes.len()).map(&self.file) }?;
        self.len += bytes.len() as u64 + gap;
        Ok(map)
    }
}

/// Elements in memory or in a [`PageFile`]. Clones share those of a file.
#[derive(Clone, Debug)]
pub(crate) enum Paged<T: bytemuck::Pod> {
    Memory(Buffer<T>),
    File(Arc<Mmap>),
}

impl<T: bytemuck::Pod> Paged<T> {
    /// Moves elements that are in memory to the end of a file.
    ///
    /// # Errors
    /// If the file cannot be written, as on a full disk; the elements stay where they are.
    pub(crate) fn move_to(&mut self, file: &mut PageFile) -> io::Result<()> {
        if let Self::Memory(elements) = self
            && !elements.is_empty()
        {
            let map = file.append(bytemuck::cast_slice(elements))?;
            *self = Self::File(Arc::new(map));
        }
        Ok(())
    }
}

impl<T: bytemuck::Pod> Deref for Paged<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        match self {
            Self::Memory(elements) => elements,
            Self::File(map) => bytemuck::cast_slice(map),
        }
    }
}

/// Equal elements, bit by bit, wherever they are.
impl<T: bytemuck::Pod> PartialEq for Paged<T> {
    fn eq(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(|paged| bytemuck::cast_slice::<T, u8>(paged));
        ours == theirs
    }
}

impl<T: bytemuck::Pod> From<Buffer<T>> for Paged<T> {
    fn from(elements: Buffer<T>) -> Self {
        Self::Memory(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_a_file_are_those_that_moved_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = PageFile::create_in(dir.path()).unwrap();
        let arrays = [vec![1.0_f32, 2.0], vec![], vec![3.0; 70_000], vec![4.0]];
        let moved = arrays.each_ref().map(|array| {
            let mut paged = Paged::from(Buffer::from(array.clone()));
            paged.move_to(&mut file).unwrap();
            paged.move_to(&mut file).unwrap(); // no second copy
            paged
        });
        assert_eq!(file.len(), 7 * PAGE);
        drop(file);
        let copies = moved.clone();
        for (paged, array) in moved.iter().zip(&arrays).chain(copies.iter().zip(&arrays)) {
            assert_eq!(paged[..], array[..]);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error() {
        let error = PageFile::create_in(Path::new("no/such/directory")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
