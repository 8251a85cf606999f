//! Names on the Hub, as people write them.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// The revision that an id without one means.
const MAIN: &str = "main";
/// Longest organisation or name in bytes, as the Hub has it.
const LONGEST: usize = 96;
/// Endings that a file has and, in practice, no repository.
const FILE_ENDINGS: [&str; 5] = [".gguf", ".gz", ".json", ".jsonl", ".txt"];

/// A repository and one of its revisions, written `org/name` or `org/name@revision`.
///
/// ```
/// let id: llada_hub::HubId = "org/tiny@v1".parse()?;
/// assert_eq!((id.repo(), id.revision()), ("org/tiny", "v1"));
/// assert!("org/tiny/model".parse::<llada_hub::HubId>().is_err());
/// # Ok::<(), llada_hub::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    repo: String,
    revision: String,
}

impl HubId {
    /// Returns `org/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// Returns the branch, tag or commit, `main` if none was given.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let is_repo = repo.split_once('/').is_some_and(|(organisation, name)| {
            is_name(organisation)
                && is_name(name)
                && !FILE_ENDINGS.iter().any(|e| name.ends_with(e))
        });
        if !is_repo || !is_revision(revision) {
            return Err(Error::Id { given: text.into() });
        }
        Ok(Self {
            repo: repo.into(),
            revision: revision.into(),
        })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        match self.revision.as_str() {
            MAIN => Ok(()),
            revision => write!(f, "@{revision}"),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_edge = |c: char| "-.".contains(c);
    (1..=LONGEST).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !text.starts_with(is_edge)
        && !text.ends_with(is_edge)
        && !["--", ".."].iter().any(|pair| text.contains(pair))
}

/// A revision may have slashes, as `refs/pr/1`; it becomes part of a path, so it must not lead out.
fn is_revision(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["org/name", "a/b.c-1_2", "org/name@v1", "org/name@refs/pr/1"] {
            let parsed: HubId = id.parse().unwrap();
            assert_eq!(parsed.to_string(), id);
        }
        for path in [
            "name",
            "/org/name",
            "./name",
            "../name",
            "org/name/",
            "a/b/c",
            "org/model.gguf",
            "data/test.jsonl",
            "org/na me",
            "org/",
            "~/name",
            "org/a--b",
            "",
        ] {
            assert!(path.parse::<HubId>().is_err(), "{path}");
        }
    }

    #[test]
    fn a_revision_cannot_lead_out_of_the_cache() {
        for revision in ["", "..", "../x", "a/../b", "/x", "a//b", "a b"] {
            let id = format!("org/name@{revision}");
            assert!(id.parse::<HubId>().is_err(), "{id}");
        }
    }
}
