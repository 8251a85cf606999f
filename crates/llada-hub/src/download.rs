//! The files of a commit, one after the other: continued where they broke off, compared when they are here.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;

use hf_hub::api::sync::{ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::check::{Difference, difference};
use crate::error::{Error, Result};
use crate::remote::{Remote, RemoteFile};
use crate::{Hub, HubId};

/// Failures in a row, without a byte in between, after which a transfer is given up.
const TRIES: u32 = 5;

/// How far a download is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file that is worked on.
    pub file: &'a str,
    /// What is done with it.
    pub action: Action,
    /// Bytes of it that are done.
    pub done: u64,
    /// Bytes that the files before it have.
    pub before: u64,
    /// Bytes of all files that belong together.
    pub total: u64,
}

/// What is done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It comes in.
    Fetch,
    /// It is compared with what the Hub lists.
    Check,
}

/// A download into a snapshot.
pub(crate) struct Download<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    commit: String,
    kind: RepoType,
    /// The files of the commit, whatever its branch will name meanwhile.
    api: ApiRepo,
    watch: &'a mut dyn FnMut(Progress<'_>),
}

impl<'a> Download<'a> {
    pub(crate) fn new(
        hub: &'a Hub,
        id: &'a HubId,
        kind: RepoType,
        remote: &Remote,
        watch: &'a mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        let pinned = Repo::with_revision(id.repo().into(), kind, remote.commit.clone());
        Ok(Self {
            hub,
            id,
            commit: remote.commit.clone(),
            kind,
            api: hub.api(id)?.repo(pinned),
            watch,
        })
    }

    /// Returns the directory of the snapshot.
    pub(crate) fn dir(&self) -> PathBuf {
        self.cached().pointer_path(&self.commit)
    }

    /// Fetches files that belong together.
    pub(crate) fn files(&mut self, files: &[&RemoteFile]) -> Result<()> {
        let total = files.iter().map(|file| file.size).sum();
        let mut before = 0;
        for file in files {
            self.file(file, before, total)?;
            before += file.size;
        }
        Ok(())
    }

    /// Gives the revision its commit: from now on the snapshot is found.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        let named = self.cached().create_ref(&self.commit);
        named.map_err(|source| self.hub.cache_error(source, 0))?;
        Ok(self.dir())
    }

    /// Fetches a file that is not there, and compares it; what is wrong is removed.
    fn file(&mut self, file: &RemoteFile, before: u64, total: u64) -> Result<()> {
        let path = self.dir().join(&file.name);
        let blob = self.cached().blob_path(&file.blob);
        let failed = |source| self.hub.cache_error(source, file.size);
        if !path.exists() {
            // What is left of a file whose content somebody has removed would be in the way.
            let _ = std::fs::remove_file(&path);
            doubt(&blob).map_err(failed)?;
            self.transfer(file, &blob, before, total)?;
        }
        if !is_doubtful(&blob) {
            return Ok(()); // compared when it came
        }
        let differs = self.compare(file, &path, before, total);
        let failed = |source| self.hub.cache_error(source, 0);
        let Some(differs) = differs.map_err(failed)? else {
            return std::fs::remove_file(mark(&blob)).map_err(failed);
        };
        remove(&path).map_err(failed)?;
        Err(Error::Damaged {
            id: self.id.to_string(),
            file: file.name.clone(),
            expected: differs.expected,
            found: differs.found,
        })
    }

    /// Returns the places of the repository in the cache.
    fn cached(&self) -> CacheRepo {
        let cache = Cache::new(self.hub.cache.clone());
        cache.repo(self.hub.repo(self.id, self.kind))
    }

    fn compare(
        &mut self,
        file: &RemoteFile,
        path: &Path,
        before: u64,
        total: u64,
    ) -> std::io::Result<Option<Difference>> {
        let mut done = 0;
        difference(file, path, &mut |bytes| {
            done += bytes;
            (self.watch)(Progress {
                file: &file.name,
                action: Action::Check,
                done,
                before,
                total,
            });
        })
    }

    /// Fetches a file, going on after a pause where it breaks off.
    fn transfer(&mut self, file: &RemoteFile, blob: &Path, before: u64, total: u64) -> Result<()> {
        let part = blob.with_extension("part");
        let (mut failures, mut reached) = (0, len(&part));
        loop {
            if len(&part) >= file.size {
                // Nothing can follow it, so there is nothing to go on with.
                let _ = std::fs::remove_file(&part);
            }
            let meter = Meter {
                file: &file.name,
                done: 0,
                before,
                total,
                watch: &mut self.watch,
            };
            let error = match self.api.download_with_progress(&file.name, meter) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if len(&part) > reached {
                (failures, reached) = (0, len(&part));
            }
            failures += 1;
            if failures == TRIES || !may_pass(&error) {
                let missing = file.size.saturating_sub(len(&part));
                return Err(self.hub.error(self.id, error, missing));
            }
            thread::sleep(self.hub.retry_wait * 2_u32.pow(failures - 1));
        }
    }
}

/// Returns the bytes of a file, 0 if there is none.
fn len(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// Returns the file that stands beside a content that has not been compared.
fn mark(blob: &Path) -> PathBuf {
    blob.with_extension("unchecked")
}

/// Marks a content as not compared, before the transfer names it.
fn doubt(blob: &Path) -> std::io::Result<()> {
    if let Some(dir) = blob.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(mark(blob), "")
}

fn is_doubtful(blob: &Path) -> bool {
    mark(blob).exists()
}

/// Returns whether a snapshot has a file, compared if it was fetched by this crate.
pub(crate) fn is_kept(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|blob| !is_doubtful(&blob))
}

/// Removes a file of a snapshot and the content that it points to.
fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_file(path.canonicalize()?)?;
    match path.is_symlink() {
        true => std::fs::remove_file(path),
        false => Ok(()),
    }
}

/// Tells of the bytes of one file.
struct Meter<'a, 'w> {
    file: &'a str,
    done: u64,
    before: u64,
    total: u64,
    watch: &'a mut &'w mut dyn FnMut(Progress<'_>),
}

impl hf_hub::api::Progress for Meter<'_, '_> {
    fn init(&mut self, _: usize, _: &str) {
        self.done = 0;
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        (self.watch)(Progress {
            file: self.file,
            action: Action::Fetch,
            done: self.done,
            before: self.before,
            total: self.total,
        });
    }

    fn finish(&mut self) {}
}

/// Returns whether the same request may succeed in a moment.
fn may_pass(error: &ApiError) -> bool {
    match error {
        ApiError::IoError(error) => !is_of_disk(error.kind()),
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => status == 429 || status >= 500,
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => true,
            _ => false,
        },
        _ => false,
    }
}

/// Returns whether an error is one of files and not of sockets.
fn is_of_disk(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::AlreadyExists
            | ErrorKind::FileTooLarge
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::StorageFull
    )
}

impl Hub {
    /// Says what an error of a transfer means, of which `missing` bytes were still to come.
    pub(crate) fn error(&self, id: &HubId, error: ApiError, missing: u64) -> Error {
        let (id, endpoint) = (id.to_string(), self.endpoint.clone());
        match error {
            ApiError::IoError(error) if is_of_disk(error.kind()) => {
                self.cache_error(error, missing)
            }
            ApiError::IoError(error) => Error::Unreachable {
                id,
                endpoint,
                source: error.into(),
            },
            ApiError::LockAcquisition(lock) => Error::Busy { lock },
            ApiError::RequestError(error) => match *error {
                ureq::Error::StatusCode(404) => Error::NotFound { id, endpoint },
                ureq::Error::StatusCode(status @ (401 | 403)) => Error::Refused {
                    id,
                    endpoint,
                    status,
                    has_token: self.token.is_some(),
                },
                error @ (ureq::Error::StatusCode(_) | ureq::Error::Protocol(_)) => Error::Answer {
                    id,
                    endpoint,
                    source: error.into(),
                },
                error => Error::Unreachable {
                    id,
                    endpoint,
                    source: error.into(),
                },
            },
            error => Error::Answer {
                id,
                endpoint,
                source: error.into(),
            },
        }
    }

    pub(crate) fn cache_error(&self, source: std::io::Error, missing: u64) -> Error {
        let path = self.cache.clone();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull {
                path,
                needed: missing,
            },
            _ => Error::Cache { path, source },
        }
    }
}
