//! What of its model a run trains: all but what the recipe freezes, or an adapter.

use std::collections::BTreeSet;

use llada_model::{
    Adapter, AdapterConfig, AdapterPlan, Config, Gradients, Model, ParamSpec, TensorGroup, Weights,
};

use crate::error::{Error, Result};
use crate::recipe::{Lora, Recipe, Target};

/// What a run trains.
pub(crate) enum Trained {
    /// The values of all parameters but those of these names.
    AllBut(BTreeSet<String>),
    /// Low-rank parts.
    Adapter(AdapterPlan),
}

impl Trained {
    /// Returns what a recipe trains of a model.
    ///
    /// # Errors
    /// If the recipe freezes or adapts something that the model does not have, or leaves nothing to train.
    pub(crate) fn of(recipe: &Recipe, config: &Config) -> Result<Self> {
        match &recipe.lora {
            Some(lora) => Ok(Self::Adapter(plan(lora, config)?)),
            None => Ok(Self::AllBut(frozen(&recipe.model.freeze, config)?)),
        }
    }

    /// Returns how many numbers are trained beside or in place of a parameter.
    pub(crate) fn num_elements(&self, spec: &ParamSpec) -> usize {
        match self {
            Self::AllBut(frozen) if frozen.contains(&spec.name) => 0,
            Self::AllBut(_) => usize::from(spec.kind.is_trainable()) * spec.num_elements(),
            Self::Adapter(plan) => {
                let shapes = plan.shapes(spec).into_iter().flatten();
                shapes.map(|[rows, columns]| rows * columns).sum()
            }
        }
    }

    /// Returns gradients of zero for what is trained.
    pub(super) fn zero_gradients(&self, model: &Model) -> Gradients {
        model.zero_gradients_of(|spec| self.num_elements(spec) > 0)
    }
}

/// Returns how files describe the adapter that a recipe trains.
pub(super) fn adapter_config(recipe: &Recipe) -> Option<AdapterConfig> {
    let Lora {
        rank,
        alpha,
        dropout,
        ..
    } = *recipe.lora.as_ref()?;
    let base = recipe.model.path.as_ref();
    Some(AdapterConfig {
        rank,
        alpha,
        dropout,
        base: base.map(|path| path.display().to_string()),
    })
}

/// Gives a base the adapter of an earlier session.
///
/// # Errors
/// If it does not fit the base, or is not as the recipe has it.
pub(super) fn resume_adapter(base: Model, adapter: &Adapter, plan: &AdapterPlan) -> Result<Model> {
    let parts = adapter.fit(&base.config)?;
    let specs = Weights::specs(&base.config).into_params().into_iter();
    let is_planned = specs.zip(parts.params()).all(|((_, spec), (_, part))| {
        let found = part.as_ref().map(|part| [part.a.dims2(), part.b.dims2()]);
        let scale = part.as_ref().map_or(plan.scale, |part| part.scale);
        found == plan.shapes(&spec) && scale == plan.scale
    });
    if is_planned {
        return Ok(base.with_adapter(parts));
    }
    Err(Error::Setting {
        key: "lora",
        problem: "has another rank, alpha or targets than the adapter of the run; resume with the \
                  recipe that it began with"
            .into(),
    })
}

fn plan(lora: &Lora, config: &Config) -> Result<AdapterPlan> {
    let refuse = |key, problem| Err(Error::Setting { key, problem });
    let specs = Weights::specs(config).into_params();
    let has = |target: &Target| {
        let group = TensorGroup::from(*target);
        specs.iter().any(|(_, spec)| TensorGroup::of(spec) == group)
    };
    let targets = match &lora.targets {
        Some(targets) => targets.clone(),
        None => [Target::Attention, Target::Dense, Target::Shared]
            .into_iter()
            .filter(has)
            .collect(),
    };
    if let Some(target) = targets.iter().find(|target| !has(target)) {
        let name = TensorGroup::from(*target).name();
        return refuse(
            "lora.targets",
            format!("names `{name}`, which this model does not have; leave it out"),
        );
    }
    let plan = AdapterPlan {
        targets: targets.into_iter().map(TensorGroup::from).collect(),
        rank: lora.rank,
        scale: lora.alpha / lora.rank as f32,
    };
    let adapted = specs.iter().filter(|(_, spec)| plan.shapes(spec).is_some());
    let too_thin = adapted
        .map(|(name, spec)| (name, spec.shape[0].min(spec.shape[1])))
        .find(|(_, side)| *side < lora.rank);
    match too_thin {
        None => Ok(plan),
        Some((name, side)) => refuse(
            "lora.rank",
            format!(
                "must be at most {side}, the smaller side of `{name}`, found {}",
                lora.rank
            ),
        ),
    }
}

/// Returns the names of the parameters that the patterns match.
fn frozen(patterns: &[String], config: &Config) -> Result<BTreeSet<String>> {
    let refuse = |problem| {
        Err(Error::Setting {
            key: "model.freeze",
            problem,
        })
    };
    let specs = Weights::specs(config).into_params();
    let mut frozen = BTreeSet::new();
    for pattern in patterns {
        let matched: Vec<_> = specs
            .iter()
            .filter(|(_, spec)| is_match(pattern, spec))
            .collect();
        if matched.is_empty() {
            let groups = TensorGroup::ALL.map(TensorGroup::name).join("`, `");
            return refuse(format!(
                "names `{pattern}`, of which this model has nothing; expected one of `{groups}`, or \
                 names of parameters such as `model.layers.0.*`"
            ));
        }
        frozen.extend(matched.into_iter().map(|(name, _)| name.clone()));
    }
    let is_left =
        |(name, spec): &(String, ParamSpec)| spec.kind.is_trainable() && !frozen.contains(name);
    match specs.iter().any(is_left) {
        true => Ok(frozen),
        false => refuse("leaves nothing to train; freeze less".into()),
    }
}

/// Returns whether a pattern names the parameter or its group.
fn is_match(pattern: &str, spec: &ParamSpec) -> bool {
    TensorGroup::of(spec).name() == pattern || is_glob_match(pattern, &spec.name)
}

/// Returns whether a name is as a pattern says, in which `*` stands for any characters or none.
fn is_glob_match(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len())
                .filter(|&end| name.is_char_boundary(end))
                .any(|end| is_glob_match(rest, &name[end..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use llada_diffusion::LabelAlignment;

    use super::*;
    use crate::testing::{config, moe_config};

    fn frozen_of(patterns: &[&str]) -> std::result::Result<Vec<String>, String> {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        match frozen(&patterns, &moe_config(LabelAlignment::Same)) {
            Ok(names) => Ok(names.into_iter().collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn groups_and_patterns_freeze_what_they_name() {
        let router = frozen_of(&["router"]).unwrap();
        assert!(router.iter().all(|name| name.contains(".mlp.gate.")));
        let first = frozen_of(&["model.layers.0.*", "*.norm.weight"]).unwrap();
        assert!(first.contains(&"model.layers.0.mlp.gate_proj.weight".to_owned()));
        assert!(first.contains(&"model.norm.weight".to_owned()));
        assert!(!first.iter().any(|name| name.contains("layers.1")));
        assert_eq!(frozen_of(&[]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_refused_by_name() {
        let message = frozen_of(&["router", "model.layers.7.*"]).unwrap_err();
        assert!(message.contains("`model.layers.7.*`"), "{message}");
        assert!(frozen_of(&["*"]).unwrap_err().contains("nothing to train"));
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "aab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("**", "", true),
        ] {
            assert_eq!(is_glob_match(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn an_adapter_is_for_what_the_model_has() {
        let lora = |rank, targets: Option<&[Target]>| Lora {
            rank,
            alpha: 8.0,
            dropout: 0.0,
            targets: targets.map(<[_]>::to_vec),
        };
        let (dense, moe) = (
            config(LabelAlignment::Same),
            moe_config(LabelAlignment::Same),
        );
        let groups = |config| plan(&lora(4, None), config).unwrap().targets;
        assert_eq!(groups(&dense), [TensorGroup::Attention, TensorGroup::Dense]);
        assert!(groups(&moe).contains(&TensorGroup::Shared));
        assert!(!groups(&moe).contains(&TensorGroup::Experts));
        let message = |lora| plan(&lora, &dense).unwrap_err().to_string();
        assert!(message(lora(4, Some(&[Target::Experts]))).contains("`experts`"));
        assert!(message(lora(17, None)).contains("at most 16"));
    }
}
