//! What the data of a recipe are, before a run: lengths, what is learned, what is left out and why.

use llada_text::Tokenizer;
use serde::Serialize;

use crate::data::{Corpus, Reader};
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::trainer::setup;

/// Problems that are kept; further ones are counted.
const MAX_PROBLEMS: usize = 20;

/// What the data of a recipe are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataReport {
    /// What is trained on, all sources together.
    pub train: SetReport,
    /// What is validated on.
    pub valid: Option<SetReport>,
}

/// What some files hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SetReport {
    /// Rows read, of any kind.
    pub rows: usize,
    /// Documents made of them.
    pub documents: usize,
    /// Tokens of the documents.
    pub tokens: usize,
    /// Tokens that are learned, before answers are filled up with EOS.
    pub supervised_tokens: usize,
    /// Their share of all tokens.
    pub supervised_share: f64,
    /// Tokens per document; `None` without documents.
    pub lengths: Option<Lengths>,
    /// Rows longer than `data.max_len`: text is cut into several documents, answers lose their end.
    pub cut_rows: usize,
    /// Documents left out because they have no token to learn.
    pub dropped_documents: usize,
    /// Rows left out because they hold the MASK id.
    pub mask_id_rows: usize,
    /// Rows that would end a run.
    pub malformed_rows: usize,
    /// What is wrong with the first of those, with file and line.
    pub problems: Vec<String>,
}

/// Quantiles of tokens per document: the shortest document that is at least as long as the given share
/// of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// Half of the documents are not longer.
    pub p50: usize,
    /// 90 % are not longer.
    pub p90: usize,
    /// 99 % are not longer.
    pub p99: usize,
    /// The longest.
    pub max: usize,
    /// The mean.
    pub mean: f64,
}

impl DataReport {
    /// Returns the rows that would end a run.
    pub fn malformed_rows(&self) -> usize {
        let valid = self.valid.iter().map(|valid| valid.malformed_rows);
        self.train.malformed_rows + valid.sum::<usize>()
    }
}

/// Reads the data of a recipe as a run would, without its weights, and goes on after malformed rows.
///
/// # Errors
/// If the model's configuration, the tokenizer or a file cannot be read.
pub fn check_data(recipe: &Recipe) -> Result<DataReport> {
    let config = setup::config(recipe)?;
    let tokenizer: Option<Tokenizer> = setup::tokenizer(recipe, &config)?;
    let reader = setup::reader(recipe, &config, tokenizer.as_ref());
    let sources = recipe.data.train.weighted()?;
    let paths: Vec<_> = sources.into_iter().flat_map(|(paths, _)| paths).collect();
    let valid = &recipe.data.valid.0;
    let valid_reader = setup::validation_reader(reader);
    Ok(DataReport {
        train: survey(&reader, &paths)?,
        valid: match valid.is_empty() {
            true => None,
            false => Some(survey(&valid_reader, valid)?),
        },
    })
}

fn survey(reader: &Reader<'_>, paths: &[std::path::PathBuf]) -> Result<SetReport> {
    let mut report = SetReport::default();
    let mut note = |problem: Error| {
        report.malformed_rows += 1;
        if report.problems.len() < MAX_PROBLEMS {
            report.problems.push(problem.to_string());
        }
        Ok(())
    };
    let corpus = reader.survey(paths, &mut note)?;
    Ok(report.with(&corpus))
}

impl SetReport {
    fn with(self, corpus: &Corpus) -> Self {
        let documents = &corpus.documents;
        let tokens = corpus.num_tokens();
        let supervised_tokens = documents.iter().map(|d| d.num_supervised()).sum();
        Self {
            rows: corpus.num_rows,
            documents: documents.len(),
            tokens,
            supervised_tokens,
            supervised_share: supervised_tokens as f64 / tokens.max(1) as f64,
            lengths: Lengths::of(documents.iter().map(|d| d.ids.len()).collect()),
            cut_rows: corpus.num_cut,
            dropped_documents: corpus.num_dropped,
            mask_id_rows: corpus.num_with_mask,
            ..self
        }
    }
}

impl Lengths {
    fn of(mut lens: Vec<usize>) -> Option<Self> {
        lens.sort_unstable();
        let (&min, &max) = (lens.first()?, lens.last()?);
        let at = |percent: usize| lens[(lens.len() * percent).div_ceil(100) - 1];
        Some(Self {
            min,
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max,
            mean: lens.iter().sum::<usize>() as f64 / lens.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_lengths_that_occur() {
        let lengths = Lengths::of((1..=200).rev().collect()).unwrap();
        let Lengths {
            min,
            p50,
            p90,
            p99,
            max,
            ..
        } = lengths;
        assert_eq!([min, p50, p90, p99, max], [1, 100, 180, 198, 200]);
        assert_eq!(lengths.mean, 100.5);
        let one = Lengths::of(vec![7]).unwrap();
        assert_eq!((one.min, one.p50, one.p99, one.max), (7, 7, 7, 7));
        assert_eq!(Lengths::of(Vec::new()), None);
    }
}
