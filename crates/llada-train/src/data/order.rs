//! The order of training: which document comes next, from which source.

use llada_diffusion::{Rng, Stream};
use serde::{Deserialize, Serialize};

use super::Document;

/// Where a run stands in one source of its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Pass over the source, from 0.
    pub epoch: u32,
    /// Documents or pairs of this pass that have been used.
    pub used: usize,
    /// Documents or pairs of the source.
    pub of: usize,
}

/// A document or pair of a batch: its pass over its source, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Pass over the source.
    pub epoch: u32,
    /// Its number in the corpus.
    pub document: usize,
}

/// What is drawn from a corpus at a time, and keeps together in a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// A document. The loss is divided as the normalisation says.
    #[default]
    Document,
    /// Two answers to a prompt, documents that follow each other, under the same noise. Weights are
    /// those of the bound of each answer, averaged over its noisy copies.
    Pair,
}

impl Unit {
    /// Returns the number of documents.
    pub fn size(self) -> usize {
        match self {
            Self::Document => 1,
            Self::Pair => 2,
        }
    }

    /// Returns the documents of one draw.
    ///
    /// # Panics
    /// If they are not in the corpus.
    pub fn documents(self, corpus: &[Document], drawn: Drawn) -> &[Document] {
        &corpus[drawn.document * self.size()..][..self.size()]
    }
}

/// An endless sequence of document numbers: each source in an order of its own, the sources
/// interleaved by weight.
///
/// The next document comes from the source that is furthest behind its share, so that any stretch of
/// the sequence has the shares that the weights say, and the place in all sources is the whole state.
#[derive(Clone, Debug)]
pub struct Mix {
    seed: u64,
    sources: Vec<Source>,
}

#[derive(Clone, Debug)]
struct Source {
    /// Number of its first document.
    first: usize,
    weight: f64,
    /// Its documents in the order of this pass.
    order: Vec<usize>,
    cursor: Cursor,
}

impl Mix {
    /// Returns the sequence over sources of (documents, weight), each continued at its cursor; all from
    /// the start if there are no cursors.
    ///
    /// # Panics
    /// If there is no source, a source has no document, or the cursors are not those of the sources.
    pub fn new(sources: &[(usize, f64)], seed: u64, cursors: &[Cursor]) -> Self {
        assert!(!sources.is_empty(), "a corpus has sources");
        assert!(
            cursors.is_empty() || cursors.len() == sources.len(),
            "a cursor per source"
        );
        let mut first = 0;
        let mut place = |(number, &(len, weight)): (usize, &(usize, f64))| {
            assert!(len > 0, "a source has documents");
            let start = Cursor {
                of: len,
                ..Cursor::default()
            };
            let cursor = cursors.get(number).copied().unwrap_or(start);
            assert_eq!(cursor.of, len, "a cursor is of its source");
            let source = Source {
                first,
                weight,
                order: shuffled(len, seed, cursor.epoch),
                cursor,
            };
            first += len;
            source
        };
        Self {
            seed,
            sources: sources.iter().enumerate().map(&mut place).collect(),
        }
    }

    /// Returns where the sequence stands in each source.
    pub fn cursors(&self) -> Vec<Cursor> {
        self.sources.iter().map(|source| source.cursor).collect()
    }
}

impl Iterator for Mix {
    type Item = Drawn;

    fn next(&mut self) -> Option<Drawn> {
        let seed = self.seed;
        let source = self
            .sources
            .iter_mut()
            .min_by(|a, b| a.lag().total_cmp(&b.lag()))?; // the first of equals
        Some(source.draw(seed))
    }
}

impl Source {
    /// Returns the share-weighted count after one more document: the smallest is furthest behind.
    fn lag(&self) -> f64 {
        let passed = u64::from(self.cursor.epoch) * self.order.len() as u64;
        (passed + self.cursor.used as u64 + 1) as f64 / self.weight
    }

    fn draw(&mut self, seed: u64) -> Drawn {
        if self.cursor.used >= self.order.len() {
            self.cursor = Cursor {
                epoch: self.cursor.epoch + 1,
                used: 0,
                ..self.cursor
            };
            self.order = shuffled(self.order.len(), seed, self.cursor.epoch);
        }
        let document = self.first + self.order[self.cursor.used];
        self.cursor.used += 1;
        Drawn {
            epoch: self.cursor.epoch,
            document,
        }
    }
}

/// Returns the order of one epoch (Fisher-Yates).
fn shuffled(num_documents: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let rng = Rng::new(seed, Stream::Shuffle);
    let mut order: Vec<usize> = (0..num_documents).collect();
    for last in (1..num_documents).rev() {
        let bound = u32::try_from(last + 1).expect("documents in memory are fewer than 2^32");
        order.swap(last, rng.below(epoch, last as u64, 0, bound) as usize);
    }
    order
}
