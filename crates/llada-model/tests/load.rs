//! Loading: layouts, names, element types, and files that lie.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use std::path::Path;

use half::bf16;
use llada_model::{Error, KeepDtype, Mlp, Weights, load};
use llada_tensor::{DType, Precision};
use safetensors::Dtype;
use support::{checkpoint, golden, golden_with, load_f32, read_tensors, tiny, tinystories, values};

#[test]
fn the_golden_model_loads_from_two_shards() {
    let loaded = load_f32(&golden()).unwrap();
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.weights.layers.len(), 4);
    let stored = read_tensors(&golden());
    for (name, values) in values(&loaded.weights) {
        let (dtype, _, bytes) = &stored[&name];
        let expected: Vec<f32> = match dtype {
            Dtype::F32 => bytes
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            _ => bytes
                .chunks(2)
                .map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32())
                .collect(),
        };
        assert_eq!(values, expected, "{name}");
    }
}

#[test]
fn the_walk_names_exactly_the_tensors_of_the_hub() {
    let loaded = load_f32(&golden()).unwrap();
    let mut names: Vec<_> = loaded
        .weights
        .params()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    names.sort();
    assert_eq!(
        names,
        read_tensors(&golden()).into_keys().collect::<Vec<_>>()
    );
}

#[test]
fn the_walk_over_the_published_mini_names_exactly_its_tensors() {
    // 4 norms, 2 attention matrices; 3 for the dense layer; 2 + 256 * 3 + 3 for each of 19 others.
    let text = include_str!("../testdata/hub/llada2_mini.json");
    let specs = Weights::specs(&llada_model::Config::from_json(text).unwrap()).into_params();
    assert_eq!(specs.len(), 3 + 20 * 6 + 3 + 19 * (2 + 256 * 3 + 3));
    assert_eq!(specs[1].1.name, "model.layers.0.input_layernorm.weight");
}

#[test]
fn tinystories_loads_with_its_embedding_under_the_heads_name() {
    let loaded = load_f32(&tinystories()).unwrap();
    let (stored, weights) = (read_tensors(&tinystories()), loaded.weights);
    assert!(weights.head.is_none());
    assert_eq!(weights.embedding.values().shape(), [2048, 128]);
    let rows = |name: &str| {
        stored[&format!("model.layers.1.self_attn.{name}.weight")]
            .2
            .clone()
    };
    let expected = [rows("q_proj"), rows("k_proj"), rows("v_proj")].concat();
    let found = weights.layers[1].qkv.values();
    assert_eq!(found.shape(), [256, 128]);
    let bytes: Vec<u8> = found.f32s().iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(bytes, expected);
}

#[test]
fn bf16_matrices_stay_bf16_for_bf16_products_and_the_rest_is_f32() {
    let loaded = load(&golden(), Precision::Bf16, KeepDtype::AsStored).unwrap();
    let specs = Weights::specs(&loaded.config).into_params();
    for ((name, spec), (_, weight)) in specs.iter().zip(loaded.weights.params()) {
        let (dtype, precision) = match spec.kind.is_always_f32() {
            true => (DType::F32, Precision::F32),
            false => (DType::Bf16, Precision::Bf16),
        };
        assert_eq!(
            (weight.values().dtype(), weight.precision()),
            (dtype, precision),
            "{name}"
        );
    }
}

#[test]
fn masters_are_f32_even_when_products_are_bf16() {
    for (precision, keep) in [
        (Precision::Bf16, KeepDtype::F32),
        (Precision::F32, KeepDtype::AsStored),
    ] {
        let loaded = load(&golden(), precision, keep).unwrap();
        loaded.weights.for_each(|name, weight| {
            assert_eq!(weight.values().dtype(), DType::F32, "{name}");
        });
    }
}

/// Joins the experts of one layer into merged tensors.
fn merge_layer(tensors: &mut support::Tensors, layer: usize, suffix: &str) {
    for projection in ["gate_proj", "up_proj", "down_proj"] {
        let prefix = format!("model.layers.{layer}.mlp.experts");
        let parts: Vec<_> = (0..16)
            .map(|e| {
                tensors
                    .remove(&format!("{prefix}.{e}.{projection}.weight"))
                    .unwrap()
            })
            .collect();
        let shape = [&[16], &parts[0].1[..]].concat();
        let bytes = parts.iter().flat_map(|part| part.2.clone()).collect();
        tensors.insert(
            format!("{prefix}.{projection}{suffix}"),
            (parts[0].0, shape, bytes),
        );
    }
}

#[test]
fn merged_experts_load_per_layer_with_or_without_a_suffix() {
    let dir = golden_with(|tensors| {
        merge_layer(tensors, 1, "");
        merge_layer(tensors, 2, ".weight"); // layer 3 stays split
    });
    let loaded = load_f32(dir.path()).unwrap();
    assert_eq!(
        values(&loaded.weights),
        values(&load_f32(&golden()).unwrap().weights)
    );
}

#[test]
fn prefixed_names_load_and_foreign_buffers_are_ignored() {
    let dir = golden_with(|tensors| {
        let old = std::mem::take(tensors);
        for (name, tensor) in old {
            let name = match name.strip_prefix("model.") {
                Some(rest) => format!("model.language_model.{rest}"),
                None => format!("model.{name}"),
            };
            tensors.insert(name, tensor);
        }
        let buffer = (Dtype::F32, vec![1], vec![0; 4]);
        tensors.insert(
            "model.layers.0.attention.rotary_emb.inv_freq".into(),
            buffer.clone(),
        );
        tensors.insert("v_head.summary.weight".into(), buffer);
    });
    let loaded = load_f32(dir.path()).unwrap();
    assert_eq!(
        values(&loaded.weights),
        values(&load_f32(&golden()).unwrap().weights)
    );
}

#[test]
fn a_bias_stored_in_bf16_is_widened_and_an_absent_one_is_zero_with_a_warning() {
    let dir = golden_with(|tensors| {
        let half: Vec<u8> = [0.5_f32; 16]
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect();
        tensors.insert(
            "model.layers.1.mlp.gate.expert_bias".into(),
            (Dtype::BF16, vec![16], half),
        );
        tensors.remove("model.layers.2.mlp.gate.expert_bias");
    });
    let loaded = load(dir.path(), Precision::Bf16, KeepDtype::AsStored).unwrap();
    let bias = |layer: usize| match &loaded.weights.layers[layer].mlp {
        Mlp::Moe(moe) => moe.expert_bias.values().f32s().to_vec(),
        Mlp::Dense(_) => panic!("layer {layer} is a mixture"),
    };
    assert_eq!((bias(1), bias(2)), (vec![0.5; 16], vec![0.0; 16]));
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("model.layers.2.mlp.gate.expert_bias"));
}

#[test]
fn a_disabled_expert_bias_is_zero_with_a_warning() {
    let config = std::fs::read_to_string(golden().join("config.json")).unwrap();
    let key = "\"moe_router_enable_expert_bias\": ";
    let config = config.replace(&format!("{key}true"), &format!("{key}false"));
    let dir = checkpoint(&config, &read_tensors(&golden()));
    let loaded = load_f32(dir.path()).unwrap();
    assert_eq!(loaded.warnings.len(), 3);
    let Mlp::Moe(moe) = &loaded.weights.layers[3].mlp else {
        panic!("layer 3 is a mixture")
    };
    assert_eq!(moe.expert_bias.values().f32s(), [0.0; 16]);
}

#[test]
fn layers_after_the_last_are_skipped_with_a_warning_unless_announced() {
    let extra = |tensors: &mut support::Tensors| {
        tensors.insert(
            "model.layers.4.enorm.weight".into(),
            (Dtype::F32, vec![1], vec![0; 4]),
        );
    };
    let dir = golden_with(extra);
    let warnings = load_f32(dir.path()).unwrap().warnings;
    assert!(warnings[0].contains("num_hidden_layers"), "{warnings:?}");
    let config = std::fs::read_to_string(golden().join("config.json")).unwrap();
    let config = config.replacen('{', "{\"num_nextn_predict_layers\": 1,", 1);
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    assert!(load_f32(dir.path()).unwrap().warnings.is_empty());
}

#[test]
fn the_parent_without_the_key_has_qk_norm_when_it_has_the_tensors() {
    let config = std::fs::read_to_string(golden().join("config.json")).unwrap();
    let config = config.replace("LLaDA2MoeModelLM", "BailingMoeV2ForCausalLM");
    let mut tensors = read_tensors(&golden());
    assert!(
        load_f32(checkpoint(&config, &tensors).path())
            .unwrap()
            .config
            .use_qk_norm
    );
    tensors.retain(|name, _| !name.contains("query_layernorm") && !name.contains("key_layernorm"));
    let loaded = load_f32(checkpoint(&config, &tensors).path()).unwrap();
    assert!(!loaded.config.use_qk_norm && loaded.weights.layers[0].query_norm.is_none());
}

#[test]
fn a_head_to_be_normalised_has_unit_columns_after_loading() {
    let config = std::fs::read_to_string(golden().join("config.json")).unwrap();
    let config = config.replacen('{', "{\"norm_head\": true,", 1);
    let dir = checkpoint(&config, &read_tensors(&golden()));
    let loaded = load(dir.path(), Precision::Bf16, KeepDtype::AsStored).unwrap();
    let head = loaded.weights.head.unwrap();
    for column in 0..64 {
        let square = |row: usize| head.values().row(row)[column].powi(2);
        let norm: f32 = (0..512).map(square).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-5, "column {column}: {norm}");
    }
    assert!(!loaded.config.norm_head && loaded.config.to_json().contains("\"norm_head\": false"));
}

#[test]
fn all_that_does_not_fit_is_named_at_once() {
    let dir = golden_with(|tensors| {
        tensors.remove("model.norm.weight");
        tensors.remove("model.layers.2.mlp.experts.3.up_proj.weight");
        tensors.insert("model.surprise".into(), (Dtype::F32, vec![1], vec![0; 4]));
        tensors.insert(
            "lm_head.weight".into(),
            (Dtype::F32, vec![2, 3], vec![0; 24]),
        );
        let integers = (Dtype::I16, vec![64], vec![0; 128]);
        tensors.insert("model.layers.0.input_layernorm.weight".into(), integers);
    });
    let error = load(dir.path(), Precision::F32, KeepDtype::F32).unwrap_err();
    let message = error.to_string();
    for part in [
        "[2, 3]",
        "[512, 64]",
        "I16",
        "2 missing",
        "1 unexpected",
        "model.surprise",
    ] {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
    let Error::Tensors {
        missing,
        unexpected,
        misshapen,
    } = error
    else {
        panic!("{message}")
    };
    let expected = [
        "model.layers.2.mlp.experts.3.up_proj.weight",
        "model.norm.weight",
    ];
    assert_eq!(missing, expected);
    assert_eq!((unexpected.len(), misshapen.len()), (1, 2));
}

#[test]
fn long_lists_are_shortened_in_the_message_only() {
    let dir = golden_with(|tensors| tensors.retain(|name, _| !name.contains(".experts.")));
    let error = load(dir.path(), Precision::F32, KeepDtype::F32).unwrap_err();
    assert!(error.to_string().contains("144 missing") && error.to_string().contains("132 more"));
    assert!(matches!(error, Error::Tensors { missing, .. } if missing.len() == 144));
}

#[test]
fn a_merged_tensor_of_the_wrong_shape_is_named_once() {
    let dir = golden_with(|tensors| {
        merge_layer(tensors, 1, "");
        let merged = tensors
            .get_mut("model.layers.1.mlp.experts.up_proj")
            .unwrap();
        merged.1 = vec![8, 64, 64];
    });
    let error = load(dir.path(), Precision::F32, KeepDtype::F32).unwrap_err();
    let Error::Tensors {
        missing, misshapen, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((missing.len(), misshapen.len()), (0, 1));
}

#[test]
fn split_and_merged_experts_of_one_layer_do_not_go_together() {
    let dir = golden_with(|tensors| {
        let before = tensors.clone();
        merge_layer(tensors, 1, "");
        tensors.extend(before);
    });
    let message = load_f32(dir.path()).unwrap_err();
    assert!(message.contains("3 unexpected"), "{message}");
}

#[test]
fn a_tied_model_may_repeat_its_embedding_but_not_contradict_it() {
    let config = std::fs::read_to_string(tinystories().join("config.json")).unwrap();
    let mut tensors = read_tensors(&tinystories());
    let head = tensors["lm_head.weight"].clone();
    tensors.insert("model.embed_tokens.weight".into(), head);
    load_f32(checkpoint(&config, &tensors).path()).unwrap();
    tensors.get_mut("lm_head.weight").unwrap().2[0] ^= 1;
    let message = load_f32(checkpoint(&config, &tensors).path()).unwrap_err();
    assert!(message.contains("tie_word_embeddings"), "{message}");
}

#[test]
fn qwen_names_are_read_with_their_biases_and_norms() {
    for (architecture, name) in [
        ("Qwen2ForCausalLM", "self_attn.k_proj.bias"),
        ("Qwen3ForCausalLM", "self_attn.k_norm.weight"),
    ] {
        let (config, weights) = tiny(architecture, serde_json::json!({}));
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("saved");
        llada_model::save(&target, &config, &weights, &Default::default()).unwrap();
        assert!(read_tensors(&target).contains_key(&format!("model.layers.1.{name}")));
        assert_eq!(
            values(&load_f32(&target).unwrap().weights),
            values(&weights)
        );
    }
}

/// Checks that loading the golden model after `damage` to its directory fails with `expected`.
fn assert_damage_is_found(damage: impl FnOnce(&Path), expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::write(
            dir.path().join(path.file_name().unwrap()),
            std::fs::read(&path).unwrap(),
        )
        .unwrap();
    }
    damage(dir.path());
    let message = load_f32(dir.path()).unwrap_err();
    assert!(message.contains(expected), "no `{expected}` in: {message}");
}

const SHARD: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_truncated_shard_is_refused() {
    let truncate = |len: usize| {
        move |dir: &Path| {
            let bytes = std::fs::read(dir.join(SHARD)).unwrap();
            std::fs::write(dir.join(SHARD), &bytes[..len.min(bytes.len() - 1)]).unwrap();
        }
    };
    for len in [0, 7, 100, 400_000, usize::MAX] {
        assert_damage_is_found(truncate(len), SHARD);
    }
}

/// Replaces a piece of the header of the second shard by another of the same length.
fn lie(from: &'static str, to: &'static str) -> impl FnOnce(&Path) {
    assert_eq!(from.len(), to.len());
    move |dir| {
        let mut bytes = std::fs::read(dir.join(SHARD)).unwrap();
        let at = bytes
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(dir.join(SHARD), bytes).unwrap();
    }
}

#[test]
fn a_header_that_lies_about_type_or_shape_or_offsets_is_refused() {
    assert_damage_is_found(lie("\"BF16\"", "\"BF99\""), SHARD);
    assert_damage_is_found(lie("\"BF16\"", "\"F64\" "), SHARD);
    assert_damage_is_found(lie("\"shape\":[16]", "\"shape\":[99]"), SHARD);
    assert_damage_is_found(lie("\"data_offsets\":[0,", "\"data_offsets\":[8,"), SHARD);
}

#[test]
fn a_header_longer_than_its_file_is_refused() {
    for len in [u64::MAX, 1 << 40, 99_000_000] {
        assert_damage_is_found(
            |dir| {
                let mut bytes = std::fs::read(dir.join(SHARD)).unwrap();
                bytes[..8].copy_from_slice(&len.to_le_bytes());
                std::fs::write(dir.join(SHARD), bytes).unwrap();
            },
            SHARD,
        );
    }
}

#[test]
fn a_missing_shard_is_named() {
    assert_damage_is_found(|dir| std::fs::remove_file(dir.join(SHARD)).unwrap(), SHARD);
}

#[test]
fn an_index_that_disagrees_with_its_shards_is_refused() {
    let norm = "\"model.norm.weight\"";
    assert_damage_is_found(
        |dir| replace(&dir.join(INDEX), norm, "\"model.absent.weight\""),
        "model.absent.weight",
    );
    assert_damage_is_found(
        |dir| replace(&dir.join(INDEX), SHARD, "../secret"),
        "plain file name",
    );
    assert_damage_is_found(|dir| replace(&dir.join(INDEX), "weight_map", "map"), INDEX);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let copy_and_list = |dir: &Path| {
        std::fs::copy(dir.join(SHARD), dir.join("copy.safetensors")).unwrap();
        replace(
            &dir.join(INDEX),
            "\"weight_map\": {",
            "\"weight_map\": { \"x\": \"copy.safetensors\",",
        );
    };
    assert_damage_is_found(copy_and_list, "already found");
}

#[test]
fn a_directory_without_weights_says_what_was_expected() {
    let remove = |dir: &Path| std::fs::remove_file(dir.join(INDEX)).unwrap();
    assert_damage_is_found(remove, "model.safetensors.index.json");
    assert!(
        load_f32(Path::new("no/such/dir"))
            .unwrap_err()
            .contains("config.json")
    );
}
