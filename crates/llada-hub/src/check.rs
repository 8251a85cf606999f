//! Whether a file is the one that was listed.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ring::digest::{Context, SHA256};

use crate::remote::RemoteFile;

/// Bytes hashed at once.
const PIECE: usize = 1 << 20;

/// What a file should be and is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// Compares the file at `path` with what is listed; `hashed` is told of every piece that was read.
pub(crate) fn difference(
    listed: &RemoteFile,
    path: &Path,
    hashed: &mut dyn FnMut(u64),
) -> io::Result<Option<Difference>> {
    let bytes = path.metadata()?.len();
    if bytes != listed.size {
        return Ok(Some(Difference {
            expected: format!("{} bytes", listed.size),
            found: format!("{bytes}"),
        }));
    }
    let Some(expected) = &listed.sha256 else {
        return Ok(None);
    };
    let found = sha256(path, hashed)?;
    Ok((found != *expected).then(|| Difference {
        expected: format!("SHA-256 {expected}"),
        found,
    }))
}

fn sha256(path: &Path, hashed: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    let mut context = Context::new(&SHA256);
    loop {
        let len = file.read(&mut piece)?;
        if len == 0 {
            break;
        }
        context.update(&piece[..len]);
        hashed(len as u64);
    }
    Ok(hexadecimal(context.finish().as_ref()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc`, from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn size_comes_first_then_the_hash_of_large_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut listed = RemoteFile {
            name: "file".into(),
            size: 3,
            sha256: Some(ABC.into()),
            blob: ABC.into(),
        };
        let differs = |listed: &RemoteFile, text: &str| {
            std::fs::write(&path, text).unwrap();
            difference(listed, &path, &mut |_| {}).unwrap()
        };
        assert_eq!(differs(&listed, "abc"), None);
        assert_eq!(differs(&listed, "ab").unwrap().found, "2");
        assert!(differs(&listed, "xyz").unwrap().expected.contains(ABC));
        listed.sha256 = None;
        assert_eq!(differs(&listed, "xyz"), None);
    }
}
