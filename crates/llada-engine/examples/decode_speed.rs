//! Prints how fast a model writes: by blocks, four tokens per forward, and one by one.
//!
//! `cargo run --release -p llada-engine --example decode_speed -- --config benches/peers/small-moe.json
//! --dtype f32 --threads 1 --new-tokens 128`. A prompt of 64 tokens and new ones in blocks of 32, eight steps per
//! block: no confidence passes the threshold, so the quota alone decides how many tokens a forward fixes.
#![expect(clippy::print_stdout, reason = "a measurement for people")]

#[path = "../../../benches/process.rs"]
mod process;

use llada_engine::{
    Acceptance, Answer, Engine, Error, Method, Options, Policy, Quota, Request, Savings,
};
use llada_model::Config;

use process::{Result, Setup, Timing, peak_rss_mib, random_ids, time};

const PROMPT_LEN: u32 = 64;
const WARMUP: usize = 1;
const REPEATS: usize = 9;

fn main() -> Result<()> {
    let (Setup { mut model, pool }, [new_tokens]) = Setup::from_args([("--new-tokens", 128)])?;
    model.pack();
    let request = request(&model.config, new_tokens);
    let causal = Request {
        method: Method::Autoregression,
        ..request.clone()
    };
    // The same prompt comes again and again: every time it is computed.
    let options = Options {
        savings: Savings {
            prefix_cache: false,
            ..Savings::default()
        },
        ..Options::new(&model.config)
    };
    let mut engine = Engine::new(&model, options)?;
    let (blocks, answer) = pool.install(|| measure(|| engine.generate(&request, &mut |_| ())))?;
    let (causal, _) = pool.install(|| measure(|| engine.generate(&causal, &mut |_| ())))?;
    let forwards = answer.forwards.denoise;
    println!("threads {}", pool.current_num_threads());
    println!("forwards {forwards}");
    println!(
        "ms_per_forward {:.3}",
        1e3 * blocks.median() / forwards as f64
    );
    println!("seconds_min {:.4}", blocks.best());
    print_speed("", &blocks, new_tokens);
    print_speed("ar_", &causal, new_tokens);
    println!(
        "ar_ms_per_forward {:.3}",
        1e3 * causal.median() / new_tokens as f64
    );
    let stats = engine.stats();
    let overhead = stats.other_time.as_secs_f64() / stats.forward_time.as_secs_f64();
    println!("scheduler_of_a_forward {overhead:.4}");
    println!("peak_rss_mb {:.0}", peak_rss_mib()?);
    Ok(())
}

fn request(config: &Config, new_tokens: usize) -> Request {
    Request {
        block_length: Some(32),
        policy: Policy {
            acceptance: Acceptance::Threshold(2.0),
            quota: Quota::Steps(8),
            ..Policy::default()
        },
        ignore_eos: true,
        ..Request::new(random_ids(config, 0, PROMPT_LEN), new_tokens)
    }
}

/// Returns the times of writing a whole answer, and the last one written.
fn measure(
    mut write: impl FnMut() -> std::result::Result<Answer, Error>,
) -> Result<(Timing, Answer)> {
    let mut last = None;
    let timing = time(WARMUP, REPEATS, |_| {
        last = Some(write()?);
        Ok(())
    })?;
    let answer = last.ok_or("nothing was written")?;
    Ok((timing, answer))
}

fn print_speed(prefix: &str, timing: &Timing, new_tokens: usize) {
    println!(
        "{prefix}tokens_per_s {:.1}",
        new_tokens as f64 / timing.median()
    );
    println!("{prefix}cpu_s {:.4}", timing.cpu_seconds);
}
