//! Ways of decoding: every combination of the values to sweep.

use serde::Deserialize;
use serde_json::{Map, Value};

use llada_request::Settings;

use crate::args::Sweep;
use crate::failure;

/// One way of decoding.
#[derive(Debug)]
pub(super) struct Setting {
    /// What it is called in the results.
    pub name: String,
    pub decoding: Settings,
}

/// Returns every combination of the values; without a sweep, what the flags say alone.
pub(super) fn settings(sweeps: &[Sweep], flags: &Settings) -> anyhow::Result<Vec<Setting>> {
    if let Some(name) = flags.records() {
        return Err(failure::usage(format!(
            "`{name}` adds to the JSON of an answer, which an evaluation does not print"
        )));
    }
    let mut combinations: Vec<Vec<(&str, &Value)>> = vec![Vec::new()];
    for sweep in sweeps {
        let with = |combination: &Vec<_>, value| {
            let mut combination = combination.clone();
            combination.push((sweep.name.as_str(), value));
            combination
        };
        let product = combinations.iter().flat_map(|combination| {
            sweep
                .values
                .iter()
                .map(move |value| with(combination, value))
        });
        combinations = product.collect();
    }
    let settings = combinations
        .iter()
        .map(|combination| setting(combination, flags));
    settings.collect()
}

fn setting(combination: &[(&str, &Value)], flags: &Settings) -> anyhow::Result<Setting> {
    let mut fields = Map::new();
    for (name, value) in combination {
        if fields
            .insert((*name).to_owned(), (*value).clone())
            .is_some()
        {
            return Err(failure::usage(format!("--sweep: `{name}` is swept twice")));
        }
    }
    let decoding = Settings::deserialize(Value::Object(fields));
    let decoding = decoding.map_err(|error| failure::usage(format!("--sweep: {error}")))?;
    let spelled = |(name, value): &(&str, &Value)| match value {
        Value::String(word) => format!("{name}={word}"),
        value => format!("{name}={value}"),
    };
    let names: Vec<String> = combination.iter().map(spelled).collect();
    Ok(Setting {
        name: if names.is_empty() {
            "model".to_owned()
        } else {
            names.join(" ")
        },
        decoding: decoding.or(flags),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sweeps: &[&str]) -> anyhow::Result<Vec<String>> {
        let sweeps: Vec<Sweep> = sweeps.iter().map(|text| text.parse().unwrap()).collect();
        let settings = settings(&sweeps, &Settings::default())?;
        Ok(settings.into_iter().map(|setting| setting.name).collect())
    }

    #[test]
    fn every_combination_of_two_sweeps_is_a_setting() {
        let found = names(&["threshold=0.5,0.9", "mode=q,s"]).unwrap();
        let expected = [
            "threshold=0.5 mode=q",
            "threshold=0.5 mode=s",
            "threshold=0.9 mode=q",
            "threshold=0.9 mode=s",
        ];
        assert_eq!(found, expected);
        assert_eq!(names(&[]).unwrap(), ["model"]);
    }

    #[test]
    fn an_unknown_or_repeated_setting_is_refused_by_name() {
        for (sweeps, says) in [
            (&["hurdle=0.5"][..], "hurdle"),
            (&["seed=1", "seed=2"], "twice"),
        ] {
            let error = names(sweeps).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
