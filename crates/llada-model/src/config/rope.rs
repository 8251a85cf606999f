//! Rotary position embedding: plain, YaRN and Llama-3 frequencies (`model.md` section 5).

use std::f64::consts::PI;

use super::keys::Keys;
use crate::Error;

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Extension beyond the native window.
    pub scaling: RopeScaling,
}

/// How frequencies are changed to reach beyond the native window.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// By YaRN, arXiv:2309.00071.
    Yarn(Yarn),
    /// As Llama 3.1 and later do.
    Llama3(Llama3),
}

/// Settings of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// Ratio of the new to the native window.
    pub factor: f64,
    /// Native window in tokens.
    pub original_max_position_embeddings: usize,
    /// Rotations over the native window above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations over the native window below which a frequency is divided by the factor.
    pub beta_slow: f64,
    /// Factor on the rotated dimensions.
    pub attention_factor: f64,
}

/// Settings of Llama 3's scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3 {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Rotations over the native window below which a frequency is divided by the factor.
    pub low_freq_factor: f64,
    /// Rotations over the native window above which a frequency is kept.
    pub high_freq_factor: f64,
    /// Native window in tokens.
    pub original_max_position_embeddings: usize,
}

impl RopeConfig {
    /// Returns the frequencies, `[rotary_dim / 2]`, and the factor on cos and sin.
    pub(super) fn inv_freq(&self, rotary_dim: usize) -> (Vec<f32>, f32) {
        let exponent = |i: usize| -2.0 * i as f64 / rotary_dim as f64;
        let plain = (0..rotary_dim / 2).map(|i| self.theta.powf(exponent(i)));
        match &self.scaling {
            RopeScaling::None => (plain.map(|f| f as f32).collect(), 1.0),
            RopeScaling::Llama3(llama3) => (plain.map(|f| llama3.scale(f) as f32).collect(), 1.0),
            RopeScaling::Yarn(yarn) => {
                let (low, high) = yarn.bounds(self.theta, rotary_dim);
                let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let scaled = plain
                    .enumerate()
                    .map(|(i, f)| yarn.scale(f, ramp(i)) as f32);
                (scaled.collect(), yarn.attention_factor as f32)
            }
        }
    }
}

impl Yarn {
    /// Returns the frequency indices between which the ramp rises from 0 to 1.
    fn bounds(&self, theta: f64, rotary_dim: usize) -> (f64, f64) {
        let (width, window) = (
            rotary_dim as f64,
            self.original_max_position_embeddings as f64,
        );
        let index =
            |rotations: f64| width * (window / (2.0 * PI * rotations)).ln() / (2.0 * theta.ln());
        let low = index(self.beta_fast).floor().max(0.0);
        let high = index(self.beta_slow).ceil().min(width - 1.0);
        if high == low {
            (low, high + 0.001)
        } else {
            (low, high)
        }
    }

    /// Divides the share `ramp` of a frequency by the factor.
    fn scale(&self, frequency: f64, ramp: f64) -> f64 {
        frequency * ((1.0 - ramp) + ramp / self.factor)
    }
}

impl Llama3 {
    fn scale(&self, frequency: f64) -> f64 {
        let rotations = self.original_max_position_embeddings as f64 * frequency / (2.0 * PI);
        let span = self.high_freq_factor - self.low_freq_factor;
        let kept = ((rotations - self.low_freq_factor) / span).clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / self.factor)
    }
}

/// Reads the number of rotating dimensions; `rotary_dim` may repeat it but not contradict it.
pub(super) fn rotary_dim(keys: Keys<'_>, head_dim: usize) -> Result<usize, Error> {
    let stated = keys.count("rotary_dim", head_dim)?;
    let factor = keys.positive("partial_rotary_factor")?;
    let rotary_dim = match (factor, stated) {
        (Some(factor), _) => (head_dim as f64 * factor) as usize,
        (None, stated) => stated.unwrap_or(head_dim),
    };
    let key = if factor.is_some() {
        "partial_rotary_factor"
    } else {
        "rotary_dim"
    };
    let expected = format!("such that an even number of the {head_dim} head dimensions rotate");
    let even = rotary_dim.is_multiple_of(2) && (2..=head_dim).contains(&rotary_dim);
    keys.require(even, key, expected)?;
    let agrees = stated.is_none_or(|stated| stated == rotary_dim);
    keys.require(
        agrees,
        "rotary_dim",
        format!("{rotary_dim}, as `partial_rotary_factor` says"),
    )?;
    Ok(rotary_dim)
}

/// Reads `rope_theta` with `rope_scaling`, or the newer `rope_parameters` that holds both.
pub(super) fn parse(keys: Keys<'_>, max_positions: usize) -> Result<RopeConfig, Error> {
    let (newer, older) = (
        keys.object("rope_parameters")?,
        keys.object("rope_scaling")?,
    );
    let agree = newer.is_none() || older.is_none() || newer == older;
    keys.require(
        agree,
        "rope_scaling",
        "absent when `rope_parameters` is present",
    )?;
    let prefix = if newer.is_some() {
        "rope_parameters."
    } else {
        "rope_scaling."
    };
    let Some(object) = newer.or(older) else {
        return Ok(RopeConfig {
            theta: theta(keys, None)?,
            scaling: RopeScaling::None,
        });
    };
    let nested = Keys::nested(object, prefix);
    let theta = theta(keys, nested.positive("rope_theta")?)?;
    let factor = keys.get("partial_rotary_factor");
    let agree = nested
        .get("partial_rotary_factor")
        .is_none_or(|inner| Some(inner) == factor);
    nested.require(agree, "partial_rotary_factor", "equal to the top-level key")?;
    Ok(RopeConfig {
        theta,
        scaling: scaling(nested, max_positions)?,
    })
}

fn theta(keys: Keys<'_>, nested: Option<f64>) -> Result<f64, Error> {
    let outer = keys.positive("rope_theta")?;
    let agree = outer.is_none() || nested.is_none() || outer == nested;
    keys.require(agree, "rope_theta", "equal to `rope_parameters.rope_theta`")?;
    let theta = nested.or(outer).unwrap_or(10_000.0);
    keys.require(theta > 1.0, "rope_theta", "above 1")?;
    Ok(theta)
}

fn scaling(keys: Keys<'_>, max_positions: usize) -> Result<RopeScaling, Error> {
    let key = if keys.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    match keys.text(key)? {
        Some("default") => Ok(RopeScaling::None),
        Some("yarn") => yarn(keys, max_positions),
        Some("llama3") => llama3(keys, max_positions),
        _ => Err(keys.refuse(key, "\"default\", \"yarn\" or \"llama3\"")),
    }
}

fn yarn(keys: Keys<'_>, max_positions: usize) -> Result<RopeScaling, Error> {
    let factor = factor(keys)?;
    let original = original_window(keys, max_positions)?;
    let reach = original as f64 * factor;
    let consistent = (original as f64..=reach).contains(&(max_positions as f64));
    let expected = format!(
        "such that `max_position_embeddings` ({max_positions}) lies between the native window \
         ({original}) and the extended one ({reach})"
    );
    keys.require(consistent, "factor", expected)?;
    let beta_fast = keys.positive("beta_fast")?.unwrap_or(32.0);
    let beta_slow = keys.positive("beta_slow")?.unwrap_or(1.0);
    keys.require(
        beta_slow < beta_fast,
        "beta_slow",
        format!("below `beta_fast` ({beta_fast})"),
    )?;
    Ok(RopeScaling::Yarn(Yarn {
        factor,
        original_max_position_embeddings: original,
        beta_fast,
        beta_slow,
        attention_factor: attention_factor(keys, factor)?,
    }))
}

fn attention_factor(keys: Keys<'_>, factor: f64) -> Result<f64, Error> {
    let magnitude = |scale: f64| 0.1 * scale * factor.ln() + 1.0;
    let ratio = match (keys.positive("mscale")?, keys.positive("mscale_all_dim")?) {
        (Some(scale), Some(all_dim)) => magnitude(scale) / magnitude(all_dim),
        _ => magnitude(1.0),
    };
    Ok(keys.positive("attention_factor")?.unwrap_or(ratio))
}

fn llama3(keys: Keys<'_>, max_positions: usize) -> Result<RopeScaling, Error> {
    let required = |key| {
        keys.positive(key)?
            .ok_or_else(|| keys.refuse(key, "a number above 0"))
    };
    let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
    keys.require(
        low < high,
        "low_freq_factor",
        format!("below `high_freq_factor` ({high})"),
    )?;
    Ok(RopeScaling::Llama3(Llama3 {
        factor: factor(keys)?,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original_window(keys, max_positions)?,
    }))
}

fn factor(keys: Keys<'_>) -> Result<f64, Error> {
    let factor = keys.positive("factor")?.filter(|factor| *factor >= 1.0);
    factor.ok_or_else(|| keys.refuse("factor", "a number of at least 1"))
}

fn original_window(keys: Keys<'_>, max_positions: usize) -> Result<usize, Error> {
    let key = "original_max_position_embeddings";
    match keys.get(key) {
        None => Ok(max_positions),
        Some(_) => keys.size(key, super::parse::MAX_POSITIONS),
    }
}
