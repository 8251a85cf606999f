//! What the speed examples have in common: their arguments, a stopwatch, and what the process used.
//!
//! `train_speed` and `decode_speed` belong to different crates and include this file. Each measures
//! one model in one process, so that the peak memory is that model's, and prints `name value` lines
//! as the rival scripts in `peers` do. Linux only: the figures of the process come from `/proc`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use llada_model::{Config, Model, Weights};
use llada_tensor::Precision;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A model with random weights, and the threads to run it on.
pub(crate) struct Setup {
    pub(crate) model: Model,
    pub(crate) pool: rayon::ThreadPool,
}

/// Numbers that an example takes besides the arguments of [`Setup`].
pub(crate) type Numbers<const N: usize> = [(&'static str, usize); N];

impl Setup {
    /// Reads `--config FILE.json [--dtype f32|bf16] [--threads N]`, and `numbers`, each with its
    /// default. MASK is the vocabulary's last id.
    pub(crate) fn from_args<const N: usize>(numbers: Numbers<N>) -> Result<(Self, [usize; N])> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let options = options(&args, &numbers.map(|(name, _)| name))?;
        let mut values = numbers.map(|(_, default)| default);
        for (value, (name, _)) in values.iter_mut().zip(numbers) {
            if let Some(given) = options.get(name) {
                *value = given.parse()?;
            }
        }
        let path = options.get("--config").ok_or("give `--config FILE.json`")?;
        let precision = match options.get("--dtype").copied() {
            None | Some("f32") => Precision::F32,
            Some("bf16") => Precision::Bf16,
            Some(other) => return Err(format!("`--dtype` is f32 or bf16, found {other}").into()),
        };
        // 0 lets rayon decide, by RAYON_NUM_THREADS or the number of cores.
        let threads = options.get("--threads").copied().unwrap_or("0").parse()?;
        let config = read_config(Path::new(path))?;
        let weights = Weights::random(&config, 0, precision);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()?;
        let model = Model::new(config, weights);
        Ok((Self { model, pool }, values))
    }
}

fn options<'a>(args: &'a [String], own: &[&str]) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut options = BTreeMap::new();
    for pair in args.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("`{}` needs a value", pair[0]).into());
        };
        let common = ["--config", "--dtype", "--threads"];
        if !common.iter().chain(own).any(|known| known == name) {
            return Err(format!("unknown argument `{name}`").into());
        }
        options.insert(name.as_str(), value.as_str());
    }
    Ok(options)
}

fn read_config(path: &Path) -> Result<Config> {
    let text =
        fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let mut config = Config::from_json(&text)?;
    config.mask_token_id = Some(config.vocab_size as u32 - 1);
    config.label_alignment = Some(Default::default());
    Ok(config)
}

/// How long the runs of a body took.
pub(crate) struct Timing {
    /// Seconds of each run, shortest first.
    sorted: Vec<f64>,
    /// Seconds of all threads together, per run.
    pub(crate) cpu_seconds: f64,
}

impl Timing {
    pub(crate) fn median(&self) -> f64 {
        self.sorted[self.sorted.len() / 2]
    }

    pub(crate) fn best(&self) -> f64 {
        self.sorted[0]
    }
}

/// Times `runs` runs of `body`, after some that do not count. The body receives the number of the run.
///
/// # Panics
/// If `runs` is 0.
pub(crate) fn time(
    warmup: usize,
    runs: usize,
    mut body: impl FnMut(usize) -> Result<()>,
) -> Result<Timing> {
    (0..warmup).try_for_each(&mut body)?;
    let cpu_before = cpu_seconds()?;
    let mut sorted = Vec::with_capacity(runs);
    for run in warmup..warmup + runs {
        let start = Instant::now();
        body(run)?;
        sorted.push(start.elapsed().as_secs_f64());
    }
    let cpu_seconds = (cpu_seconds()? - cpu_before) / runs as f64;
    sorted.sort_by(f64::total_cmp);
    Ok(Timing {
        sorted,
        cpu_seconds,
    })
}

/// Returns the CPU time of all threads so far, which the kernel gives in hundredths of a second.
fn cpu_seconds() -> Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ of every Linux on x86-64 and ARM64
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in parentheses; utime and stime are fields 14 and 15.
    let (_, fields) = stat
        .rsplit_once(") ")
        .ok_or("/proc/self/stat has no name")?;
    let mut ticks = 0.0;
    for field in fields.split(' ').skip(11).take(2) {
        ticks += field.parse::<f64>()?;
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// Returns the largest memory that the process has held, in MiB.
pub(crate) fn peak_rss_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .ok_or("/proc/self/status has no VmHWM")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// Returns pseudo-random ids that are never MASK.
pub(crate) fn random_ids(config: &Config, document: u64, len: u32) -> Vec<u32> {
    let rng = llada_diffusion::Rng::new(1, llada_diffusion::Stream::Data);
    let num_ids = config.vocab_size as u32 - 1;
    (0..len)
        .map(|position| rng.below(0, document, position, num_ids))
        .collect()
}
