//! `cargo xtask bench`: kernels, a training step and decoding, beside PyTorch where it is found.
//!
//! Every row of the table is one model, precision and thread count. Ours and the rivals run one after
//! the other, each in a process of its own: what else uses the machine slows all of them, and peak
//! memory is that of one program. Times are printed and never asserted.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step::{cargo, say};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const MODELS: [&str; 2] = ["small-dense", "small-moe"];
const DTYPES: [&str; 2] = ["f32", "bf16"];
const THREADS: [&str; 2] = ["1", "2"];

const HEADER: &str = "
                                     ---------- llada ---------   ------ public torch ------   ------- tuned torch ------
task    model        dtype threads    tok/s       ms    MB          tok/s ratio  (CPU)    MB     tok/s ratio  (CPU)    MB";
const LEGEND: &str = "
tok/s: clean tokens trained on, or tokens written, by the median time; ms: a step, or a forward
ratio: tokens per second, llada's over the rival's; (CPU): the same per CPU second of all threads";

/// What is measured: a program of ours, and a script that does the same in PyTorch.
struct Task {
    name: &'static str,
    package: &'static str,
    example: &'static str,
    script: &'static str,
    /// Flag by which the script takes the model.
    model_flag: &'static str,
    settings: &'static str,
    /// The script's modes: the public way, and a tuned one.
    modes: [&'static str; 2],
    keys: Keys,
    /// Tokens to which the CPU seconds belong.
    tokens: f64,
}

/// Names of the printed figures.
struct Keys {
    tokens_per_s: &'static str,
    cpu_s: &'static str,
    ms: &'static str,
}

const TRAIN: Task = Task {
    name: "train",
    package: "llada-train",
    example: "train_speed",
    script: "torch_train.py",
    model_flag: "--config",
    settings: "--seq-len 1024 --batch 1 --block-size 32 --steps 7",
    modes: ["dfactory", "tuned"],
    keys: Keys {
        tokens_per_s: "clean_tokens_per_s",
        cpu_s: "cpu_s_per_step",
        ms: "ms_per_step",
    },
    tokens: 1024.0,
};

const DECODE: Task = Task {
    name: "decode",
    package: "llada-engine",
    example: "decode_speed",
    script: "torch_decode.py",
    model_flag: "--model",
    settings: "--prompt-len 64 --gen-length 128 --block-size 32 --steps 8",
    modes: ["reference", "cached"],
    keys: Keys {
        tokens_per_s: "tokens_per_s",
        cpu_s: "cpu_s",
        ms: "ms_per_forward",
    },
    tokens: 128.0,
};

/// Writing one token after the other is printed by the same program, and has no rival script.
const AR_KEYS: Keys = Keys {
    tokens_per_s: "ar_tokens_per_s",
    cpu_s: "ar_cpu_s",
    ms: "ar_ms_per_forward",
};

/// Builds and runs all measurements, and prints the table.
pub(crate) fn bench() -> Result<()> {
    let packages = ["llada-tensor", "llada-train", "llada-engine"].map(|name| ["-p", name]);
    cargo(
        &[
            &["build", "--release", "--examples"],
            packages.as_flattened(),
        ]
        .concat(),
    )?;
    for example in ["gemm_speed", "codes_speed", "attention_speed"] {
        cargo(&cargo_run("llada-tensor", example))?;
    }
    let python = python_with_torch()?;
    if python.is_none() {
        say("--- no rivals: no Python that can import torch; see benches/peers/README.md");
    }
    let mut table = HEADER.to_owned();
    for (model, dtype, threads) in cases() {
        for task in [&TRAIN, &DECODE] {
            let case = Case {
                task,
                model,
                dtype,
                threads,
            };
            table += &case.rows(python.as_deref())?;
        }
    }
    print_table(&table);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is this command's output")]
fn print_table(table: &str) {
    println!("{table}\n{LEGEND}");
}

fn cases() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    MODELS.into_iter().flat_map(|model| {
        let dtypes = DTYPES.into_iter();
        dtypes.flat_map(move |dtype| THREADS.map(|threads| (model, dtype, threads)))
    })
}

/// Returns the Python that `LLADA_BENCH_PYTHON` names, else `python3` if it can import torch.
fn python_with_torch() -> Result<Option<String>> {
    let named = env::var("LLADA_BENCH_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".to_owned());
    let imported = Command::new(&python)
        .args(["-c", "import torch"])
        .current_dir(ROOT)
        .output();
    let has_torch = imported.is_ok_and(|output| output.status.success());
    ensure!(
        has_torch || named.is_none(),
        "LLADA_BENCH_PYTHON is `{python}`, which cannot import torch; see benches/peers/README.md"
    );
    Ok(has_torch.then_some(python))
}

/// One program on one model.
struct Case<'a> {
    task: &'a Task,
    model: &'a str,
    dtype: &'a str,
    threads: &'a str,
}

impl Case<'_> {
    /// Measures everyone and returns lines of the table.
    fn rows(&self, python: Option<&str>) -> Result<String> {
        let figures = self.ours()?;
        let ours = Speed::read(&figures, &self.task.keys, self.task.tokens)?;
        let mut row = self.begin(self.task.name, &ours);
        for mode in self.task.modes {
            row += &match python.map(|python| self.rival(python, mode)) {
                Some(Ok(rival)) => rival.beside(&ours),
                Some(Err(error)) => {
                    say(&format!("--- no figure: {error:#}"));
                    Speed::missing()
                }
                None => Speed::missing(),
            };
        }
        if figures.contains_key(AR_KEYS.tokens_per_s) {
            let causal = Speed::read(&figures, &AR_KEYS, self.task.tokens)?;
            row += &self.begin("ar", &causal);
        }
        Ok(row)
    }

    fn begin(&self, name: &str, ours: &Speed) -> String {
        let Self {
            model,
            dtype,
            threads,
            ..
        } = self;
        let Speed {
            tokens_per_s,
            ms,
            peak_mb,
            ..
        } = ours;
        format!(
            "\n{name:7} {model:12} {dtype:5} {threads:>7} {tokens_per_s:8.0} {ms:8.2} {peak_mb:5.0}     "
        )
    }

    fn ours(&self) -> Result<BTreeMap<String, String>> {
        let path = self.config();
        let options = ["--config", &path, "--dtype", self.dtype];
        let args = cargo_run(self.task.package, self.task.example);
        let threads = ["--threads", self.threads];
        let program = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        run(&program, &[&args[..], &["--"], &options, &threads].concat())
    }

    fn rival(&self, python: &str, mode: &str) -> Result<Speed> {
        let (path, task) = (self.config(), self.task);
        let script = format!("benches/peers/{}", task.script);
        let mut args = vec![&*script, task.model_flag, &path, "--mode", mode];
        args.extend(task.settings.split(' '));
        args.extend(["--dtype", self.dtype, "--threads", self.threads]);
        Speed::read(&run(python, &args)?, &task.keys, task.tokens)
    }

    fn config(&self) -> String {
        format!("benches/peers/{}.json", self.model)
    }
}

fn cargo_run<'a>(package: &'a str, example: &'a str) -> [&'a str; 7] {
    [
        "run",
        "--release",
        "--quiet",
        "-p",
        package,
        "--example",
        example,
    ]
}

/// Runs a program that prints lines of a name and a value.
fn run(program: &str, args: &[&str]) -> Result<BTreeMap<String, String>> {
    say(&format!("==> {program} {}", args.join(" ")));
    let output = Command::new(program)
        .args(args)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(ROOT)
        .output()
        .with_context(|| format!("start `{program}`"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{program}` failed ({}): {complaint}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect())
}

/// How fast one program was.
struct Speed {
    tokens_per_s: f64,
    tokens_per_cpu_s: f64,
    ms: f64,
    peak_mb: f64,
}

impl Speed {
    fn read(figures: &BTreeMap<String, String>, keys: &Keys, tokens: f64) -> Result<Self> {
        let figure = |name: &str| {
            let value = figures.get(name).map(|value| value.parse::<f64>());
            value
                .with_context(|| format!("`{name}` was not printed"))?
                .with_context(|| format!("`{name}` is no number"))
        };
        Ok(Self {
            tokens_per_s: figure(keys.tokens_per_s)?,
            tokens_per_cpu_s: tokens / figure(keys.cpu_s)?,
            ms: figure(keys.ms)?,
            peak_mb: figure("peak_rss_mb")?,
        })
    }

    /// Returns a rival's cells of the table.
    fn beside(&self, ours: &Self) -> String {
        let ratio = ours.tokens_per_s / self.tokens_per_s;
        let cpu_ratio = ours.tokens_per_cpu_s / self.tokens_per_cpu_s;
        let Self {
            tokens_per_s,
            peak_mb,
            ..
        } = self;
        format!("  {tokens_per_s:8.0} {ratio:5.2} ({cpu_ratio:5.2}) {peak_mb:5.0}")
    }

    fn missing() -> String {
        format!("  {:>8} {:>5} {:>7} {:>5}", "-", "-", "-", "-")
    }
}
