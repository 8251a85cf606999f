//! Keys of a file from and to the configuration (`gguf.md` section 3).
//!
//! Reading goes through the keys of `config.json`, so that one parser checks both. What GGUF cannot
//! say is found by reading back what was written.

use llada_diffusion::LabelAlignment;
use llada_tensor::BlockFormat;
use serde_json::{Map, Value as Json, json};

use super::{GgufFile, Metadata, Value};
use crate::{Config, Error, Family, MoeConfig, RopeScaling, StorageDtype};

/// Families and their `general.architecture`.
const ARCHITECTURES: [(Family, &str); 5] = [
    (Family::Llada2Moe, "llada2"),
    (Family::BailingMoe, "bailingmoe2"),
    (Family::Llama, "llama"),
    (Family::Qwen2, "qwen2"),
    (Family::Qwen3, "qwen3"),
];
/// `expert_gating_func` of sigmoid scores.
const SIGMOID: i64 = 2;

/// What keys leave to the tensors: format and shape by name.
pub(super) type Tensors<'a> = dyn Fn(&str) -> Option<(BlockFormat, Vec<usize>)> + 'a;

/// Reads the configuration of a file, with warnings.
pub(crate) fn from_file(file: &GgufFile) -> Result<(Config, Vec<String>), Error> {
    let tensors = |name: &str| {
        let tensor = file.get(name)?;
        Some((tensor.format, tensor.shape.clone()))
    };
    let json = to_json(file.metadata(), &tensors).map_err(|problem| file.refuse(problem))?;
    let mut warnings = Vec::new();
    let says = |key| file.metadata().get(key).is_some();
    if says("llada2.block_count") && !says("diffusion.shift_logits") {
        warnings.push("`diffusion.shift_logits` is absent and taken as false".to_owned());
    }
    Ok((Config::from_json(&json.to_string())?, warnings))
}

/// Returns the keys of a configuration.
///
/// # Errors
/// What of the configuration a file cannot say.
pub(super) fn to_metadata(config: &Config, tensors: &Tensors<'_>) -> Result<Metadata, String> {
    let metadata = keys(config);
    let json = to_json(&metadata, tensors)?.to_string();
    let back = Config::from_json(&json).map_err(|error| error.to_string())?;
    let [ours, back] = [config, &back].map(|config| format!("{:?}", config.comparable()));
    if ours == back {
        return Ok(metadata);
    }
    let differs = |(ours, back): &(&str, &str)| ours != back;
    let (ours, back) = (ours.split(", "), back.split(", "));
    let (ours, back) = ours.zip(back).find(differs).unwrap_or_default();
    Err(format!(
        "cannot be written: GGUF would turn `{ours}` of config.json into `{back}`"
    ))
}

/// Writes what [`to_json`] reads.
fn keys(config: &Config) -> Metadata {
    let known = ARCHITECTURES
        .iter()
        .find(|(family, _)| *family == config.family);
    let (_, architecture) = known.expect("every family is listed");
    let mut keys = Metadata::default();
    keys.set("general.architecture", Value::Text((*architecture).into()));
    let mut count = |key: &str, value: usize| {
        keys.set(format!("{architecture}.{key}"), Value::Int(value as i64));
    };
    count("block_count", config.num_hidden_layers);
    count("context_length", config.max_position_embeddings);
    count("embedding_length", config.hidden_size);
    count("feed_forward_length", config.intermediate_size);
    count("attention.head_count", config.num_attention_heads);
    count("attention.head_count_kv", config.num_key_value_heads);
    count("attention.key_length", config.head_dim);
    count("attention.value_length", config.head_dim);
    count("rope.dimension_count", config.rotary_dim);
    count("vocab_size", config.vocab_size);
    let mut set = |key: &str, value: Value| keys.set(format!("{architecture}.{key}"), value);
    let eps = Value::Float(config.rms_norm_eps.into());
    set("attention.layer_norm_rms_epsilon", eps);
    set("rope.freq_base", Value::Float(config.rope.theta));
    if let RopeScaling::Yarn(yarn) = &config.rope.scaling {
        set("rope.scaling.type", Value::Text("yarn".into()));
        set("rope.scaling.factor", Value::Float(yarn.factor));
        let original = yarn.original_max_position_embeddings as i64;
        set("rope.scaling.original_context_length", Value::Int(original));
    }
    if let Some(moe) = &config.moe {
        moe_keys(config, moe, &mut set);
    }
    for (key, id) in [
        ("delete_token_id", config.delete_token_id),
        ("split_token_id", config.split_token_id),
    ] {
        if let Some(id) = id {
            set(key, Value::Int(id.into()));
        }
    }
    diffusion_keys(config, &mut keys);
    keys
}

fn moe_keys(config: &Config, moe: &MoeConfig, set: &mut impl FnMut(&str, Value)) {
    let mut count = |key: &str, value: usize| set(key, Value::Int(value as i64));
    count("leading_dense_block_count", config.first_k_dense_replace);
    count("expert_count", moe.num_experts);
    count("expert_used_count", moe.num_experts_per_tok);
    count("expert_feed_forward_length", moe.moe_intermediate_size);
    // All shared experts are one wide one.
    count(
        "expert_shared_count",
        usize::from(moe.shared_intermediate_size > 0),
    );
    count(
        "expert_shared_feed_forward_length",
        moe.shared_intermediate_size,
    );
    if moe.n_group > 1 {
        count("expert_group_count", moe.n_group);
        count("expert_group_used_count", moe.topk_group);
    }
    if let Some(routing) = &moe.block_routing {
        count("expert_capacity", routing.expert_capacity);
    }
    set("expert_gating_func", Value::Int(SIGMOID));
    set(
        "expert_weights_scale",
        Value::Float(moe.routed_scaling_factor.into()),
    );
    set("expert_weights_norm", Value::Bool(moe.norm_topk_prob));
}

/// Keys without a prefix: how rows are read, and special ids.
fn diffusion_keys(config: &Config, keys: &mut Metadata) {
    if let Some(alignment) = config.label_alignment {
        let shifted = alignment == LabelAlignment::Shifted;
        keys.set("diffusion.shift_logits", Value::Bool(shifted));
    }
    if let Some(block_size) = config.block_size {
        keys.set("diffusion.block_length", Value::Int(block_size as i64));
    }
    let eos = |index: usize| config.eos_token_ids.get(index).copied();
    for (key, id) in [
        ("bos_token_id", config.bos_token_id),
        ("eos_token_id", eos(0)),
        ("eot_token_id", eos(1)),
        ("padding_token_id", config.pad_token_id),
        ("mask_token_id", config.mask_token_id),
    ] {
        if let Some(id) = id {
            keys.set(format!("tokenizer.ggml.{key}"), Value::Int(id.into()));
        }
    }
}

/// Returns the `config.json` that a file's keys amount to.
fn to_json(metadata: &Metadata, tensors: &Tensors<'_>) -> Result<Json, String> {
    let architecture = metadata.text("general.architecture").unwrap_or_default();
    let known = ARCHITECTURES.iter().find(|(_, name)| *name == architecture);
    let Some((family, _)) = known else {
        let names = ARCHITECTURES.map(|(_, name)| name).join(", ");
        return Err(format!(
            "has `general.architecture` `{architecture}`, expected one of {names}"
        ));
    };
    let keys = Keys {
        metadata,
        architecture,
    };
    let embedding = tensors("token_embd.weight").ok_or("has no tensor `token_embd.weight`")?;
    let heads = keys.needed("attention.head_count")?;
    let head_dim = match (
        keys.int("attention.key_length")?,
        keys.needed("embedding_length")?,
    ) {
        (Some(head_dim), _) => head_dim,
        (None, hidden_size) => hidden_size.checked_div(heads).unwrap_or(0),
    };
    if keys
        .int("attention.value_length")?
        .is_some_and(|width| width != head_dim)
    {
        return Err("has keys and values of different widths, which is not implemented".into());
    }
    let has = |name: &str| tensors(name).is_some();
    let layers = keys.needed("block_count")? - keys.int("nextn_predict_layers")?.unwrap_or(0);
    let mut json = json!({
        "architectures": [family.architecture()],
        "torch_dtype": match embedding.0 {
            BlockFormat::F32 | BlockFormat::F16 => "float32",
            _ => "bfloat16",
        },
        "vocab_size": embedding.1.first(),
        "hidden_size": keys.needed("embedding_length")?,
        "intermediate_size": keys.int("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.int("attention.head_count_kv")?,
        "head_dim": head_dim,
        "rotary_dim": keys.rotary_dim(family.is_dense_parent(), head_dim)?,
        "rope_theta": keys.float("rope.freq_base")?.unwrap_or(10000.0),
        "rope_scaling": keys.rope_scaling()?,
        "rms_norm_eps": keys.float("attention.layer_norm_rms_epsilon")?,
        "max_position_embeddings": keys.needed("context_length")?,
        "tie_word_embeddings": !has("output.weight"),
        "use_qkv_bias": has("blk.0.attn_qkv.bias"),
        "use_bias": has("blk.0.attn_output.bias"),
        "use_qk_norm": has("blk.0.attn_q_norm.weight"),
    });
    let object = json
        .as_object_mut()
        .expect("the literal above is an object");
    if !family.is_dense_parent() && keys.int("expert_count")?.unwrap_or(0) > 0 {
        keys.moe(object, tensors)?;
    }
    keys.tokens(object)?;
    Ok(json)
}

/// Typed reading of the keys under an architecture's prefix.
#[derive(Clone, Copy)]
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn get(self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    fn refuse(self, key: &str, expected: &str) -> String {
        let found = self
            .get(key)
            .map_or("nothing".into(), |value| format!("{value:?}"));
        let found: String = found.chars().take(60).collect();
        format!(
            "has `{}.{key}` {found}, expected {expected}",
            self.architecture
        )
    }

    fn int(self, key: &str) -> Result<Option<i64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Int(int)) if (0..=1 << 40).contains(int) => Ok(Some(*int)),
            Some(_) => Err(self.refuse(key, "a count")),
        }
    }

    fn needed(self, key: &str) -> Result<i64, String> {
        self.int(key)?.ok_or_else(|| self.refuse(key, "a count"))
    }

    fn float(self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            // Through the shortest decimal of the stored f32, as a config.json says it.
            Some(Value::Float(float)) if float.is_finite() => {
                Ok((*float as f32).to_string().parse().ok())
            }
            Some(_) => Err(self.refuse(key, "a finite number")),
        }
    }

    /// Absence means the whole head to other readers, which is wrong for the mixtures.
    fn rotary_dim(self, dense: bool, head_dim: i64) -> Result<i64, String> {
        match self.int("rope.dimension_count")? {
            Some(width) => Ok(width),
            None if dense => Ok(head_dim),
            None => Err(self.refuse("rope.dimension_count", "a count")),
        }
    }

    fn rope_scaling(self) -> Result<Json, String> {
        let kind = self
            .metadata
            .text(&format!("{}.rope.scaling.type", self.architecture));
        match kind {
            None if self.get("rope.scaling.type").is_none() => Ok(Json::Null),
            Some("none") => Ok(Json::Null),
            Some("yarn") => Ok(json!({
                "rope_type": "yarn",
                "factor": self.float("rope.scaling.factor")?,
                "original_max_position_embeddings": self.int("rope.scaling.original_context_length")?,
            })),
            _ => Err(self.refuse("rope.scaling.type", "none or yarn")),
        }
    }

    fn moe(self, json: &mut Map<String, Json>, tensors: &Tensors<'_>) -> Result<(), String> {
        if self.int("expert_gating_func")? != Some(SIGMOID) {
            return Err(self.refuse("expert_gating_func", "2, sigmoid, the only one implemented"));
        }
        let first = self.int("leading_dense_block_count")?.unwrap_or(0);
        let of_first = |name: &str| tensors(&format!("blk.{first}.{name}"));
        let shared =
            of_first("ffn_gate_shexp.weight").and_then(|(_, shape)| shape.first().copied());
        let biased = of_first("exp_probs_b.bias")
            .or_else(|| of_first("exp_probs_b"))
            .is_some();
        let scale = self.float("expert_weights_scale")?;
        let scale = scale.ok_or_else(|| self.refuse("expert_weights_scale", "a number"))?;
        let normed = match self.get("expert_weights_norm") {
            Some(Value::Bool(normed)) => *normed,
            _ => return Err(self.refuse("expert_weights_norm", "true or false")),
        };
        for (key, value) in [
            ("first_k_dense_replace", json!(first)),
            ("num_experts", json!(self.needed("expert_count")?)),
            (
                "num_experts_per_tok",
                json!(self.needed("expert_used_count")?),
            ),
            (
                "moe_intermediate_size",
                json!(self.needed("expert_feed_forward_length")?),
            ),
            ("num_shared_experts", json!(i32::from(shared.is_some()))),
            ("moe_shared_expert_intermediate_size", json!(shared)),
            ("n_group", json!(self.int("expert_group_count")?)),
            ("topk_group", json!(self.int("expert_group_used_count")?)),
            ("routed_scaling_factor", json!(scale)),
            ("norm_topk_prob", json!(normed)),
            ("moe_router_enable_expert_bias", json!(biased)),
            ("expert_capacity", json!(self.int("expert_capacity")?)),
        ] {
            json.insert(key.into(), value);
        }
        Ok(())
    }

    /// Reads how the model is decoded, and special ids.
    fn tokens(self, json: &mut Map<String, Json>) -> Result<(), String> {
        let int = |key: &str| match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(int)) => Ok(Some(*int)),
            Some(_) => Err(format!("has `{key}` that is no integer")),
        };
        let token = |role: &str| int(&format!("tokenizer.ggml.{role}_token_id"));
        let mut ends: Vec<i64> = [token("eos")?, token("eot")?]
            .into_iter()
            .flatten()
            .collect();
        ends.dedup();
        let alignment = match self.metadata.get("diffusion.shift_logits") {
            None => Json::Null,
            Some(Value::Bool(true)) => json!("shifted"),
            Some(Value::Bool(false)) => json!("same"),
            Some(_) => return Err("has `diffusion.shift_logits` that is no boolean".into()),
        };
        for (key, value) in [
            ("label_alignment", alignment),
            ("block_size", json!(int("diffusion.block_length")?)),
            ("bos_token_id", json!(token("bos")?)),
            ("eos_token_id", json!(ends)),
            ("pad_token_id", json!(token("padding")?)),
            ("mask_token_id", json!(token("mask")?)),
            ("delete_token_id", json!(self.int("delete_token_id")?)),
            ("split_token_id", json!(self.int("split_token_id")?)),
        ] {
            json.insert(key.into(), value);
        }
        Ok(())
    }
}

impl Config {
    /// Returns what decides the forward and the decoding, as far as `f32` keys can say it.
    fn comparable(&self) -> Self {
        let mut config = self.clone();
        config.raw.clear();
        config.storage = StorageDtype::F32;
        config.initializer_range = 0.0;
        config.rope.theta = f64::from(config.rope.theta as f32);
        config
    }
}
