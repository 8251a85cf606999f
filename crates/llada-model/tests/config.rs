//! Every row of the configuration table (`model.md` section 2): accepted, defaulted or refused.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use llada_diffusion::LabelAlignment;
use llada_model::{BlockRouting, Config, Family, StorageDtype};
use proptest::prelude::*;
use serde_json::{Value, json};

const MINI: &str = include_str!("../testdata/hub/llada2_mini.json");
const DFACTORY_MINI: &str = include_str!("../testdata/hub/dfactory_mini.json");
const DFACTORY_FLASH: &str = include_str!("../testdata/hub/dfactory_flash.json");
const LLAMA: &str = include_str!("../../../assets/tinystories-656k/config.json");

/// Parses `base` with the keys of `changes` set; a null removes the key.
fn with(base: &str, changes: Value) -> Result<Config, String> {
    let mut object: serde_json::Map<_, _> = serde_json::from_str(base).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            object.remove(key);
        } else {
            object.insert(key.clone(), value.clone());
        }
    }
    Config::from_json(&Value::Object(object).to_string()).map_err(|error| error.to_string())
}

fn mini(changes: Value) -> Config {
    with(MINI, changes).unwrap()
}

fn llama(changes: Value) -> Config {
    with(LLAMA, changes).unwrap()
}

/// Checks that the message names the key and contains every one of `parts`.
fn assert_refused(result: Result<Config, String>, key: &str, parts: &[&str]) {
    let message = result.expect_err("the configuration should have been refused");
    for part in parts.iter().copied().chain([format!("`{key}`").as_str()]) {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

#[test]
fn the_published_mini_is_read_as_it_is() {
    let config = mini(json!({}));
    assert_eq!(config.family, Family::Llada2Moe);
    assert_eq!((config.num_hidden_layers, config.hidden_size), (20, 2048));
    assert_eq!(
        (config.num_attention_heads, config.num_key_value_heads),
        (16, 4)
    );
    assert_eq!((config.head_dim, config.rotary_dim), (128, 64));
    assert_eq!(
        (config.first_k_dense_replace, config.intermediate_size),
        (1, 5120)
    );
    assert_eq!(
        (config.vocab_size, config.pad_token_id),
        (157_184, Some(156_892))
    );
    assert_eq!(
        (config.rms_norm_eps, config.initializer_range),
        (1e-6, 0.02)
    );
    assert_eq!(config.storage, StorageDtype::Bf16);
    assert!(config.use_qk_norm && !config.use_qkv_bias && !config.use_dense_bias);
    let moe = config.moe.unwrap();
    assert_eq!((moe.num_experts, moe.num_experts_per_tok), (256, 8));
    assert_eq!(
        (moe.moe_intermediate_size, moe.shared_intermediate_size),
        (512, 512)
    );
    assert_eq!(
        (moe.n_group, moe.topk_group, moe.routed_scaling_factor),
        (8, 4, 2.5)
    );
    assert!(moe.norm_topk_prob && moe.expert_bias && moe.block_routing.is_none());
}

#[test]
fn dfactory_configs_describe_the_same_models() {
    let config = Config::from_json(DFACTORY_MINI).unwrap();
    assert_eq!(config.moe, mini(json!({})).moe);
    assert!(
        config.use_qk_norm,
        "the key is absent and LLaDA2 always normalises"
    );
    assert_eq!(
        Config::from_json(DFACTORY_FLASH).unwrap().num_hidden_layers,
        32
    );
}

#[test]
fn every_known_architecture_has_its_family() {
    let family = |name: &str| mini(json!({ "architectures": [name] })).family;
    assert_eq!(family("BailingMoeV2ForCausalLM"), Family::BailingMoe);
    assert_eq!(family("LlamaForCausalLM"), Family::Llama);
    assert_eq!(family("Qwen2ForCausalLM"), Family::Qwen2);
    assert_eq!(family("Qwen3ForCausalLM"), Family::Qwen3);
}

#[test]
fn an_unknown_architecture_is_refused_with_the_known_ones() {
    let result = with(MINI, json!({ "architectures": ["GPT2LMHeadModel"] }));
    let known = ["GPT2LMHeadModel", "LLaDA2MoeModelLM", "Qwen3ForCausalLM"];
    assert_refused(result, "architectures", &known);
    assert_refused(
        with(MINI, json!({ "architectures": null })),
        "architectures",
        &[],
    );
}

#[test]
fn the_model_type_does_not_decide_anything() {
    let changed = mini(json!({ "model_type": "llada2_moe_veomni" }));
    assert_eq!(changed.moe, mini(json!({})).moe);
}

#[test]
fn required_sizes_must_be_there() {
    for key in [
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "moe_intermediate_size",
        "num_attention_heads",
        "num_experts_per_tok",
        "routed_scaling_factor",
        "vocab_size",
        "max_position_embeddings",
    ] {
        assert_refused(with(MINI, json!({ key: null })), key, &["nothing"]);
    }
}

#[test]
fn sizes_of_absent_layer_kinds_are_not_required() {
    let no_dense = mini(json!({ "first_k_dense_replace": 0, "intermediate_size": null }));
    assert!(no_dense.is_moe_layer(0));
    let no_moe = mini(json!({ "num_experts": 0, "moe_intermediate_size": null }));
    assert_eq!((no_moe.first_k_dense_replace, no_moe.moe), (20, None));
}

#[test]
fn layers_are_mixtures_from_the_first_that_is_not_dense() {
    let config = mini(json!({ "first_k_dense_replace": 3 }));
    assert!(!config.is_moe_layer(2) && config.is_moe_layer(3));
    assert!(mini(json!({ "first_k_dense_replace": null })).is_moe_layer(0));
    assert_eq!(mini(json!({ "first_k_dense_replace": 20 })).moe, None);
}

#[test]
fn hostile_numbers_are_refused_and_named() {
    let values = [
        json!(0),
        json!(-1),
        json!(1.5),
        json!("7"),
        json!(u64::MAX),
        json!([1]),
    ];
    for key in [
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "vocab_size",
    ] {
        for value in &values {
            let found = value.to_string();
            assert_refused(
                with(MINI, json!({ key: value })),
                key,
                &[&found, "from 1 to"],
            );
        }
    }
}

#[test]
fn key_value_heads_default_to_the_query_heads() {
    assert_eq!(
        mini(json!({ "num_key_value_heads": null })).num_key_value_heads,
        16
    );
    assert_eq!(
        mini(json!({ "num_key_value_heads": 0 })).num_key_value_heads,
        16
    );
    let result = with(MINI, json!({ "num_key_value_heads": 3 }));
    assert_refused(result, "num_key_value_heads", &["divisor", "16", "found 3"]);
}

#[test]
fn the_head_dimension_defaults_to_an_equal_share() {
    let changes = json!({ "head_dim": null, "rotary_dim": null });
    assert_eq!(mini(changes).head_dim, 128);
    let result = with(MINI, json!({ "head_dim": null, "hidden_size": 2050 }));
    assert_refused(result, "head_dim", &["2050 / 16"]);
    let result = with(MINI, json!({ "head_dim": 127, "rotary_dim": 64 }));
    assert_refused(result, "head_dim", &["even"]);
}

#[test]
fn a_stated_shared_width_replaces_that_of_the_experts() {
    let moe = |changes| mini(changes).moe.unwrap();
    let wider = json!({ "num_shared_experts": 2, "moe_shared_expert_intermediate_size": 700 });
    assert_eq!(moe(wider).shared_intermediate_size, 1400);
    assert_eq!(
        moe(json!({ "num_shared_experts": 2 })).shared_intermediate_size,
        1024
    );
    assert_eq!(
        moe(json!({ "num_shared_experts": 0 })).shared_intermediate_size,
        0
    );
    assert_eq!(
        moe(json!({ "num_shared_experts": null })).shared_intermediate_size,
        0
    );
}

#[test]
fn no_groups_means_one_group() {
    for changes in [
        json!({ "n_group": 0 }),
        json!({ "n_group": null }),
        json!({ "topk_group": 0 }),
    ] {
        let moe = mini(changes).moe.unwrap();
        assert_eq!((moe.n_group, moe.topk_group), (1, 1));
    }
}

#[test]
fn groups_must_divide_the_experts_and_keep_enough_of_them() {
    let uneven = with(MINI, json!({ "n_group": 7 }));
    assert_refused(uneven, "n_group", &["divisor", "256"]);
    let singles = with(MINI, json!({ "n_group": 256 }));
    assert_refused(singles, "n_group", &["2 or more"]);
    let too_few = with(MINI, json!({ "n_group": 128, "topk_group": 3 }));
    assert_refused(too_few, "topk_group", &["num_experts_per_tok", "found 3"]);
    assert_refused(
        with(MINI, json!({ "topk_group": 9 })),
        "topk_group",
        &["n_group"],
    );
}

#[test]
fn more_active_experts_than_experts_are_refused() {
    let result = with(MINI, json!({ "num_experts_per_tok": 257 }));
    assert_refused(result, "num_experts_per_tok", &["256"]);
}

#[test]
fn the_weights_of_experts_are_read_not_assumed() {
    let changes = json!({ "routed_scaling_factor": 1.0, "norm_topk_prob": false,
        "moe_router_enable_expert_bias": false, "router_dtype": "bf16" });
    let moe = mini(changes).moe.unwrap();
    assert_eq!(
        (
            moe.routed_scaling_factor,
            moe.norm_topk_prob,
            moe.expert_bias
        ),
        (1.0, false, false)
    );
}

#[test]
fn other_score_functions_and_activations_are_refused() {
    let scores = with(MINI, json!({ "score_function": "softmax" }));
    assert_refused(scores, "score_function", &["sigmoid", "softmax"]);
    assert_refused(
        with(MINI, json!({ "hidden_act": "gelu" })),
        "hidden_act",
        &["silu", "gelu"],
    );
}

#[test]
fn the_partial_factor_gives_the_rotary_dimensions() {
    let dims = |changes| mini(changes).rotary_dim;
    assert_eq!(dims(json!({ "rotary_dim": null })), 64);
    assert_eq!(dims(json!({ "partial_rotary_factor": null })), 64);
    assert_eq!(
        dims(json!({ "partial_rotary_factor": null, "rotary_dim": null })),
        128
    );
}

#[test]
fn contradicting_or_odd_rotary_dimensions_are_refused() {
    let contradiction = with(MINI, json!({ "rotary_dim": 32 }));
    assert_refused(
        contradiction,
        "rotary_dim",
        &["64", "found 32", "partial_rotary_factor"],
    );
    let odd = with(
        MINI,
        json!({ "partial_rotary_factor": 0.1, "rotary_dim": null, "head_dim": 130 }),
    );
    assert_refused(odd, "partial_rotary_factor", &["even"]);
    let wide = with(
        MINI,
        json!({ "partial_rotary_factor": 2.0, "rotary_dim": null }),
    );
    assert_refused(wide, "partial_rotary_factor", &["128"]);
}

#[test]
fn plain_rope_in_every_spelling_is_the_same() {
    let plain = mini(json!({}));
    for changes in [
        json!({ "rope_scaling": { "rope_type": "default" } }),
        json!({ "rope_scaling": { "type": "default" } }),
        json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 600000 },
            "rope_theta": null }),
    ] {
        assert_eq!(mini(changes).rope, plain.rope);
    }
    assert_eq!(mini(json!({ "rope_theta": null })).rope.theta, 10_000.0);
}

#[test]
fn contradicting_rope_keys_are_refused() {
    let theta = json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 10000 } });
    assert_refused(with(MINI, theta), "rope_theta", &["rope_parameters"]);
    let both = json!({ "rope_parameters": { "rope_type": "default" },
        "rope_scaling": { "type": "yarn", "factor": 2.0 } });
    assert_refused(with(MINI, both), "rope_scaling", &["rope_parameters"]);
}

#[test]
fn other_rope_scalings_are_refused() {
    for name in ["linear", "dynamic", "longrope"] {
        let result = with(
            MINI,
            json!({ "rope_scaling": { "type": name, "factor": 2.0 } }),
        );
        assert_refused(result, "rope_scaling.type", &[name, "yarn", "llama3"]);
    }
    let nameless = with(MINI, json!({ "rope_scaling": { "factor": 2.0 } }));
    assert_refused(nameless, "rope_scaling.type", &["nothing"]);
}

fn yarn(factor: f64) -> Config {
    mini(json!({ "rope_scaling": { "type": "yarn", "factor": factor,
        "original_max_position_embeddings": 32768 } }))
}

#[test]
fn yarn_has_the_published_check_values() {
    let (plain, no_scale) = mini(json!({})).inv_freq();
    for (factor, scale) in [(2.0, 1.06931), (4.0, 1.13863)] {
        let (scaled, found) = yarn(factor).inv_freq();
        assert!((found - scale).abs() < 1e-5, "{found}");
        let ratios: Vec<_> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
        assert!(
            ratios[..=12].iter().all(|r| *r == 1.0),
            "kept up to index 12: {ratios:?}"
        );
        assert!(ratios[13] > 1.0 && ratios[20] < factor as f32, "{ratios:?}");
        assert!(
            ratios[21..]
                .iter()
                .all(|r| (*r - factor as f32).abs() < 1e-5),
            "{ratios:?}"
        );
    }
    assert_eq!((plain.len(), plain[0], no_scale), (32, 1.0, 1.0));
}

#[test]
fn yarn_takes_its_magnitude_from_the_file_when_given() {
    let magnitude = |extra: Value| {
        let mut scaling = json!({ "rope_type": "yarn", "factor": 4.0 });
        scaling
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        mini(json!({ "rope_scaling": scaling })).inv_freq().1
    };
    assert_eq!(magnitude(json!({ "attention_factor": 1.5 })), 1.5);
    assert_eq!(
        magnitude(json!({ "mscale": 1.0, "mscale_all_dim": 1.0 })),
        1.0
    );
    let expected = (0.1 * 0.707 * 4f32.ln() + 1.0) / (0.1 * 4f32.ln() + 1.0);
    let found = magnitude(json!({ "mscale": 0.707, "mscale_all_dim": 1.0 }));
    assert!((found - expected).abs() < 1e-6);
}

#[test]
fn an_inconsistent_yarn_window_is_refused() {
    let scaling =
        json!({ "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8192 });
    let result = with(MINI, json!({ "rope_scaling": scaling }));
    assert_refused(result, "rope_scaling.factor", &["32768", "8192", "16384"]);
    let below_one = with(
        MINI,
        json!({ "rope_scaling": { "type": "yarn", "factor": 0.5 } }),
    );
    assert_refused(below_one, "rope_scaling.factor", &["at least 1"]);
}

#[test]
fn llama3_scaling_keeps_high_and_divides_low_frequencies() {
    let scaling = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 });
    let changes = json!({ "rope_scaling": scaling, "rope_theta": 500000.0, "head_dim": 128 });
    let config = llama(changes);
    let (scaled, scale) = config.inv_freq();
    let (plain, _) = llama(json!({ "rope_theta": 500000.0, "head_dim": 128 })).inv_freq();
    let ratios: Vec<_> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
    // Wavelengths 2 pi theta^(i/64) pass 8192 / 4 between i = 28 and 29, and 8192 at 34 and 35.
    assert!(ratios[..=28].iter().all(|r| *r == 1.0), "{ratios:?}");
    assert!(ratios[29] > 1.0 && ratios[34] < 8.0, "{ratios:?}");
    assert!(
        ratios[35..].iter().all(|r| (r - 8.0).abs() < 1e-4),
        "{ratios:?}"
    );
    assert_eq!(scale, 1.0);
}

#[test]
fn llama3_scaling_needs_its_factors() {
    let scaling = json!({ "rope_type": "llama3", "factor": 8.0 });
    let result = with(LLAMA, json!({ "rope_scaling": scaling }));
    assert_refused(result, "rope_scaling.low_freq_factor", &["nothing"]);
}

#[test]
fn the_context_length_is_read() {
    assert_eq!(
        Config::from_json(DFACTORY_MINI)
            .unwrap()
            .max_position_embeddings,
        16384
    );
}

#[test]
fn token_ids_must_be_below_the_vocabulary() {
    for key in [
        "pad_token_id",
        "mask_token_id",
        "bos_token_id",
        "eos_token_id",
        "split_token_id",
    ] {
        let result = with(MINI, json!({ key: 157_184 }));
        assert_refused(result, key, &["vocab_size", "157184"]);
    }
}

#[test]
fn ends_of_text_may_be_one_or_several() {
    let ids = |value: Value| mini(json!({ "eos_token_id": value })).eos_token_ids;
    assert_eq!(ids(json!(7)), [7]);
    assert_eq!(ids(json!([7, 8])), [7, 8]);
    assert!(mini(json!({})).eos_token_ids.is_empty());
    assert_refused(
        with(MINI, json!({ "eos_token_id": "x" })),
        "eos_token_id",
        &["\"x\""],
    );
}

#[test]
fn minus_one_means_no_pad_token() {
    assert_eq!(mini(json!({ "pad_token_id": -1 })).pad_token_id, None);
}

#[test]
fn embeddings_may_be_tied() {
    assert!(llama(json!({})).tie_word_embeddings);
    assert!(!llama(json!({ "tie_word_embeddings": null })).tie_word_embeddings);
}

#[test]
fn biases_follow_their_keys_and_families() {
    let biased = mini(json!({ "use_qkv_bias": true, "use_bias": true }));
    assert!(biased.use_qkv_bias && biased.use_dense_bias);
    let absent = mini(json!({ "use_qkv_bias": null, "use_bias": null }));
    assert!(!absent.use_qkv_bias && !absent.use_dense_bias);
    let qwen2 = llama(json!({ "architectures": ["Qwen2ForCausalLM"] }));
    assert!(qwen2.use_qkv_bias && !qwen2.use_dense_bias && !qwen2.use_qk_norm);
}

#[test]
fn qk_norm_follows_the_family_unless_the_key_says_otherwise() {
    let dense = |name: &str| llama(json!({ "architectures": [name] })).use_qk_norm;
    assert!(!dense("LlamaForCausalLM") && dense("Qwen3ForCausalLM"));
    assert!(llama(json!({ "use_qk_norm": true })).use_qk_norm);
    let parent = json!({ "architectures": ["BailingMoeV2ForCausalLM"], "use_qk_norm": false });
    assert!(!mini(parent).use_qk_norm);
    assert_refused(
        with(MINI, json!({ "use_qk_norm": false })),
        "use_qk_norm",
        &["LLaDA2"],
    );
}

#[test]
fn the_norm_epsilon_defaults_by_family() {
    assert_eq!(mini(json!({ "rms_norm_eps": null })).rms_norm_eps, 1e-5);
    assert_eq!(llama(json!({ "rms_norm_eps": null })).rms_norm_eps, 1e-6);
    for value in [json!(0), json!(-1e-6), json!(1e-60), json!("small")] {
        assert_refused(
            with(MINI, json!({ "rms_norm_eps": value })),
            "rms_norm_eps",
            &[],
        );
    }
}

#[test]
fn a_normalised_head_cannot_be_tied() {
    assert!(mini(json!({ "norm_head": true })).norm_head);
    let result = with(
        MINI,
        json!({ "norm_head": true, "tie_word_embeddings": true }),
    );
    assert_refused(result, "norm_head", &["tied"]);
}

#[test]
fn dropout_must_be_zero() {
    for key in ["embedding_dropout", "attention_dropout", "output_dropout"] {
        assert_refused(with(MINI, json!({ key: 0.1 })), key, &["0.1"]);
    }
}

#[test]
fn sliding_windows_and_foreign_biases_are_refused() {
    for key in ["use_sliding_window", "attention_bias", "mlp_bias"] {
        assert_refused(with(LLAMA, json!({ key: true })), key, &["false"]);
    }
}

#[test]
fn the_storage_type_has_two_spellings() {
    let storage = |changes| mini(changes).storage;
    assert_eq!(
        storage(json!({ "dtype": null, "torch_dtype": "float32" })),
        StorageDtype::F32
    );
    assert_eq!(storage(json!({ "dtype": "float16" })), StorageDtype::F32);
    assert_eq!(storage(json!({ "dtype": null })), StorageDtype::F32);
    assert_refused(
        with(MINI, json!({ "dtype": "int8" })),
        "dtype",
        &["int8", "bfloat16"],
    );
}

#[test]
fn an_expert_capacity_asks_for_block_routing() {
    let moe = mini(json!({ "expert_capacity": 48, "block_size": 32 }))
        .moe
        .unwrap();
    assert_eq!(
        moe.block_routing,
        Some(BlockRouting {
            expert_capacity: 48,
            block_size: 32
        })
    );
    let no_power = with(MINI, json!({ "expert_capacity": 48, "block_size": 33 }));
    assert_refused(no_power, "block_size", &["power of two"]);
    assert_refused(
        with(MINI, json!({ "expert_capacity": 48 })),
        "block_size",
        &["nothing"],
    );
    let small = with(MINI, json!({ "expert_capacity": 7, "block_size": 32 }));
    assert_refused(small, "expert_capacity", &["num_experts_per_tok"]);
}

#[test]
fn a_block_size_alone_does_not_change_routing() {
    let config = mini(json!({ "block_size": 24 }));
    assert_eq!(
        (config.block_size, config.moe.unwrap().block_routing),
        (Some(24), None)
    );
    assert_refused(
        with(MINI, json!({ "block_size": 0 })),
        "block_size",
        &["at least 1"],
    );
}

#[test]
fn editing_tokens_differ_from_mask() {
    let ids = json!({ "mask_token_id": 3, "delete_token_id": 4, "split_token_id": 5 });
    let config = mini(ids);
    assert_eq!(
        (config.delete_token_id, config.split_token_id),
        (Some(4), Some(5))
    );
    let same = with(MINI, json!({ "mask_token_id": 3, "delete_token_id": 3 }));
    assert_refused(same, "delete_token_id", &["mask_token_id"]);
}

#[test]
fn label_alignment_defaults_to_same_for_llada2_and_to_none_for_parents() {
    assert_eq!(mini(json!({})).label_alignment, Some(LabelAlignment::Same));
    assert_eq!(llama(json!({})).label_alignment, None);
    let shifted = llama(json!({ "label_alignment": "shifted" }));
    assert_eq!(shifted.label_alignment, Some(LabelAlignment::Shifted));
    let result = with(MINI, json!({ "label_alignment": "left" }));
    assert_refused(result, "label_alignment", &["same", "shifted", "left"]);
}

#[test]
fn unknown_keys_survive_and_untouched_configs_come_back_equal() {
    for text in [MINI, DFACTORY_FLASH, LLAMA] {
        let mut before: Value = serde_json::from_str(text).unwrap();
        before["someone_elses_key"] = json!({ "kept": [1, 2.5, null] });
        let config = Config::from_json(&before.to_string()).unwrap();
        let mut after: Value = serde_json::from_str(&config.to_json()).unwrap();
        if before.get("label_alignment").is_none() {
            after.as_object_mut().unwrap().remove("label_alignment"); // written always, see below
        }
        assert_eq!(before, after);
    }
}

#[test]
fn what_conversion_decides_is_written_back() {
    let mut config = llama(json!({}));
    config.vocab_size = 2049;
    config.mask_token_id = Some(2048);
    config.block_size = Some(8);
    config.label_alignment = Some(LabelAlignment::Shifted);
    config.eos_token_ids = vec![2, 5];
    config.storage = StorageDtype::Bf16;
    let again = Config::from_json(&config.to_json()).unwrap();
    assert_eq!(again.vocab_size, 2049);
    assert_eq!(
        (again.mask_token_id, again.block_size),
        (Some(2048), Some(8))
    );
    assert_eq!(again.label_alignment, Some(LabelAlignment::Shifted));
    assert_eq!(
        (&again.eos_token_ids[..], again.storage),
        (&[2, 5][..], StorageDtype::Bf16)
    );
}

#[test]
fn text_that_is_no_object_is_refused() {
    for text in ["", "[]", "null", "{", "{\"a\": NaN}"] {
        let message = Config::from_json(text).unwrap_err().to_string();
        assert!(message.contains("config.json"), "{message}");
    }
}

#[test]
fn experts_over_all_layers_are_bounded() {
    let result = with(
        MINI,
        json!({ "num_hidden_layers": 1024, "num_experts": 16384 }),
    );
    assert_refused(result, "num_experts", &["over all layers"]);
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|v| json!(v)),
        any::<i64>().prop_map(|v| json!(v)),
        (0..2000i64).prop_map(|v| json!(v)),
        any::<f64>().prop_map(|v| json!(v)),
        "[a-z]{0,8}".prop_map(|v| json!(v)),
        Just(json!({ "type": "yarn", "factor": 1e300 })),
        Just(json!([1, -1, "x"])),
    ]
}

proptest! {
    #[test]
    fn no_values_of_known_keys_make_the_parser_or_the_count_panic(
        changes in proptest::collection::vec((0..100usize, any_value()), 1..6)
    ) {
        let mut object: serde_json::Map<_, _> = serde_json::from_str(MINI).unwrap();
        let keys: Vec<_> = object.keys().cloned().collect();
        for (key, value) in changes {
            object.insert(keys[key % keys.len()].clone(), value);
        }
        if let Ok(config) = Config::from_json(&Value::Object(object).to_string()) {
            config.inv_freq();
            prop_assert!(config.parameter_counts().total > 0);
        }
    }
}
