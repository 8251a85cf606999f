//! From the JSON object to [`Config`], key by key.

use llada_diffusion::LabelAlignment;
use serde_json::{Map, Value};

use super::keys::Keys;
use super::{Config, Family, StorageDtype, moe, rope};
use crate::Error;

// Bounds far above any published model, low enough that no product of sizes overflows 64 bits.
const MAX_LAYERS: usize = 1 << 10;
const MAX_HIDDEN: usize = 1 << 17;
const MAX_INTERMEDIATE: usize = 1 << 20;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 12;
const MAX_VOCAB: usize = 1 << 24;
pub(super) const MAX_POSITIONS: usize = 1 << 30;

pub(super) fn parse(raw: Map<String, Value>) -> Result<Config, Error> {
    let keys = Keys::new(&raw);
    let family = family(keys)?;
    refuse_unimplemented(keys)?;
    let vocab_size = keys.size("vocab_size", MAX_VOCAB)?;
    let num_hidden_layers = keys.size("num_hidden_layers", MAX_LAYERS)?;
    let heads = Heads::parse(keys)?;
    let (moe, first_k_dense_replace) = layer_kinds(keys, family, num_hidden_layers)?;
    let dense_layers = first_k_dense_replace > 0;
    let tie_word_embeddings = keys.flag("tie_word_embeddings")?.unwrap_or(false);
    let norm_head = keys.flag("norm_head")?.unwrap_or(false);
    keys.require(
        !(norm_head && tie_word_embeddings),
        "norm_head",
        "false when the head is tied",
    )?;
    let max_position_embeddings = keys.size("max_position_embeddings", MAX_POSITIONS)?;
    let (use_qkv_bias, use_dense_bias) = biases(keys, family)?;
    let config = Config {
        family,
        vocab_size,
        hidden_size: heads.hidden_size,
        intermediate_size: match dense_layers {
            true => keys.size("intermediate_size", MAX_INTERMEDIATE)?,
            false => 0,
        },
        num_hidden_layers,
        num_attention_heads: heads.num_attention_heads,
        num_key_value_heads: heads.num_key_value_heads,
        head_dim: heads.head_dim,
        rotary_dim: rope::rotary_dim(keys, heads.head_dim)?,
        first_k_dense_replace,
        moe,
        use_qkv_bias,
        use_dense_bias,
        use_qk_norm: qk_norm(keys, family)?,
        tie_word_embeddings,
        norm_head,
        rms_norm_eps: keys
            .positive("rms_norm_eps")?
            .unwrap_or(default_eps(family)) as f32,
        initializer_range: keys.positive("initializer_range")?.unwrap_or(0.02) as f32,
        rope: rope::parse(keys, max_position_embeddings)?,
        max_position_embeddings,
        mask_token_id: keys.token_id("mask_token_id", vocab_size)?,
        block_size: block_size(keys)?,
        label_alignment: label_alignment(keys, family)?,
        eos_token_ids: keys.token_ids("eos_token_id", vocab_size)?,
        bos_token_id: keys.token_id("bos_token_id", vocab_size)?,
        pad_token_id: keys.token_id("pad_token_id", vocab_size)?,
        delete_token_id: edit_token(keys, "delete_token_id", vocab_size)?,
        split_token_id: edit_token(keys, "split_token_id", vocab_size)?,
        storage: storage(keys)?,
        raw: Map::new(),
    };
    Ok(Config { raw, ..config })
}

fn family(keys: Keys<'_>) -> Result<Family, Error> {
    match keys
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(Value::as_str)
    {
        Some(name) => Family::from_architecture(name),
        None => Err(Family::unknown("no such list".into())),
    }
}

/// Refuses keys whose non-default values would change the forward in ways not implemented.
fn refuse_unimplemented(keys: Keys<'_>) -> Result<(), Error> {
    for key in ["embedding_dropout", "attention_dropout", "output_dropout"] {
        let rate = keys.number(key)?.unwrap_or(0.0);
        keys.require(rate == 0.0, key, "0, because dropout is not implemented")?;
    }
    for key in ["use_sliding_window", "attention_bias", "mlp_bias"] {
        let asked = keys.flag(key)?.unwrap_or(false);
        keys.require(!asked, key, "false, because it is not implemented")?;
    }
    let act = keys.text("hidden_act")?.unwrap_or("silu");
    keys.require(
        act == "silu",
        "hidden_act",
        "\"silu\", the only activation implemented",
    )
}

/// Sizes of attention.
struct Heads {
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
}

impl Heads {
    fn parse(keys: Keys<'_>) -> Result<Self, Error> {
        let hidden_size = keys.size("hidden_size", MAX_HIDDEN)?;
        let num_attention_heads = keys.size("num_attention_heads", MAX_HEADS)?;
        let num_key_value_heads = match keys.count("num_key_value_heads", MAX_HEADS)? {
            None | Some(0) => num_attention_heads, // the reference's default of 0 divides by zero
            Some(count) => count,
        };
        let expected = format!("a divisor of `num_attention_heads` ({num_attention_heads})");
        let divides = num_attention_heads.is_multiple_of(num_key_value_heads);
        keys.require(divides, "num_key_value_heads", expected)?;
        let head_dim = head_dim(keys, hidden_size, num_attention_heads)?;
        keys.require(head_dim.is_multiple_of(2), "head_dim", "even")?;
        Ok(Self {
            hidden_size,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
        })
    }
}

fn head_dim(keys: Keys<'_>, hidden_size: usize, num_heads: usize) -> Result<usize, Error> {
    if keys.get("head_dim").is_some() {
        return keys.size("head_dim", MAX_HEAD_DIM);
    }
    let expected =
        format!("given, because {hidden_size} / {num_heads} heads is not a whole number");
    keys.require(hidden_size.is_multiple_of(num_heads), "head_dim", expected)?;
    Ok(hidden_size / num_heads)
}

/// Returns the mixture settings and the number of leading dense layers.
fn layer_kinds(
    keys: Keys<'_>,
    family: Family,
    num_layers: usize,
) -> Result<(Option<moe::MoeConfig>, usize), Error> {
    let first = keys
        .count("first_k_dense_replace", MAX_LAYERS)?
        .unwrap_or(0);
    if family.is_dense_parent() || first >= num_layers {
        return Ok((None, num_layers));
    }
    Ok(match moe::parse(keys, num_layers)? {
        Some(moe) => (Some(moe), first),
        None => (None, num_layers),
    })
}

/// Returns whether the fused and the output projection have biases.
fn biases(keys: Keys<'_>, family: Family) -> Result<(bool, bool), Error> {
    match family {
        Family::Llama | Family::Qwen3 => Ok((false, false)),
        Family::Qwen2 => Ok((true, false)),
        Family::Llada2Moe | Family::BailingMoe => Ok((
            keys.flag("use_qkv_bias")?.unwrap_or(false),
            keys.flag("use_bias")?.unwrap_or(false),
        )),
    }
}

/// LLaDA2 always normalises. For Ling-2.0 without the key the loader looks at the tensors.
fn qk_norm(keys: Keys<'_>, family: Family) -> Result<bool, Error> {
    let stated = keys.flag("use_qk_norm")?;
    match family {
        Family::Llada2Moe => {
            let expected = "true, because LLaDA2 always normalises queries and keys";
            keys.require(stated != Some(false), "use_qk_norm", expected)?;
            Ok(true)
        }
        Family::BailingMoe | Family::Qwen3 => Ok(stated.unwrap_or(true)),
        Family::Llama | Family::Qwen2 => Ok(stated.unwrap_or(false)),
    }
}

/// Default of the family's own configuration class.
fn default_eps(family: Family) -> f64 {
    match family {
        Family::Llada2Moe | Family::BailingMoe => 1e-5,
        Family::Llama | Family::Qwen2 | Family::Qwen3 => 1e-6,
    }
}

fn block_size(keys: Keys<'_>) -> Result<Option<usize>, Error> {
    let block_size = keys.count("block_size", MAX_POSITIONS)?;
    keys.require(block_size != Some(0), "block_size", "at least 1")?;
    Ok(block_size)
}

/// Absent means `same` for LLaDA2; a parent is causal and has none.
fn label_alignment(keys: Keys<'_>, family: Family) -> Result<Option<LabelAlignment>, Error> {
    let Some(name) = keys.text("label_alignment")? else {
        return Ok((family == Family::Llada2Moe).then_some(LabelAlignment::Same));
    };
    let alignment = name.parse().ok();
    alignment
        .map(Some)
        .ok_or_else(|| keys.refuse("label_alignment", "\"same\" or \"shifted\""))
}

/// Reads an id of LLaDA2.2's editing tokens; it must differ from MASK.
fn edit_token(keys: Keys<'_>, key: &str, vocab_size: usize) -> Result<Option<u32>, Error> {
    let id = keys.token_id(key, vocab_size)?;
    let mask = keys.token_id("mask_token_id", vocab_size)?;
    keys.require(
        id.is_none() || id != mask,
        key,
        "different from `mask_token_id`",
    )?;
    Ok(id)
}

/// Files in float16 are exported as float32: bf16 would drop bits of their values.
fn storage(keys: Keys<'_>) -> Result<StorageDtype, Error> {
    let key = if keys.get("dtype").is_some() {
        "dtype"
    } else {
        "torch_dtype"
    };
    match keys.text(key)? {
        Some("bfloat16") => Ok(StorageDtype::Bf16),
        None | Some("float32" | "float16") => Ok(StorageDtype::F32),
        Some(_) => Err(keys.refuse(key, "\"bfloat16\", \"float32\" or \"float16\"")),
    }
}
