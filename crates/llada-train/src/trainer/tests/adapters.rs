//! Runs that train an adapter, and runs that leave parts of the model as they are.

use std::path::PathBuf;

use llada_model::Adapter;

use super::*;
use crate::merge::merge_adapter;
use crate::plan::plan;

const LORA: [&str; 4] = [
    "lora.rank=3",
    "lora.alpha=12",
    "lora.dropout=0.2",
    "optimizer.schedule=constant",
];

fn mixture() -> Scene {
    Scene::of(testing::moe_config(LabelAlignment::Same))
}

fn lora(scene: &Scene, changes: &[&str]) -> Recipe {
    scene.recipe(&[&LORA, changes].concat())
}

fn adapter(scene: &Scene, run: &str) -> Vec<u8> {
    scene.bytes(&format!("{run}/final/adapter/adapter_model.safetensors"))
}

#[test]
fn a_resumed_adapter_is_bit_equal_to_an_uninterrupted_one() {
    for scene in [Scene::new(), mixture()] {
        let recipe = |steps: u64| {
            let steps = format!("train.steps={steps}");
            lora(&scene, &[&steps, "train.micro_batch_rows=40"])
        };
        let (_, whole) = scene.run(&recipe(6), "whole", Resume::No).unwrap();
        scene.run(&recipe(4), "parts", Resume::No).unwrap();
        let (_, rest) = scene.run(&recipe(6), "parts", Resume::Yes).unwrap();
        for (whole, resumed) in whole[4..].iter().zip(&rest) {
            let of = |metrics: &Metrics| (metrics.loss, metrics.grad_norm, metrics.valid.clone());
            assert_eq!(of(whole), of(resumed));
        }
        for file in [
            "final/adapter/adapter_model.safetensors",
            "final/model.safetensors",
            "checkpoints/step-000006/optimizer.safetensors",
        ] {
            let bytes = |run| scene.bytes(&format!("{run}/{file}"));
            assert!(bytes("whole") == bytes("parts"), "{file} differs");
        }
    }
}

#[test]
fn dropout_is_in_training_and_does_not_depend_on_micro_batches() {
    let scene = Scene::new();
    let losses = |name: &str, changes: &[&str]| {
        let (_, metrics) = scene.run(&lora(&scene, changes), name, Resume::No).unwrap();
        metrics.iter().map(|step| step.loss).collect::<Vec<_>>()
    };
    let whole = losses("whole", &[]);
    let parts = losses("parts", &["train.micro_batch_rows=1"]);
    for (whole, parts) in whole.iter().zip(&parts) {
        assert!((whole / parts - 1.0).abs() < 1e-3, "{whole} and {parts}");
    }
    let without = losses("without", &["lora.dropout=0"]);
    assert_eq!(without[0], whole[0], "B is zero in the first step");
    assert_ne!(without[2], whole[2]);
}

#[test]
fn the_final_model_is_the_base_with_the_adapter_merged() {
    let scene = mixture();
    let recipe = lora(
        &scene,
        &[
            "lora.targets=[\"attention\", \"experts\"]",
            "lora.dropout=0",
        ],
    );
    scene.run(&recipe, "run", Resume::No).unwrap();
    let path = |name: &str| scene.dir.path().join(name);
    let merged = path("merged");
    merge_adapter(&path("parent"), &path("run/final/adapter"), &merged, None).unwrap();
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        let bytes = |dir: &str| scene.bytes(&format!("{dir}/{file}"));
        assert!(bytes("merged") == bytes("run/final"), "{file} differs");
    }
    let of = |dir: &str| {
        let weights = load(&path(dir), Precision::F32, KeepDtype::F32)
            .unwrap()
            .weights;
        let values =
            |(name, weight): (String, &llada_tensor::Weight)| (name, weight.values().clone());
        weights.params().into_iter().map(values).collect::<Vec<_>>()
    };
    for ((name, before), (_, after)) in of("parent").iter().zip(&of("run/final")) {
        let is_target = name.contains(".experts.") || name.contains(".attention.");
        let is_changed = is_target
            && name.ends_with("proj.weight")
                | name.contains(".query_key_value.")
                | name.contains(".dense.");
        assert_eq!(before != after, is_changed, "{name}");
    }
    let adapter = Adapter::open(&path("run/final/adapter")).unwrap();
    assert_eq!(adapter.config.base.map(PathBuf::from), Some(path("parent")));
}

#[test]
fn an_adapter_learns_and_its_checkpoints_hold_nothing_else() {
    let scene = Scene::new();
    let recipe = lora(
        &scene,
        &[
            "train.steps=120",
            "lora.rank=8",
            "lora.dropout=0.02",
            "optimizer.weight_decay=0",
        ],
    );
    let (_, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
    let mean = |steps: &[Metrics]| steps.iter().map(|step| step.nll).sum::<f64>() / 10.0;
    let (before, after) = (mean(&metrics[..10]), mean(&metrics[110..]));
    assert!(after < 0.8 * before, "{before} {after}");
    let checkpoint = scene.dir.path().join("run/checkpoints/step-000120");
    assert!(checkpoint.join("adapter_model.safetensors").exists());
    assert!(!checkpoint.join("model.safetensors").exists());
    let message = crate::merge(
        &[checkpoint],
        &scene.dir.path().join("mean"),
        StorageDtype::F32,
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("holds an adapter"), "{message}");
}

#[test]
fn an_adapter_of_another_recipe_is_not_resumed() {
    let scene = Scene::new();
    scene.run(&lora(&scene, &[]), "run", Resume::No).unwrap();
    for change in ["lora.rank=4", "lora.alpha=6", "lora.targets=[\"dense\"]"] {
        let recipe = lora(&scene, &[change, "train.steps=9"]);
        let message = scene
            .run(&recipe, "run", Resume::Yes)
            .unwrap_err()
            .to_string();
        assert!(message.contains("`lora`"), "{change}: {message}");
    }
}

#[test]
fn preference_training_compares_an_adapter_with_its_base() {
    let scene = Scene::new();
    scene.write_pairs_for("dpo");
    let changes = ["dpo.beta=0.5", "objective.eos_fill=false", "lora.dropout=0"];
    let recipe = lora(&scene, &changes);
    let (_, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
    assert_eq!(metrics[0].measures["dpo_margin"], 0.0);
    assert!((metrics[0].loss - 2_f64.ln()).abs() < 1e-6);
    assert!(metrics[7].measures["dpo_margin"] != 0.0);
    let parent = format!(
        "dpo.reference=\"{}\"",
        scene.dir.path().join("parent").display()
    );
    let named = lora(&scene, &[&changes[..], &[&parent]].concat());
    let (_, others) = scene.run(&named, "named", Resume::No).unwrap();
    let losses = |metrics: &[Metrics]| metrics.iter().map(|step| step.loss).collect::<Vec<_>>();
    assert_eq!(losses(&metrics), losses(&others));
    let planned = |recipe| plan(recipe).unwrap().bytes.weights;
    assert!(planned(&named) > 3 * planned(&recipe) / 2);
}

#[test]
fn what_is_frozen_stays_bit_by_bit_and_has_no_moments() {
    let scene = mixture();
    let set = |steps: u64| {
        let steps = format!("train.steps={steps}");
        scene.recipe(&[
            "model.freeze=[\"router\", \"experts\", \"embedding\", \"model.layers.0.*\"]",
            "optimizer.schedule=constant",
            &steps,
        ])
    };
    scene.run(&set(5), "whole", Resume::No).unwrap();
    scene.run(&set(3), "parts", Resume::No).unwrap();
    scene.run(&set(5), "parts", Resume::Yes).unwrap();
    for file in [
        "final/model.safetensors",
        "checkpoints/step-000005/optimizer.safetensors",
    ] {
        let bytes = |run| scene.bytes(&format!("{run}/{file}"));
        assert!(bytes("whole") == bytes("parts"), "{file} differs");
    }
    let of = |dir: &str| {
        let dir = scene.dir.path().join(dir);
        load(&dir, Precision::F32, KeepDtype::F32).unwrap().weights
    };
    let (before, after) = (of("parent"), of("whole/final"));
    let moments = scene.bytes("whole/checkpoints/step-000005/optimizer.safetensors");
    let moments = safetensors::SafeTensors::deserialize(&moments).unwrap();
    for ((name, before), (_, after)) in before.params().into_iter().zip(after.params()) {
        let is_frozen = [".gate.", ".experts.", "word_embeddings", "layers.0."]
            .iter()
            .any(|part| name.contains(part));
        assert_eq!(before.values() == after.values(), is_frozen, "{name}");
        assert_eq!(
            moments.tensor(&format!("first.{name}")).is_err(),
            is_frozen,
            "{name}"
        );
    }
}

#[test]
fn the_norm_that_is_clipped_is_that_of_what_is_trained() {
    let scene = mixture();
    let norm = |name: &str, changes: &[&str]| {
        let recipe =
            scene.recipe(&[&["train.steps=1", "optimizer.warmup_steps=0"], changes].concat());
        let (_, metrics) = scene.run(&recipe, name, Resume::No).unwrap();
        metrics[0].grad_norm
    };
    let all = norm("all", &[]);
    let head = norm(
        "head",
        &["model.freeze=[\"embedding\", \"norms\", \"model.layers.*\"]"],
    );
    let rest = norm("rest", &["model.freeze=[\"head\"]"]);
    assert!(((head * head + rest * rest).sqrt() / all - 1.0).abs() < 1e-5);
}

#[test]
fn a_plan_counts_what_is_trained() {
    let scene = mixture();
    let all = plan(&scene.recipe(&[])).unwrap();
    let expert_bias = 8;
    assert_eq!(all.trained, all.parameters - expert_bias);
    let frozen = plan(&scene.recipe(&["model.freeze=[\"experts\"]"])).unwrap();
    assert_eq!(all.trained - frozen.trained, 8 * 3 * 16 * 16);
    assert_eq!(frozen.bytes.optimizer, 8 * frozen.trained);
    assert_eq!(frozen.bytes.weights, all.bytes.weights);
    let adapter = plan(&lora(&scene, &["lora.targets=[\"shared\"]"])).unwrap();
    assert_eq!(adapter.trained, 3 * 3 * (16 + 16));
    assert_eq!(adapter.bytes.gradients, 4 * adapter.trained);
    assert_eq!(
        adapter.bytes.weights,
        all.bytes.weights + 4 * adapter.trained
    );
}

#[test]
fn the_base_of_an_adapter_stays_in_bf16() {
    let config = testing::moe_config(LabelAlignment::Same);
    let scene = Scene::of(config.clone());
    let parent = scene.dir.path().join("parent-bf16");
    let weights = Weights::random(&config, 1, Precision::F32);
    let options = SaveOptions {
        dtype: Some(StorageDtype::Bf16),
        ..SaveOptions::default()
    };
    save(&parent, &config, &weights, &options).unwrap();
    let changes = [
        &format!("model.path=\"{}\"", parent.display())[..],
        &format!(
            "model.tokenizer=\"{}\"",
            scene.dir.path().join("parent").display()
        ),
        "model.precision=bf16",
        "objective.mask_noise_steps=3",
    ];
    let recipe = lora(&scene, &changes);
    let (learner, ..) = setup::begin(&recipe).unwrap();
    let bytes = |(_, weight): (String, &llada_tensor::Weight)| {
        let parts = weight
            .low_rank()
            .map_or(0, |part| part.a.num_bytes() + part.b.num_bytes());
        weight.values().num_bytes() + parts
    };
    let held: usize = learner.model.weights.params().into_iter().map(bytes).sum();
    assert_eq!(plan(&recipe).unwrap().bytes.weights, held as u64);
    scene.run(&recipe, "run", Resume::No).unwrap();
    let exported = load(
        &scene.dir.path().join("run/final"),
        Precision::F32,
        KeepDtype::F32,
    );
    assert_eq!(exported.unwrap().config.storage, StorageDtype::Bf16);
    assert!(!adapter(&scene, "run").is_empty());
}
