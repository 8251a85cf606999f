//! What the Hub says that a revision holds.

use std::path::{Component, Path};

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::{Hub, HubId};

/// The files of one commit.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) commit: String,
    pub(crate) files: Vec<RemoteFile>,
}

/// A file as it is listed.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    /// Its path in the repository.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256 in hexadecimal digits; only large files have one.
    pub(crate) sha256: Option<String>,
    /// What the cache calls its content.
    pub(crate) blob: String,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: u64,
    #[serde(rename = "blobId")]
    blob_id: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

impl Hub {
    pub(crate) fn repo(&self, id: &HubId, kind: RepoType) -> Repo {
        Repo::with_revision(id.repo().into(), kind, id.revision().into())
    }

    pub(crate) fn api(&self, id: &HubId) -> Result<Api> {
        let builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.as_ref().map(|token| token.0.clone()))
            .with_user_agent(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        builder.build().map_err(|error| self.error(id, error, 0))
    }

    /// Asks for the files of a revision.
    pub(crate) fn list(&self, id: &HubId, kind: RepoType) -> Result<Remote> {
        if self.offline {
            return Err(Error::Offline {
                id: id.to_string(),
                cache: self.cache.clone(),
            });
        }
        let request = self.api(id)?.repo(self.repo(id, kind)).info_request();
        let answer = request.query("blobs", "true").call();
        let answer = answer.and_then(|mut answer| answer.body_mut().read_to_string());
        let text = answer.map_err(|error| self.error(id, Box::new(error).into(), 0))?;
        let unusable = |source| Error::Answer {
            id: id.to_string(),
            endpoint: self.endpoint.clone(),
            source,
        };
        let answer: Answer = serde_json::from_str(&text).map_err(|error| unusable(error.into()))?;
        // The commit becomes part of a path.
        if answer.sha.is_empty() || !answer.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(unusable("its commit is no hexadecimal number".into()));
        }
        let files = answer.siblings.into_iter().map(RemoteFile::from);
        Ok(Remote {
            commit: answer.sha,
            files: files.filter(|file| stays_inside(&file.name)).collect(),
        })
    }
}

impl From<Sibling> for RemoteFile {
    fn from(sibling: Sibling) -> Self {
        let sha256 = sibling.lfs.map(|lfs| lfs.sha256);
        Self {
            name: sibling.rfilename,
            size: sibling.size,
            blob: sha256.clone().unwrap_or(sibling.blob_id),
            sha256,
        }
    }
}

/// A name from the network must not lead out of the snapshot.
fn stays_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.is_empty()
        && !name.contains('\\')
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl Remote {
    /// Finds a file.
    pub(crate) fn file(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_a_snapshot_are_left_out() {
        for name in ["config.json", "main/test-00000-of-00001.parquet"] {
            assert!(stays_inside(name), "{name}");
        }
        for name in ["", "/etc/passwd", "../x", "a/../../x", "a\\..\\x"] {
            assert!(!stays_inside(name), "{name}");
        }
    }
}
