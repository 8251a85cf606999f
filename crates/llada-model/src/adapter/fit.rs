//! The factors of a file as low-rank parts of a model's parameters.

use std::collections::BTreeSet;

use llada_tensor::{LowRank, Tensor};

use super::file::{Adapter, refused};
use crate::names::{self, Part};
use crate::{Config, Error, ParamKind, ParamSpec, Weights};

/// The factors A and B of each part of a parameter, where a file has them.
type Factors<'a> = Vec<(Part, Option<&'a [Tensor; 2]>)>;

impl Adapter {
    /// Returns the low-rank parts that the adapter gives the parameters of a model.
    ///
    /// # Errors
    /// If the model lacks a weight that the adapter is for, or one has another shape or is no projection.
    pub fn fit(&self, config: &Config) -> Result<Weights<Option<LowRank>>, Error> {
        let mut unused: BTreeSet<&str> = self.factors.keys().map(String::as_str).collect();
        let parts = Weights::build(config, |spec| {
            let found: Factors<'_> = names::parts(config, spec)
                .into_iter()
                .map(|part| {
                    unused.remove(part.name.as_str());
                    let factors = self.factors.get(&part.name);
                    (part, factors)
                })
                .collect();
            self.part(spec, &found)
        })?;
        match unused.first() {
            None => Ok(parts),
            Some(name) => Err(refused(
                &self.path,
                format!("adapts `{name}`, which the base does not have; it is of another base"),
            )),
        }
    }

    fn part(&self, spec: &ParamSpec, found: &Factors<'_>) -> Result<Option<LowRank>, Error> {
        for (part, factors) in found {
            if let Some([a, b]) = factors {
                self.check(spec, part, a, b)?;
            }
        }
        let pairs: Vec<_> = found.iter().filter_map(|(_, factors)| *factors).collect();
        let Some([first, _]) = pairs.first() else {
            return Ok(None);
        };
        let is_shared = pairs.len() == found.len() && pairs.iter().all(|[a, _]| a == first);
        Ok(Some(match is_shared {
            true => self.with_one_a(spec, &pairs),
            false => self.with_own_as(spec, found),
        }))
    }

    fn check(&self, spec: &ParamSpec, part: &Part, a: &Tensor, b: &Tensor) -> Result<(), Error> {
        let name = &part.name;
        let refuse = |problem| Err(refused(&self.path, problem));
        if spec.kind != ParamKind::Matrix {
            return refuse(format!(
                "adapts `{name}`; only projections of attention and of feed-forward parts can be"
            ));
        }
        let expected = [part.rows.len(), spec.shape[1]];
        let found = [b.dims2()[0], a.dims2()[1]];
        if expected != found {
            return refuse(format!(
                "adapts `{name}` as {found:?}, which is {expected:?} in the base; it is of another base"
            ));
        }
        Ok(())
    }

    /// Puts the rows of B on top of each other.
    fn with_one_a(&self, spec: &ParamSpec, pairs: &[&[Tensor; 2]]) -> LowRank {
        let rows = pairs.iter().flat_map(|[_, b]| b.f32s()).copied().collect();
        LowRank {
            a: pairs[0][0].clone(),
            b: Tensor::from_f32(&[spec.shape[0], self.config.rank], rows),
            scale: self.scale,
        }
    }

    /// Puts the As on top of each other; each part's rows of B are zero but where they meet their own.
    fn with_own_as(&self, spec: &ParamSpec, found: &Factors<'_>) -> LowRank {
        let num_pairs = found.iter().filter(|(_, pair)| pair.is_some()).count();
        let (part_rank, rank) = (self.config.rank, num_pairs * self.config.rank);
        let mut a = Vec::with_capacity(rank * spec.shape[1]);
        let mut b = Tensor::zeros(&[spec.shape[0], rank]);
        let adapted = found
            .iter()
            .filter_map(|(part, pair)| Some((part, (*pair)?)));
        for (number, (part, [part_a, part_b])) in adapted.enumerate() {
            a.extend_from_slice(part_a.f32s());
            let rows = b.f32s_mut().chunks_exact_mut(rank);
            let rows = rows.skip(part.rows.start).take(part.rows.len());
            for (row, values) in rows.zip(part_b.f32s().chunks_exact(part_rank)) {
                row[number * part_rank..][..part_rank].copy_from_slice(values);
            }
        }
        LowRank {
            a: Tensor::from_f32(&[rank, spec.shape[1]], a),
            b,
            scale: self.scale,
        }
    }
}
