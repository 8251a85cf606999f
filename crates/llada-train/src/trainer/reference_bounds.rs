//! Bounds of the frozen model of preference training, computed before the first step (`dpo.cache_reference`).
//!
//! Order and noise follow from seed, epoch and pair, so what the reference will be asked is known before it
//! is: it answers once, leaves, and its bounds stay in the run directory for whoever resumes.
//!
//! ```text
//! reference.safetensors
//!   origin       what the bounds follow from, JSON: those of another seed, data or reference are refused
//!   places       (epoch, pair) of every pair that a step draws, [N, 2] u64
//!   bounds       its bounds (chosen, rejected) in nats, [N, 2] f64
//!   held_out     those of the held-out pairs, [M, 2] f64
//! ```

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use llada_diffusion::Elbos;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::batch::Batch;
use crate::data::{Document, Drawn};
use crate::error::{Error, Result};
use crate::recipe::{Init, Recipe};

const FILE: &str = "reference.safetensors";
const ORIGIN: &str = "origin";

/// What bounds follow from, by the words that name it in messages.
pub(super) type Origin = Vec<(String, String)>;

/// Bounds of the reference on all pairs of a run, as far as they are known.
#[derive(Debug)]
pub(super) struct ReferenceBounds {
    path: PathBuf,
    origin: Origin,
    /// By epoch and pair.
    trained: BTreeMap<(u32, usize), Elbos>,
    pub(super) held_out: Vec<Elbos>,
}

impl ReferenceBounds {
    /// Returns what a run directory holds, if anything.
    ///
    /// # Errors
    /// If that follows from other data or settings than those of the recipe, or is damaged.
    pub(super) fn open(run_dir: &Path, origin: Origin) -> Result<Self> {
        let mut bounds = Self {
            path: run_dir.join(FILE),
            origin,
            trained: BTreeMap::new(),
            held_out: Vec::new(),
        };
        if bounds.path.exists() {
            bounds.read()?;
        }
        Ok(bounds)
    }

    fn read(&mut self) -> Result<()> {
        let path = &self.path;
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let damaged = || Error::unsuitable(path, "is damaged; remove it to have it computed again");
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| damaged())?;
        let found = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(ORIGIN));
        let found: Option<Origin> = found.and_then(|text| serde_json::from_str(text).ok());
        let found = found.ok_or_else(damaged)?;
        if let Some((key, _)) = self.origin.iter().find(|kept| !found.contains(kept)) {
            let problem = format!(
                "holds bounds under another {key}; remove it to have them computed again, or train in \
                 another directory"
            );
            return Err(Error::unsuitable(path, problem));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|_| damaged())?;
        let words = |name| words(&file, name).ok_or_else(damaged);
        let places = words("places")?.into_iter();
        let places = places.map(|[epoch, pair]| (epoch as u32, pair as usize));
        self.trained = places
            .zip(words("bounds")?.into_iter().map(elbos))
            .collect();
        self.held_out = words("held_out")?.into_iter().map(elbos).collect();
        Ok(())
    }

    /// Writes all bounds to the run directory.
    pub(super) fn save(&self) -> Result<()> {
        let bits = |of: &Elbos| [of.chosen, of.rejected].map(f64::to_bits);
        let places: Vec<_> = self
            .trained
            .keys()
            .map(|&(epoch, pair)| [u64::from(epoch), pair as u64])
            .collect();
        let bounds: Vec<_> = self.trained.values().map(bits).collect();
        let held_out: Vec<_> = self.held_out.iter().map(bits).collect();
        let failed = |e| Error::unsuitable(&self.path, format!("cannot be written: {e}"));
        let mut views = Vec::new();
        for (name, dtype, words) in [
            ("places", Dtype::U64, &places),
            ("bounds", Dtype::F64, &bounds),
            ("held_out", Dtype::F64, &held_out),
        ] {
            let view = TensorView::new(dtype, vec![words.len(), 2], bytemuck::cast_slice(words));
            views.push((name, view.map_err(failed)?));
        }
        let origin = serde_json::to_string(&self.origin).expect("texts can be written");
        let origin = HashMap::from([(ORIGIN.to_owned(), origin)]);
        let partial = self.path.with_extension("partial");
        safetensors::serialize_to_file(views, Some(origin), &partial).map_err(failed)?;
        std::fs::rename(&partial, &self.path).map_err(Error::io("write", &self.path))
    }

    /// Returns which of the pairs have no bounds yet.
    pub(super) fn missing(&self, drawn: &[Drawn]) -> Vec<Drawn> {
        let is_missing = |drawn: &&Drawn| !self.trained.contains_key(&key(drawn));
        drawn.iter().filter(is_missing).copied().collect()
    }

    /// Adds the bounds of some pairs.
    pub(super) fn add(&mut self, drawn: &[Drawn], bounds: Vec<Elbos>) {
        self.trained.extend(drawn.iter().map(key).zip(bounds));
    }

    /// Returns the bounds of the pairs of a batch.
    ///
    /// # Panics
    /// If one is missing.
    pub(super) fn of(&self, drawn: &[Drawn]) -> Vec<Elbos> {
        drawn
            .iter()
            .map(|drawn| self.trained[&key(drawn)])
            .collect()
    }
}

fn key(drawn: &Drawn) -> (u32, usize) {
    (drawn.epoch, drawn.document)
}

fn elbos(bits: [u64; 2]) -> Elbos {
    let [chosen, rejected] = bits.map(f64::from_bits);
    Elbos { chosen, rejected }
}

fn words(file: &SafeTensors<'_>, name: &str) -> Option<Vec<[u64; 2]>> {
    let view = file.tensor(name).ok()?;
    let pairs = view.data().chunks_exact(16);
    let word = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    pairs
        .map(|pair| Some([word(&pair[..8])?, word(&pair[8..])?]))
        .collect()
}

/// Returns what the bounds of a run follow from.
pub(super) fn origin(
    recipe: &Recipe,
    documents: &[Document],
    held_out: Option<&Batch>,
) -> Result<Origin> {
    let (train, dpo) = (&recipe.train, recipe.dpo.as_ref());
    let start = recipe.model.init()?;
    let reference = dpo.and_then(|dpo| dpo.reference.as_deref());
    let reference = reference.map_or(start, Init::Checkpoint);
    let batch = (train.batch_documents, train.batch_tokens);
    let origin = [
        ("train.seed", train.seed.to_string()),
        ("size of a batch", format!("{batch:?}")),
        ("dpo.draws", format!("{:?}", dpo.map(|dpo| dpo.draws))),
        ("objective", format!("{:?}", recipe.objective)),
        ("model.precision", format!("{:?}", recipe.model.precision)),
        ("data", fingerprint(documents, held_out)),
        ("reference", state(reference, recipe.model.seed)?),
    ];
    let origin = origin.map(|(key, value)| (key.to_owned(), value));
    Ok(origin.into())
}

fn fingerprint(documents: &[Document], held_out: Option<&Batch>) -> String {
    let mut hasher = DefaultHasher::new();
    for document in documents {
        document.ids.hash(&mut hasher);
        document.supervised().hash(&mut hasher);
    }
    for micro_batch in held_out.iter().flat_map(|batch| &batch.micro_batches) {
        micro_batch.rows.ids.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Describes where weights come from: the sizes and times of files, or the seed of random ones.
fn state(init: Init<'_>, seed: u64) -> Result<String> {
    let (Init::Checkpoint(path) | Init::Random(path)) = init;
    let mut files = Vec::new();
    let entries = match path.is_dir() {
        true => path.read_dir().map_err(Error::io("read", path))?.collect(),
        false => Vec::new(),
    };
    let inner = entries
        .into_iter()
        .map(|entry| entry.map(|entry| entry.path()));
    for file in inner.chain([Ok(path.to_owned())]) {
        let file = file.map_err(Error::io("read", path))?;
        let about = file.metadata().map_err(Error::io("read", &file))?;
        if about.is_file() {
            let changed = about
                .modified()
                .ok()
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            files.push((
                file.file_name().map(ToOwned::to_owned),
                about.len(),
                changed,
            ));
        }
    }
    files.sort();
    Ok(match init {
        Init::Checkpoint(_) => format!("{files:?}"),
        Init::Random(_) => format!("seed {seed}, {files:?}"),
    })
}
