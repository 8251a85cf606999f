//! Prints how long a step of block-diffusion training takes, and the memory it needs.
//!
//! `cargo run --release -p llada-train --example train_speed -- --config benches/peers/small-dense.json
//! --dtype bf16 --threads 1`. One document of 1024 random tokens per step (`--seq-len`), in blocks of 32, a
//! mask ratio between 0.3 and 0.8; a step is everything from the document to the updated weights.
//! `--recompute 1` computes what layers need for their backward again, but for the last one.
#![expect(clippy::print_stdout, reason = "a measurement for people")]

#[path = "../../../benches/process.rs"]
mod process;

use llada_diffusion::{
    Band, BlockSize, Elision, NoiseSchedule, Normalisation, Objective, RateScope,
};
use llada_model::{Activations, Config};
use llada_train::Learner;
use llada_train::batch::{Assembly, Diffusion, Reading, Task};
use llada_train::data::{Document, Drawn, Unit};
use llada_train::objective::Loss;
use llada_train::optimizer::AdamWSettings;
use llada_train::step::StepSettings;

use process::{Result, Setup, peak_rss_mib, random_ids, time};

const BLOCK_SIZE: usize = 32;
const WARMUP: usize = 2;
const STEPS: usize = 7;

const ADAMW: AdamWSettings = AdamWSettings {
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0.1,
};

fn main() -> Result<()> {
    let numbers = [("--seq-len", 1024), ("--recompute", 0)];
    let (Setup { model, pool }, [seq_len, recompute]) = Setup::from_args(numbers)?;
    let corpus = corpus(&model.config, seq_len);
    let assembly = assembly(&model.config, seq_len)?;
    let settings = StepSettings {
        learning_rate: 1e-4,
        clip: 1.0,
        activations: match recompute {
            0 => Activations::Keep,
            _ => Activations::Recompute,
        },
        expert_bias_rate: 0.0,
    };
    let block_size = BlockSize::new(BLOCK_SIZE)?;
    let gradients = model.zero_gradients();
    let mut learner = Learner::new(model, gradients, ADAMW);
    let mut losses = Vec::new();
    let timing = pool.install(|| {
        time(WARMUP, STEPS, |document| {
            let drawn = vec![Drawn { epoch: 0, document }];
            let batch = assembly.batch(&corpus, drawn, block_size);
            let report = learner.train_step(&batch, &Loss::Likelihood, &settings)?;
            losses.extend(report.map(|report| report.loss));
            Ok(())
        })
    })?;
    let tokens = seq_len as f64;
    println!("threads {}", pool.current_num_threads());
    println!("ms_per_step {:.1}", 1e3 * timing.median());
    println!("ms_min {:.1}", 1e3 * timing.best());
    println!("clean_tokens_per_s {:.1}", tokens / timing.median());
    println!("cpu_s_per_step {:.4}", timing.cpu_seconds);
    println!("peak_rss_mb {:.0}", peak_rss_mib()?);
    println!(
        "first_loss {:.5}",
        losses.first().ok_or("no step had a loss")?
    );
    Ok(())
}

/// Returns a document per step.
fn corpus(config: &Config, seq_len: usize) -> Vec<Document> {
    let document = |number| Document::text(random_ids(config, number, seq_len as u32));
    (0..(WARMUP + STEPS) as u64).map(document).collect()
}

/// As the rival: one mask ratio per document, the loss averaged over the masked tokens.
fn assembly(config: &Config, seq_len: usize) -> Result<Assembly> {
    let diffusion = Diffusion {
        objective: Objective::Bdlm,
        noises: vec![NoiseSchedule::new(
            RateScope::Document,
            Band::new(0.3, 0.8)?,
        )],
        group_blocks: 1,
        complementary: false,
        fill: None,
        editing: None,
        trajectory: None,
        reading: Reading::of(config)?,
    };
    Ok(Assembly {
        task: Task::Diffusion(diffusion),
        unit: Unit::Document,
        normalisation: Normalisation::MaskedMean,
        seed: 1,
        micro_batch_rows: 2 * seq_len,
        elision: Elision::On,
    })
}
