//! `llada sums`: data and a starting point for the worked-sums task.

use std::fmt::Write;

use anyhow::Context;
use llada_text::{Role, Tokenizer};
use serde_json::{Value, json};

use crate::args::{SumsArgs, SumsCommand, SumsInitArgs, SumsWriteArgs};
use crate::countdown::Countdown;
use crate::worked_sums::Sum;

/// Every character of prompts and responses.
const ALPHABET: &str = "0123456789+-=,;";
const END: &str = "<|end|>";
const MASK: &str = "<|mask|>";
/// Tokens that edit, of which `config.json` speaks as `delete_token_id` and `split_token_id`.
const EDITS: [&str; 2] = ["<|delete|>", "<|split|>"];

pub(crate) fn run(args: &SumsArgs) -> anyhow::Result<()> {
    match &args.what {
        SumsCommand::Init(args) => init(args),
        SumsCommand::Write(args) => write(args),
    }
}

/// Writes a Llama configuration and a tokenizer with one token per character.
fn init(args: &SumsInitArgs) -> anyhow::Result<()> {
    let edits = if args.edit_tokens { &EDITS[..] } else { &[] };
    let specials = [&[END, MASK], edits].concat();
    let mut tokenizer = Tokenizer::characters(ALPHABET, &specials)?;
    tokenizer.set_role(Role::Eos, END)?;
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.largest_id() + 1,
        "hidden_size": args.hidden_size,
        "intermediate_size": 3 * args.hidden_size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": false,
        "eos_token_id": tokenizer.specials().eos,
        "torch_dtype": "float32",
    });
    for (key, text) in ["delete_token_id", "split_token_id"].into_iter().zip(edits) {
        config[key] = tokenizer.id(text).into();
    }
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create `{}`", args.out.display()))?;
    tokenizer.save(&args.out)?;
    let path = args.out.join("config.json");
    std::fs::write(&path, format!("{config:#}\n"))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// Returns one problem.
fn row(args: &SumsWriteArgs, index: u64) -> Value {
    if args.countdown {
        let problem = Countdown::draw(args.seed, index);
        let (nums, target) = (problem.numbers(), problem.target());
        return json!({
            "prompt": problem.prompt(), "response": problem.response(), "nums": nums, "target": target
        });
    }
    let sum = Sum::draw(args.seed, index);
    if args.pairs {
        let wrong = sum.wrong_response(args.seed, index);
        return json!({ "prompt": sum.prompt(), "chosen": sum.response(), "rejected": wrong });
    }
    json!({ "prompt": sum.prompt(), "response": sum.response() })
}

/// Writes problems of one stream.
fn write(args: &SumsWriteArgs) -> anyhow::Result<()> {
    let mut lines = String::new();
    for index in 0..args.count {
        writeln!(lines, "{}", row(args, index))?;
    }
    std::fs::write(&args.out, lines)
        .with_context(|| format!("cannot write `{}`", args.out.display()))
}
