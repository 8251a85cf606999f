//! Adapters: what they do to a forward pass, their gradients, their files, and merging them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use llada_diffusion::{KeyRanges, Rng, Stream, causal_ranges};
use llada_model::{
    Activations, Adapter, AdapterConfig, AdapterPlan, BlockFormat, Config, Dropout, FormatChoice,
    Gradients, Input, KeepDtype, Metadata, Model, SaveOptions, StorageDtype, TensorGroup, Weights,
    load, merge_adapter, save, write_adapter, write_gguf,
};
use llada_tensor::{Gradient, Precision, Tensor, Weight};
use serde_json::json;

use support::{Tensors, golden, load_f32, read_tensors, serialise, tiny};

const IDS: [u32; 6] = [5, 9, 2, 400, 77, 9];
const RATE: f32 = 0.25;

fn plan() -> AdapterPlan {
    AdapterPlan {
        targets: vec![
            TensorGroup::Attention,
            TensorGroup::Dense,
            TensorGroup::Shared,
            TensorGroup::Experts,
        ],
        rank: 4,
        scale: 2.0,
    }
}

fn described(config: &AdapterPlan) -> AdapterConfig {
    AdapterConfig {
        rank: config.rank,
        alpha: config.scale * config.rank as f32,
        dropout: RATE,
        base: Some("base".into()),
    }
}

/// The golden model.
fn base() -> Model {
    let loaded = load_f32(&golden()).unwrap();
    Model::new(loaded.config, loaded.weights)
}

/// A small model of a family that holds queries, keys and values apart.
fn dense() -> Model {
    let (config, weights) = tiny("Qwen2ForCausalLM", json!({}));
    Model::new(config, weights)
}

/// The model with an adapter that has been trained: B is not zero.
fn adapted(base: &Model) -> Model {
    let parts = plan().draw(&base.config, 3);
    let rng = Rng::new(4, Stream::Data);
    let mut param = 0;
    let parts = parts.map_into(|_, part| {
        param += 1;
        part.map(|mut part| {
            let values = (0..).zip(part.b.f32s_mut());
            values.for_each(|(i, b)| *b = 0.02 * rng.normal(0, param, i));
            part
        })
    });
    base.clone().with_adapter(parts)
}

/// The model with its adapter in the values.
fn merged(model: &Model) -> Model {
    let weights = model.weights.map(|_, weight| {
        let mut values = weight.values().clone();
        if let Some(part) = weight.low_rank() {
            part.add_rows(0..values.shape()[0], values.f32s_mut());
        }
        Weight::new(values, weight.precision())
    });
    Model::new(model.config.clone(), weights)
}

fn dropout() -> Dropout {
    let rng = Rng::new(1, Stream::Dropout);
    let rows = (0..IDS.len() as u32).map(|row| rng.fork(0, 0, row));
    Dropout::new(RATE, rows.collect())
}

/// Calls `f` with a causal pass over some tokens.
fn with_input<T>(dropout: Option<&Dropout>, f: impl FnOnce(&Input<'_>) -> T) -> T {
    let positions: Vec<u32> = (0..IDS.len() as u32).collect();
    let ranges: Vec<KeyRanges> = causal_ranges(IDS.len());
    f(&Input {
        ids: &IDS,
        positions: &positions,
        ranges: &ranges,
        outputs: &[1, 3, 5],
        dropout,
    })
}

fn hidden(model: &Model) -> Tensor {
    with_input(None, |input| model.forward(input))
}

/// Weighs the hidden states.
fn weights_of_loss(width: usize) -> Tensor {
    let rng = Rng::new(7, Stream::Data);
    let values = (0..3 * width as u32).map(|i| rng.normal(0, 0, i)).collect();
    Tensor::from_f32(&[3, width], values)
}

fn loss(model: &Model, dropout: Option<&Dropout>) -> f64 {
    let hidden = with_input(dropout, |input| {
        model.forward_recorded(input, Activations::Keep).0
    });
    let weights = weights_of_loss(model.config.hidden_size);
    let products = hidden.f32s().iter().zip(weights.f32s());
    products.map(|(h, w)| f64::from(*h) * f64::from(*w)).sum()
}

fn gradients(model: &Model, dropout: Option<&Dropout>, kept: Activations) -> Gradients {
    let mut grads = model.zero_gradients_of(|spec| plan().shapes(spec).is_some());
    with_input(dropout, |input| {
        let (_, tape) = model.forward_recorded(input, kept);
        let dhidden = weights_of_loss(model.config.hidden_size);
        model.backward(input, tape, &dhidden, &mut grads);
    });
    grads
}

fn assert_close(got: &Tensor, want: &Tensor, tolerance: f32) {
    let scale = want.f32s().iter().fold(0.0, |m: f32, w| m.max(w.abs()));
    for (got, want) in got.f32s().iter().zip(want.f32s()) {
        assert!((got - want).abs() <= tolerance * scale, "{got} {want}");
    }
}

#[test]
fn a_new_adapter_changes_nothing() {
    for base in [base(), dense()] {
        let parts = plan().draw(&base.config, 3);
        let model = base.clone().with_adapter(parts);
        assert_eq!(hidden(&model), hidden(&base));
        let noise = dropout();
        let recorded = with_input(Some(&noise), |input| {
            model.forward_recorded(input, Activations::Keep).0
        });
        assert_eq!(recorded, hidden(&base));
    }
}

#[test]
fn an_adapter_is_what_merging_it_makes_of_the_weights() {
    for base in [base(), dense()] {
        let model = adapted(&base);
        assert_ne!(hidden(&model), hidden(&base));
        assert_close(&hidden(&model), &hidden(&merged(&model)), 1e-4);
        assert_eq!(hidden(&model.base()), hidden(&base));
    }
}

#[test]
fn initial_values_depend_on_seed_and_place() {
    let config = base().config;
    let of = |seed| plan().draw(&config, seed);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    let parts = of(1);
    let a = |layer: usize| parts.layers[layer].dense.as_ref().unwrap().a.clone();
    assert_ne!(a(0), a(1));
    let [rank, inputs] = a(0).dims2();
    assert_eq!(rank, 4);
    let bound = 1.0 / (inputs as f32).sqrt();
    assert!(a(0).f32s().iter().all(|v| v.abs() <= bound));
    assert!(a(0).f32s().iter().any(|v| v.abs() > 0.9 * bound));
}

#[test]
fn gradients_of_the_factors_agree_with_finite_differences() {
    let noise = dropout();
    for base in [base(), dense()] {
        for dropout in [None, Some(&noise)] {
            // What experts see is not dropped, but everything beside them may be.
            let mut model = adapted(&base);
            let grads = gradients(&model, dropout, Activations::Keep);
            assert_differences(&mut model, &grads, dropout);
        }
    }
}

/// Compares the largest entry of the gradient of every factor with a central difference.
fn assert_differences(model: &mut Model, grads: &Gradients, dropout: Option<&Dropout>) {
    let step = 1e-2;
    for (index, (name, grad)) in grads.tensors().into_iter().enumerate() {
        let entries = grad.f32s().iter().enumerate();
        let (place, largest) = entries
            .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
            .unwrap();
        let at = |offset: f32| {
            let mut moved = model.clone();
            moved.weights.trained_mut(grads)[index].f32s_mut()[place] += offset;
            loss(&moved, dropout)
        };
        let difference = (at(step) - at(-step)) / f64::from(2.0 * step);
        let error = (f64::from(*largest) - difference).abs();
        // An expert that no row uses has no gradient; f32 leaves a few units in the last places.
        assert!(
            error <= 0.02 * difference.abs() + 2e-3,
            "{name}: {largest} and {difference}"
        );
    }
}

#[test]
fn recomputing_drops_the_same_elements() {
    let (model, noise) = (adapted(&base()), dropout());
    let kept = gradients(&model, Some(&noise), Activations::Keep);
    assert_eq!(
        gradients(&model, Some(&noise), Activations::Recompute),
        kept
    );
    assert_ne!(gradients(&model, None, Activations::Keep), kept);
}

#[test]
fn what_is_frozen_has_no_gradient_and_leaves_the_others_as_they_are() {
    let model = base();
    let run = |mut grads: Gradients| {
        with_input(None, |input| {
            let (_, tape) = model.forward_recorded(input, Activations::Keep);
            let dhidden = weights_of_loss(model.config.hidden_size);
            model.backward(input, tape, &dhidden, &mut grads);
        });
        grads
    };
    let all = run(model.zero_gradients());
    let is_last = |name: &str| name.starts_with("model.layers.1.");
    let some = run(model.zero_gradients_of(|spec| is_last(&spec.name)));
    for ((name, all), (_, some)) in all.params().into_iter().zip(some.params()) {
        match is_last(&name) {
            true => assert_eq!(some, all, "{name}"),
            false => assert_eq!(*some, Gradient::Frozen, "{name}"),
        }
    }
}

fn write(dir: &Path, model: &Model) {
    write_adapter(dir, &model.config, &model.weights, &described(&plan())).unwrap();
}

fn parts(model: &Model) -> Weights<Option<llada_tensor::LowRank>> {
    model.weights.map(|_, weight| weight.low_rank().cloned())
}

#[test]
fn a_written_adapter_reads_back_as_itself() {
    for base in [base(), dense()] {
        let (dir, model) = (tempfile::tempdir().unwrap(), adapted(&base));
        write(dir.path(), &model);
        let adapter = Adapter::open(dir.path()).unwrap();
        assert_eq!(adapter.config, described(&plan()));
        assert_eq!(adapter.fit(&base.config).unwrap(), parts(&model));
    }
}

#[test]
fn files_have_the_names_and_keys_of_peft() {
    let (dir, model) = (tempfile::tempdir().unwrap(), adapted(&base()));
    write(dir.path(), &model);
    let tensors = read_tensors(dir.path());
    for name in [
        "base_model.model.model.layers.0.attention.query_key_value.lora_A.weight",
        "base_model.model.model.layers.0.mlp.gate_proj.lora_B.weight",
        "base_model.model.model.layers.1.mlp.shared_experts.down_proj.lora_A.weight",
        "base_model.model.model.layers.1.mlp.experts.0.up_proj.lora_B.weight",
    ] {
        assert!(tensors.contains_key(name), "{name}");
    }
    let text = std::fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(4), &json!(8.0))
    );
    let modules = config["target_modules"].as_array().unwrap();
    for module in [
        "attention.dense",
        "mlp.gate_proj",
        "mlp.shared_experts.up_proj",
    ] {
        assert!(modules.contains(&json!(module)), "{module}");
    }
    let dense = tempfile::tempdir().unwrap();
    write(dense.path(), &adapted(&self::dense()));
    let tensors = read_tensors(dense.path());
    let q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert!(tensors.contains_key(q));
}

#[test]
fn merging_files_writes_what_saving_the_adapted_model_writes() {
    for (base, dtype) in [
        (base(), StorageDtype::F32),
        (base(), StorageDtype::Bf16),
        (dense(), StorageDtype::F32),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let model = adapted(&base);
        let options = SaveOptions {
            dtype: Some(dtype),
            ..SaveOptions::default()
        };
        let f32_files = SaveOptions {
            dtype: Some(StorageDtype::F32),
            ..options
        };
        save(&path("base"), &base.config, &base.weights, &f32_files).unwrap();
        save(&path("saved"), &model.config, &model.weights, &options).unwrap();
        for name in ["adapter", "merged"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        write(&path("adapter"), &model);
        let adapter = Adapter::open(&path("adapter")).unwrap();
        merge_adapter(&path("merged"), &path("base"), &adapter, &options).unwrap();
        for file in ["model.safetensors", "config.json"] {
            let read = |name: &str| std::fs::read(path(name).join(file)).unwrap();
            assert!(read("merged") == read("saved"), "{file}");
        }
    }
}

/// Writes an adapter of a change to the tensors and keys of ours, and opens it.
fn altered(
    base: &Model,
    change: impl FnOnce(&mut Tensors, &mut serde_json::Value),
) -> Result<Weights<Option<llada_tensor::LowRank>>, String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &adapted(base));
    let path = dir.path().join("adapter_config.json");
    let mut tensors = read_tensors(dir.path());
    let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut tensors, &mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    let factors = dir.path().join("adapter_model.safetensors");
    std::fs::write(factors, serialise(&tensors)).unwrap();
    let adapter = Adapter::open(dir.path()).map_err(|error| error.to_string())?;
    adapter.fit(&base.config).map_err(|error| error.to_string())
}

#[test]
fn queries_and_values_may_have_factors_of_their_own_and_keys_none() {
    let base = dense();
    let parts = altered(&base, |tensors, config| {
        tensors.retain(|name, _| name.contains("q_proj") || name.contains("v_proj"));
        for (name, tensor) in &mut *tensors {
            if name.ends_with("v_proj.lora_A.weight") {
                tensor.2.rotate_left(4);
            }
        }
        config["use_rslora"] = true.into();
    })
    .unwrap();
    let part = parts.layers[0].qkv.as_ref().unwrap();
    assert_eq!(part.a.dims2()[0], 8, "two As of rank 4");
    assert!((part.scale - 4.0).abs() < 1e-6, "8 / sqrt(4)");
    assert!(parts.layers[0].dense.is_none());
    // As if each projection were merged alone.
    let Config {
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        ..
    } = base.config;
    let queries = num_attention_heads * head_dim;
    let keys = queries..queries + num_key_value_heads * head_dim;
    let [outputs, inputs] = base.weights.layers[0].qkv.values().dims2();
    let mut delta = Tensor::zeros(&[outputs, inputs]);
    part.add_rows(0..outputs, delta.f32s_mut());
    let original = adapted(&base);
    let original = original.weights.layers[0].qkv.low_rank().unwrap();
    let mut expected = Tensor::zeros(&[outputs, inputs]);
    original.add_rows(0..outputs, expected.f32s_mut());
    for row in 0..outputs {
        let twice: Vec<f32> = expected.row(row).iter().map(|v| 2.0 * v).collect();
        match row {
            _ if keys.contains(&row) => assert!(delta.row(row).iter().all(|v| *v == 0.0)),
            _ if row < queries => assert_eq!(delta.row(row), twice),
            _ => assert_ne!(delta.row(row), twice),
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let base = base();
    let refusal = |change: &dyn Fn(&mut Tensors, &mut serde_json::Value)| {
        altered(&base, change).expect_err("it does not fit")
    };
    let dense = "base_model.model.model.layers.0.attention.dense.lora_A.weight";
    let other = refusal(&|tensors, _| {
        for which in ["A", "B"] {
            let name = dense.replace("lora_A", &format!("lora_{which}"));
            let tensor = tensors.remove(&name).unwrap();
            tensors.insert(name.replace("layers.0", "layers.9"), tensor);
        }
    });
    assert!(
        other.contains("`model.layers.9.attention.dense.weight`"),
        "{other}"
    );
    let lone = refusal(&|tensors, _| {
        tensors.remove(dense);
    });
    assert!(
        lone.contains("`model.layers.0.attention.dense.weight`"),
        "{lone}"
    );
    let narrow = refusal(&|tensors, _| {
        let tensor = tensors.get_mut(dense).unwrap();
        tensor.1[1] /= 2;
        tensor.2.truncate(tensor.2.len() / 2);
    });
    assert!(narrow.contains("attention.dense"), "{narrow}");
    let rank = refusal(&|_, config| config["r"] = 5.into());
    assert!(rank.contains("rank 5"), "{rank}");
    let dora = refusal(&|_, config| config["use_dora"] = true.into());
    assert!(dora.contains("`use_dora`"), "{dora}");
    let empty = refusal(&|tensors, _| tensors.clear());
    assert!(empty.contains("no factors"), "{empty}");
    let kind = refusal(&|_, config| config["peft_type"] = "IA3".into());
    assert!(kind.contains("IA3"), "{kind}");
    let router = refusal(&|tensors, _| {
        for (which, shape) in [("A", [4, 64]), ("B", [16, 4])] {
            let name = format!("base_model.model.model.layers.1.mlp.gate.lora_{which}.weight");
            let bytes = vec![0; 4 * shape[0] * shape[1]];
            tensors.insert(name, (safetensors::Dtype::F32, shape.to_vec(), bytes));
        }
    });
    assert!(router.contains("mlp.gate.weight"), "{router}");
}

/// Loads a checkpoint as a base.
fn base_of(path: &Path, precision: Precision, keep: KeepDtype) -> Model {
    let loaded = load(path, precision, keep).unwrap();
    Model::new(loaded.config, loaded.weights)
}

#[test]
fn products_in_bf16_take_the_adapter_along() {
    let coarse = base_of(&golden(), Precision::Bf16, KeepDtype::Numbers);
    let fine = hidden(&adapted(&base()));
    assert_close(&hidden(&adapted(&coarse)), &fine, 0.2);
}

#[test]
fn codes_take_the_adapter_along_and_are_numbers_in_training() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.gguf");
    let choice = FormatChoice {
        default: BlockFormat::Q8_0,
        kept: BTreeMap::new(),
    };
    write_gguf(&golden(), &path, &choice, &Metadata::default(), &mut |_| ()).unwrap();
    let of = |keep| adapted(&base_of(&path, Precision::F32, keep));
    let (codes, numbers) = (of(KeepDtype::AsStored), of(KeepDtype::Numbers));
    assert_close(&hidden(&codes), &hidden(&numbers), 0.1);
    assert_ne!(hidden(&codes), hidden(&codes.base()));
    let grads = gradients(&numbers, None, Activations::Keep);
    let (_, first) = &grads.tensors()[0];
    assert!(first.f32s().iter().any(|&value| value != 0.0));
}
