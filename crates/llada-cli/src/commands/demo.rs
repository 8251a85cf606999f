//! `llada demo`: a script over the other commands. It prints each one before it runs it.

use std::path::Path;

use clap::Parser;

use crate::args::{Cli, DemoArgs};
use crate::{failure, ui};

/// What differs between the demo and its quick form.
struct Size {
    /// Wall-clock seconds of training.
    training_seconds: &'static str,
    /// Worked sums to solve.
    sums: &'static str,
    /// Stories to write.
    stories: &'static str,
}

const FULL: Size = Size {
    training_seconds: "220",
    sums: "500",
    stories: "20",
};
const QUICK: Size = Size {
    training_seconds: "15",
    sums: "20",
    stories: "2",
};

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let size = if args.quick { QUICK } else { FULL };
    let asset = |name: &str| text(&args.assets.join(name));
    let out = |name: &str| text(&args.out.join(name));
    let (parent, stories) = (asset("tinystories-656k")?, asset("stories/valid.jsonl")?);
    let (child, run_dir) = (out("converted")?, out("stories")?);
    if args.out.exists() {
        return Err(failure::usage(format!(
            "`{}` exists; a demo never overwrites\n\nhint: remove it, or pass --out with a new directory",
            args.out.display()
        )));
    }

    ui::say(
        "1. A real autoregressive model: 656 thousand parameters that write children's stories.",
    );
    write_story(&[&parent, "--ar"], "120")?;
    ui::say("\n   How well it knows 300 stories it has never seen:");
    llada(&["eval", "nll", &parent, "--data", &stories, "--mode", "ar"])?;

    ui::say(
        "\n2. It becomes a block-diffusion model: a MASK token, a block size, and training that fills in blocks.",
    );
    llada(&[
        "convert",
        &parent,
        &child,
        "--block-size",
        "8",
        "--label-alignment",
        "shifted",
    ])?;
    let trained = out("stories/final")?;
    let recipe = text(Path::new("recipes/stories-demo-2core.toml"))?;
    let model = format!("model.path={}", quoted(&child));
    let seconds = format!("train.max_seconds={}", size.training_seconds);
    llada(&[
        "train",
        &recipe,
        "--run-dir",
        &run_dir,
        "--set",
        &model,
        "--set",
        &seconds,
    ])?;
    anyhow::ensure!(
        Path::new(&trained).exists(),
        "the demo ends here: its training was stopped"
    );

    ui::say(
        "\n3. Parallel decoding where quality is a number: worked sums, a parent and its child.",
    );
    ui::say("   TPF is tokens per denoising forward; the parent's is 1 by definition.");
    let (sums_parent, sums_child) = (asset("worked-sums/parent")?, asset("worked-sums/child")?);
    llada(&[
        "eval",
        "sums",
        &sums_parent,
        &sums_child,
        "--count",
        size.sums,
    ])?;

    ui::say(
        "\n4. Stories in parallel: the parent, and a child of it that trained for half an hour.",
    );
    let stories_child = asset("stories-child")?;
    write_story(&[&stories_child], "120")?;
    llada(&[
        "eval",
        "nll",
        &stories_child,
        "--data",
        &stories,
        "--mode",
        "block:8",
    ])?;
    llada(&[
        "eval",
        "text",
        &parent,
        &stories_child,
        "--data",
        &stories,
        "--count",
        size.stories,
    ])?;

    ui::say("\n5. The run directory holds config.toml, metrics.jsonl and the model in Hub layout.");
    llada(&["inspect", &trained])?;
    write_story(&[&trained], "60")
}

/// Writes a story with `model`: a checkpoint, and `--ar` if it is a parent.
fn write_story(model: &[&str], max_new_tokens: &str) -> anyhow::Result<()> {
    let prompt = ["--prompt", "Once upon a time"];
    let length = ["--max-new-tokens", max_new_tokens];
    llada(&[&["generate"], model, &prompt, &length].concat())
}

/// Prints a command and runs it, as if the user had typed it.
fn llada(words: &[&str]) -> anyhow::Result<()> {
    ui::say(format!(
        "\n$ llada {}",
        words
            .iter()
            .map(|word| shell_word(word))
            .collect::<Vec<_>>()
            .join(" ")
    ));
    let cli = Cli::try_parse_from(["llada"].iter().chain(words))?;
    crate::dispatch(cli.command)
}

/// Quotes a word for a shell when it needs it.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Writes a TOML string; it is written as in JSON.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| failure::usage(format!("`{}` is not UTF-8", path.display())))
}
