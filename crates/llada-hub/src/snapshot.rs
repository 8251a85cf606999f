//! Which files of a repository are wanted, and whether the cache has them all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};
use serde::Deserialize;

use crate::download::{Download, Progress, is_kept};
use crate::error::{Error, Result};
use crate::remote::{Remote, RemoteFile};
use crate::{Hub, HubId};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// How the names of files begin that say how texts become tokens and how they are decoded. Code and
/// weights in formats that can hold code are never fetched.
const TEXTS: [&str; 9] = [
    "added_tokens.json",
    "chat_template.",
    "encoder.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer",
    "vocab.bpe",
    "vocab.json",
];
const TEXT_ENDINGS: [&str; 4] = [".json", ".txt", ".jinja", ".bpe"];

/// How much of a model is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Configuration and tokenizer.
    Texts,
    /// All that decoding needs.
    Whole,
}

/// Files of one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where they lie, under their names in the repository.
    pub dir: PathBuf,
    /// The commit, in hexadecimal digits.
    pub commit: String,
}

impl Snapshot {
    fn new(dir: PathBuf) -> Self {
        let commit = dir.file_name().unwrap_or_default();
        Self {
            commit: commit.to_string_lossy().into_owned(),
            dir,
        }
    }
}

impl Hub {
    /// Returns a model in Hub layout, fetched if the cache lacks a file of it. `watch` is told how far
    /// a download is.
    ///
    /// # Errors
    /// If the repository holds no such model, or it cannot be had or kept.
    pub fn model(
        &self,
        id: &HubId,
        part: Part,
        watch: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Snapshot> {
        let kind = RepoType::Model;
        let cached = self.cached(&self.repo(id, kind));
        if let Some(dir) = cached.filter(|dir| has_model(dir, part)) {
            return Ok(Snapshot::new(dir));
        }
        let remote = self.list(id, kind)?;
        let config = remote.file(CONFIG).ok_or_else(|| no_model(id, &remote))?;
        let mut download = Download::new(self, id, kind, &remote, watch)?;
        download.files(&texts(&remote))?;
        if part == Part::Whole {
            download.files(&remote.file(INDEX).into_iter().collect::<Vec<_>>())?;
            download.files(&weights(id, &remote, &download.dir())?)?;
        }
        download.files(&[config])?;
        download.finish().map(Snapshot::new)
    }

    /// Returns the files of a data set that fit each of the patterns, sorted by name, fetched if the
    /// cache lacks one. A pattern is a path in the repository, with at most one `*`.
    ///
    /// # Errors
    /// If a pattern fits nothing, or a file cannot be had or kept.
    pub fn dataset(
        &self,
        id: &HubId,
        patterns: &[&str],
        watch: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(Snapshot, Vec<Vec<PathBuf>>)> {
        let kind = RepoType::Dataset;
        if let Some(dir) = self.cached(&self.repo(id, kind)) {
            let names = names_below(&dir);
            let found: Vec<_> = patterns.iter().map(|p| fitting(p, &names)).collect();
            if found.iter().all(|names| is_whole(names)) {
                return Ok(data_files(dir, &found));
            }
        }
        let remote = self.list(id, kind)?;
        let names: Vec<String> = remote.files.iter().map(|file| file.name.clone()).collect();
        let found: Vec<_> = patterns.iter().map(|p| fitting(p, &names)).collect();
        if let Some((pattern, _)) = patterns
            .iter()
            .zip(&found)
            .find(|(_, names)| names.is_empty())
        {
            return Err(Error::Lacks {
                id: id.to_string(),
                problem: format!("has no file `{pattern}`"),
            });
        }
        let files = found.iter().flatten().filter_map(|name| remote.file(name));
        let mut download = Download::new(self, id, kind, &remote, watch)?;
        download.files(&files.collect::<Vec<_>>())?;
        Ok(data_files(download.finish()?, &found))
    }

    /// Returns the snapshot that the cache has of a revision, which may lack files.
    fn cached(&self, repo: &Repo) -> Option<PathBuf> {
        let dir = self.cache.join(repo.folder_name());
        let commit = std::fs::read_to_string(dir.join("refs").join(repo.revision()));
        // A commit names itself.
        let commit = commit.unwrap_or_else(|_| repo.revision().to_owned());
        let snapshot = dir.join("snapshots").join(commit.trim());
        snapshot.is_dir().then_some(snapshot)
    }
}

fn data_files(dir: PathBuf, found: &[Vec<&str>]) -> (Snapshot, Vec<Vec<PathBuf>>) {
    let paths = |names: &Vec<&str>| names.iter().map(|name| dir.join(name)).collect();
    let files = found.iter().map(paths).collect();
    (Snapshot::new(dir), files)
}

/// The configuration comes last, so that no text is missing where it is; but it may have been fetched
/// without the weights.
fn has_model(dir: &Path, part: Part) -> bool {
    let has = |name: &str| is_kept(&dir.join(name));
    let has_weights = || match std::fs::read_to_string(dir.join(INDEX)) {
        Ok(index) => shards(&index).is_ok_and(|shards| shards.iter().all(|name| has(name))),
        Err(_) => has(SINGLE),
    };
    has(CONFIG) && (part == Part::Texts || has_weights())
}

fn no_model(id: &HubId, remote: &Remote) -> Error {
    let gguf = remote
        .files
        .iter()
        .find(|file| file.name.ends_with(".gguf"));
    let problem = match gguf {
        Some(file) => format!(
            "has GGUF files and no `{CONFIG}`; download one, such as `{}`, and give its path",
            file.name
        ),
        None => format!("is no model in Hub layout: it has no `{CONFIG}`"),
    };
    Error::Lacks {
        id: id.to_string(),
        problem,
    }
}

/// Returns the small files, without the configuration.
fn texts(remote: &Remote) -> Vec<&RemoteFile> {
    let is_wanted = |name: &str| {
        TEXTS.iter().any(|start| name.starts_with(start))
            && TEXT_ENDINGS.iter().any(|end| name.ends_with(end))
            && !name.contains('/')
    };
    let files = remote.files.iter();
    files.filter(|file| is_wanted(&file.name)).collect()
}

/// Returns the weights: those that the index lists, which is in `dir` already, or the only file.
fn weights<'a>(id: &HubId, remote: &'a Remote, dir: &Path) -> Result<Vec<&'a RemoteFile>> {
    let lacks = |problem: String| Error::Lacks {
        id: id.to_string(),
        problem,
    };
    let names = match std::fs::read_to_string(dir.join(INDEX)) {
        Ok(index) => shards(&index).map_err(|e| lacks(format!("has a damaged `{INDEX}`: {e}")))?,
        Err(_) => BTreeSet::from([SINGLE.to_owned()]),
    };
    let file = |name: &String| {
        let file = remote.file(name);
        file.ok_or_else(|| lacks(format!("has no `{name}`; only safetensors are read")))
    };
    names.iter().map(file).collect()
}

fn shards(index: &str) -> serde_json::Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_str(index)?;
    Ok(index.weight_map.into_values().collect())
}

/// Returns the names that fit a pattern, sorted.
fn fitting<'a>(pattern: &str, names: &'a [String]) -> Vec<&'a str> {
    let fits = |name: &&str| match pattern.split_once('*') {
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
        None => *name == pattern,
    };
    let mut fitting: Vec<&str> = names.iter().map(String::as_str).filter(fits).collect();
    fitting.sort_unstable();
    fitting
}

/// Returns whether there are as many files as their names say: `test-00000-of-00002.parquet` is one of two.
fn is_whole(names: &[&str]) -> bool {
    let count = |name: &str| {
        let (_, rest) = name.rsplit_once("-of-")?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<usize>().ok()
    };
    let expected = names.iter().find_map(|name| count(name)).unwrap_or(1);
    names.len() >= expected
}

/// Returns the names of all files below a directory, with slashes between their parts.
fn names_below(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if path.is_dir() {
            let below = names_below(&path);
            names.extend(below.into_iter().map(|rest| format!("{name}/{rest}")));
        } else if is_kept(&path) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_one_star_at_most() {
        let names = [
            "main/test-1.parquet",
            "main/test-0.parquet",
            "main/train-0.parquet",
        ];
        let names = names.map(str::to_owned);
        let expected = ["main/test-0.parquet", "main/test-1.parquet"];
        assert_eq!(fitting("main/test-*.parquet", &names), expected);
        assert_eq!(
            fitting("main/train-0.parquet", &names),
            ["main/train-0.parquet"]
        );
        assert!(fitting("test-*", &names).is_empty());
    }

    #[test]
    fn shards_of_data_count_as_many_as_their_names_say() {
        assert!(is_whole(&[
            "a/test-00000-of-00001-5973903632b82d40.parquet"
        ]));
        assert!(!is_whole(&["test-00000-of-00002.parquet"]));
        assert!(is_whole(&[
            "test-00000-of-00002.parquet",
            "test-00001-of-00002.parquet"
        ]));
        assert!(is_whole(&["test.jsonl"]) && !is_whole(&[]));
    }
}
