//! Matches the parameters of a configuration with the tensors of a file.

use std::collections::BTreeSet;

use super::names::{Place, places};
use super::{GgufFile, GgufTensor};
use crate::load::{Pieces, Source, Sources};
use crate::{Config, Error, ParamKind, ParamSpec, Weights};

/// Returns the bytes of every parameter, with warnings.
///
/// # Errors
/// If a tensor is missing, unexpected, or of another shape.
pub(crate) fn sources<'a>(config: &Config, file: &'a GgufFile) -> Result<Sources<'a>, Error> {
    let mut plan = Plan {
        config,
        file,
        used: BTreeSet::new(),
        missing: Vec::new(),
        misshapen: Vec::new(),
        warnings: Vec::new(),
    };
    let sources = Weights::build(config, |spec| {
        Ok::<_, Error>((spec.clone(), plan.source(spec)))
    })?;
    Ok((sources, plan.finish()?))
}

struct Plan<'a, 'c> {
    config: &'c Config,
    file: &'a GgufFile,
    used: BTreeSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> Plan<'a, '_> {
    fn source(&mut self, spec: &ParamSpec) -> Source<'a> {
        let split = self.config.family.is_dense_parent();
        let mut found = places(self.config, spec, split);
        if self.file.get(&found[0].name).is_none() {
            found = self.alternative(spec, found);
        }
        let absent = self.file.get(&found[0].name).is_none();
        if spec.kind == ParamKind::ExpertBias && absent {
            let name = &found[0].name;
            self.warnings
                .push(format!("`{name}` is not in the file and is zero"));
            return Source::Zeros;
        }
        let pieces = found.iter().filter_map(|place| self.pieces(spec, place));
        Source::Rows(pieces.flatten().collect())
    }

    /// Files made by hand may split the projection, or leave the suffix of the expert bias away.
    fn alternative(&self, spec: &ParamSpec, found: Vec<Place>) -> Vec<Place> {
        let mut other = places(self.config, spec, true);
        if spec.kind == ParamKind::ExpertBias {
            other[0].name = other[0].name.replace("exp_probs_b.bias", "exp_probs_b");
        }
        match self.file.get(&other[0].name) {
            Some(_) => other,
            None => found,
        }
    }

    /// Returns the rows at a place, in the order of the parameter.
    fn pieces(&mut self, spec: &ParamSpec, place: &Place) -> Option<Pieces<'a>> {
        let Some(tensor) = self.file.get(&place.name) else {
            self.missing.push(place.name.clone());
            return None;
        };
        let mut shape = [&[place.rows.len()], &spec.shape[1..]].concat();
        if place.expert.is_some() {
            let num_experts = self.config.moe.as_ref().map_or(0, |moe| moe.num_experts);
            shape.insert(0, num_experts);
        }
        let first_use = self.used.insert(place.name.clone());
        if tensor.shape != shape || (spec.kind.is_always_f32() && tensor.format.is_quantised()) {
            if first_use {
                self.misshapen.push(format!(
                    "{} (expected {shape:?}, found {:?} of {})",
                    place.name,
                    tensor.shape,
                    tensor.format.name()
                ));
            }
            return None;
        }
        Some(self.rows(tensor, place))
    }

    fn rows(&self, tensor: &'a GgufTensor, place: &Place) -> Pieces<'a> {
        let bytes = self.file.bytes(tensor);
        let num_experts = if place.expert.is_some() {
            tensor.shape[0]
        } else {
            1
        };
        let len = bytes.len() / num_experts;
        let bytes = &bytes[place.expert.unwrap_or(0) * len..][..len];
        let Some(_) = place.paired else {
            return vec![(tensor.format, bytes)];
        };
        let row_bytes = len / place.rows.len();
        let mut rows = vec![(tensor.format, &bytes[..0]); place.rows.len()];
        for (index, row) in bytes.chunks_exact(row_bytes).enumerate() {
            rows[place.row(index) - place.rows.start].1 = row;
        }
        rows
    }

    fn finish(self) -> Result<Vec<String>, Error> {
        let Self {
            used,
            missing,
            misshapen,
            mut warnings,
            ..
        } = self;
        let layers = self.config.num_hidden_layers;
        let is_extra = |name: &str| {
            let layer = name
                .strip_prefix("blk.")
                .and_then(|rest| rest.split('.').next());
            layer
                .and_then(|layer| layer.parse().ok())
                .is_some_and(|layer: usize| layer >= layers)
        };
        let others = self
            .file
            .tensors()
            .map(|(name, _)| name)
            .filter(|name| !used.contains(*name));
        let (extra, unexpected): (Vec<_>, Vec<_>) =
            others.map(str::to_owned).partition(|name| is_extra(name));
        if !extra.is_empty() {
            warnings.push(format!(
                "{} tensors of layers after {layers} are skipped",
                extra.len()
            ));
        }
        match missing.is_empty() && misshapen.is_empty() && unexpected.is_empty() {
            true => Ok(warnings),
            false => Err(Error::Tensors {
                missing,
                unexpected,
                misshapen,
            }),
        }
    }
}
