//! What continued pre-training and fine-tuning add to a run.

use llada_model::Mlp;

use super::*;
use crate::check_data;

/// Conversations in characters, ended by EOS.
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<|end|>\
                        {% endif %}{% endfor %}";

const CHATS: &str = r#"{"messages": [{"role": "user", "content": "is it on."}, {"role": "assistant", "content": "yes."}, {"role": "user", "content": "and now."}, {"role": "assistant", "content": "no, it is not."}]}
{"messages": [{"role": "user", "content": "go."}, {"role": "assistant", "content": "gone."}]}
{"messages": [{"role": "user", "content": "nobody answers."}]}
"#;

const FINE_TUNING: [&str; 6] = [
    "objective.mask_ratio_band=[0.2, 0.8]",
    "objective.rate_scope=document",
    "objective.normalisation=masked_mean",
    "objective.complementary=true",
    "data.valid=[]",
    "train.batch_documents=2",
];

const PRE_TRAINING: [&str; 7] = [
    "objective.block_schedule=[{block=1, tokens=60}, {block=4, tokens=60}, {block=64, tokens=120}, {block=8, tokens=1}]",
    "objective.mask_noise_steps=5",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=0",
    "optimizer.expert_bias_rate=0.01",
    "optimizer.router_z_loss=0.001",
    "train.batch_documents=3",
];

fn chats() -> Scene {
    let scene = Scene::new();
    let path = scene.dir.path().join("parent/tokenizer_config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["chat_template"] = TEMPLATE.into();
    std::fs::write(&path, config.to_string()).unwrap();
    std::fs::write(scene.dir.path().join("rows.jsonl"), CHATS).unwrap();
    scene
}

fn mixture() -> Scene {
    let scene = Scene::of(testing::moe_config(LabelAlignment::Same));
    let dir = scene.dir.path();
    std::fs::write(dir.join("more.jsonl"), "{\"text\": \"what a day.\"}\n").unwrap();
    scene
}

/// A recipe of several sources and block sizes.
fn pre_training(scene: &Scene, changes: &[&str]) -> Recipe {
    let dir = scene.dir.path().display();
    let text = scene.recipe(&[]).to_toml().replace("block_size = 4\n", "");
    let sources = format!(
        "data.train=[{{path = \"{dir}/rows.jsonl\", weight = 2.0}}, {{path = \"{dir}/more.jsonl\", weight = 1.0}}]"
    );
    let changes = PRE_TRAINING.iter().chain(changes).map(ToString::to_string);
    let changes: Vec<_> = changes.chain([sources]).collect();
    Recipe::parse(&text, &changes).unwrap()
}

fn expert_bias(scene: &Scene, path: &str) -> Vec<f32> {
    let model = load(&scene.dir.path().join(path), Precision::F32, KeepDtype::F32).unwrap();
    let layer = model.weights.layers.into_iter().next_back();
    match layer.expect("the model has layers").mlp {
        Mlp::Moe(moe) => moe.expert_bias.values().f32s().to_vec(),
        Mlp::Dense(_) => unreachable!("the last layer is a mixture"),
    }
}

/// Trains 9 steps at once, and 5 and 4, and compares all that is left.
fn assert_resumes_bit_by_bit(scene: &Scene, recipe: impl Fn(&str) -> Recipe) {
    let (_, whole) = scene
        .run(&recipe("train.steps=9"), "whole", Resume::No)
        .unwrap();
    scene
        .run(&recipe("train.steps=5"), "parts", Resume::No)
        .unwrap();
    let (_, rest) = scene
        .run(&recipe("train.steps=9"), "parts", Resume::Yes)
        .unwrap();
    let figures = |m: &Metrics| (m.step, m.tokens, m.block_size, m.loss, m.grad_norm);
    assert!(whole[5..].iter().map(figures).eq(rest.iter().map(figures)));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let bytes = |run| scene.bytes(&format!("{run}/checkpoints/step-000009/{file}"));
        assert!(bytes("whole") == bytes("parts"), "{file} differs");
    }
}

#[test]
fn fine_tuning_resumes_bit_by_bit() {
    let scene = chats();
    assert_resumes_bit_by_bit(&scene, |steps| {
        let changes = [&FINE_TUNING[..], &["optimizer.schedule=constant", steps]].concat();
        scene.recipe(&changes)
    });
}

#[test]
fn training_on_recorded_states_resumes_bit_by_bit() {
    let scene = Scene::new();
    let row = |ids: &str, steps: &str| {
        format!(
            "{{\"input_ids\": [{ids}], \"prompt_lengths\": 2, \"steps\": [{steps}], \"block_size\": 4}}\n"
        )
    };
    let rows = [
        row("1, 2, 3, 4, 5, 6, 31", "0, 1, 1, 0, 2"),
        row("7, 8, 9, 10, 11, 12, 13, 31", "1, 0, 3, 2, 1, 0"),
        row("14, 15, 16, 31", "0, 0"),
    ];
    std::fs::write(scene.dir.path().join("rows.jsonl"), rows.concat()).unwrap();
    let recipe = |steps: &str| {
        scene.recipe(&[
            "trajectory.most_steps=2",
            "cap.lambda=0.5",
            "objective.mask_ratio_band=[0.001, 1.0]",
            "objective.normalisation=masked_mean",
            "optimizer.schedule=constant",
            "train.batch_documents=2",
            steps,
        ])
    };
    assert_resumes_bit_by_bit(&scene, recipe);
    let rows = rows
        .concat()
        .replace("\"block_size\": 4", "\"block_size\": 8");
    std::fs::write(scene.dir.path().join("rows.jsonl"), rows).unwrap();
    let error = scene.run(&recipe("train.steps=9"), "other", Resume::No);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("`block_size` is 8"), "{message}");
}

#[test]
fn pre_training_of_a_mixture_resumes_bit_by_bit_within_noise_and_stages() {
    let scene = mixture();
    assert_resumes_bit_by_bit(&scene, |steps| pre_training(&scene, &[steps]));
    let (_, metrics) = scene
        .run(
            &pre_training(&scene, &["train.steps=9"]),
            "again",
            Resume::No,
        )
        .unwrap();
    let mut sizes: Vec<_> = metrics.iter().map(|metrics| metrics.block_size).collect();
    sizes.dedup();
    assert_eq!(sizes, [1, 4, 64, 8], "every stage is met");
}

#[test]
fn fine_tuning_learns_every_turn_by_heart() {
    let scene = chats();
    let changes = [
        "train.steps=150",
        "train.eval_block_sizes=[]",
        "optimizer.weight_decay=0.0",
    ];
    let recipe = scene.recipe(&[&FINE_TUNING[..], &changes].concat());
    let (outcome, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
    let last = metrics[140..].iter().map(|m| m.nll).sum::<f64>() / 10.0;
    assert!(last < 0.3 * metrics[0].nll, "{} -> {last}", metrics[0].nll);
    assert!(
        outcome
            .warnings
            .iter()
            .any(|w| w.contains("1 documents have no token to learn")),
        "{:?}",
        outcome.warnings
    );
}

#[test]
fn the_expert_bias_moves_by_the_load_alone() {
    let scene = mixture();
    let before = expert_bias(&scene, "parent");
    let recipe = pre_training(&scene, &["train.steps=1", "optimizer.expert_bias_rate=0.0"]);
    scene.run(&recipe, "still", Resume::No).unwrap();
    assert_eq!(
        expert_bias(&scene, "still/final"),
        before,
        "it has no gradient"
    );
    let recipe = pre_training(&scene, &["train.steps=1", "train.export_dtype=bf16"]);
    let (_, metrics) = scene.run(&recipe, "whole", Resume::No).unwrap();
    let after = expert_bias(&scene, "whole/final");
    let sum: f32 = after.iter().sum();
    assert!(after != before && sum.abs() < 1e-6, "{after:?}");
    let load = metrics[0].expert_load.as_ref().expect("there are experts");
    assert!(load.max_over_mean[0] > 1.0 && load.entropy[0] < 1.0);
    let split = pre_training(&scene, &["train.steps=1", "train.micro_batch_rows=8"]);
    let (_, split_metrics) = scene.run(&split, "split", Resume::No).unwrap();
    assert_eq!(
        expert_bias(&scene, "split/final"),
        after,
        "micro-batches add up"
    );
    let split_load = split_metrics[0]
        .expert_load
        .as_ref()
        .expect("there are experts");
    assert_eq!(split_load.max_over_mean, load.max_over_mean);
}

#[test]
fn the_z_loss_keeps_router_logits_small() {
    let scene = mixture();
    let after = |name: &str, weight: &str| {
        let changes = ["train.steps=30", "train.eval_block_sizes=[]", weight];
        let (_, metrics) = scene
            .run(&pre_training(&scene, &changes), name, Resume::No)
            .unwrap();
        let last = metrics[29].expert_load.clone().expect("there are experts");
        last.squared_lse / metrics[29].rows as f64
    };
    let free = after("free", "optimizer.router_z_loss=0.0");
    let held = after("held", "optimizer.router_z_loss=1.0");
    assert!(held < 0.5 * free, "{free} and {held}");
}

#[test]
fn noise_on_mask_changes_the_start_of_a_run() {
    let scene = mixture();
    let first = |name: &str, steps: &str| {
        let recipe = pre_training(&scene, &["train.steps=1", steps]);
        scene.run(&recipe, name, Resume::No).unwrap().1[0].loss
    };
    let noisy = first("noisy", "objective.mask_noise_steps=5");
    assert_ne!(noisy, first("plain", "objective.mask_noise_steps=0"));
}

#[test]
fn settings_for_experts_are_refused_for_a_model_without_them() {
    let scene = Scene::new();
    for key in ["optimizer.expert_bias_rate", "optimizer.router_z_loss"] {
        let recipe = scene.recipe(&[&format!("{key}=0.1")]);
        let message = scene
            .run(&recipe, "run", Resume::No)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(key) && message.contains("no experts"),
            "{message}"
        );
    }
}

/// A recipe on pairs whose reference scores everything first, or step by step.
fn preference(scene: &Scene, is_cached: bool, more: &[&str]) -> Recipe {
    let cached = format!("dpo.cache_reference={is_cached}");
    let changes = [
        "dpo.draws=2",
        &cached,
        "objective.block_schedule=[{block=2, steps=2}, {block=4, steps=1}]",
        "optimizer.schedule=constant",
        "train.batch_documents=3",
        "train.eval_every=2",
        "train.checkpoint_every=2",
        "train.micro_batch_rows=40",
    ];
    let text = scene.recipe(&[]).to_toml().replace("block_size = 4\n", "");
    let changes = changes.iter().chain(more).map(ToString::to_string);
    Recipe::parse(&text, &changes.collect::<Vec<_>>()).unwrap()
}

#[test]
fn a_reference_that_is_asked_beforehand_changes_nothing() {
    let scene = Scene::new();
    scene.write_pairs_for("dpo");
    let run = |is_cached, name, steps: &str, resume| {
        let (_, metrics) = scene
            .run(&preference(&scene, is_cached, &[steps]), name, resume)
            .unwrap();
        let figures = |row: &Metrics| {
            (
                row.loss,
                row.grad_norm,
                row.measures.clone(),
                row.valid.clone(),
            )
        };
        metrics.iter().map(figures).collect::<Vec<_>>()
    };
    let asked = run(false, "asked", "train.steps=7", Resume::No);
    let known = run(true, "known", "train.steps=7", Resume::No);
    assert_eq!(asked, known);
    // More steps than the first session planned ask for what is missing.
    run(true, "parts", "train.steps=3", Resume::No);
    let rest = run(true, "parts", "train.steps=7", Resume::Yes);
    assert_eq!(known[3..], rest);
    for run in ["known", "parts"] {
        let weights = |run| scene.bytes(&format!("{run}/final/model.safetensors"));
        assert!(weights(run) == weights("asked"), "{run}");
    }
    assert!(
        scene.bytes("known/reference.safetensors") == scene.bytes("parts/reference.safetensors")
    );
    assert!(
        !scene
            .dir
            .path()
            .join("asked/reference.safetensors")
            .exists()
    );
}

#[test]
fn bounds_of_another_run_are_refused_by_what_differs() {
    let scene = Scene::new();
    scene.write_pairs_for("dpo");
    let dir = scene.dir.path();
    scene
        .run(
            &preference(&scene, true, &["train.steps=2"]),
            "run",
            Resume::No,
        )
        .unwrap();
    let resumed = |more: &[&str]| {
        let recipe = preference(&scene, true, &[&["train.steps=4"], more].concat());
        scene
            .run(&recipe, "run", Resume::Yes)
            .map_err(|error| error.to_string())
    };
    for (change, word) in [
        ("train.seed=9", "another train.seed"),
        ("dpo.draws=3", "another dpo.draws"),
        ("objective.mask_draw=exact_k", "another objective"),
        ("train.batch_documents=2", "another size of a batch"),
    ] {
        let message = resumed(&[change]).unwrap_err();
        assert!(
            message.contains(word) && message.contains("reference.safetensors"),
            "{message}"
        );
    }
    let (weights, rows) = (dir.join("parent/model.safetensors"), dir.join("rows.jsonl"));
    for (path, word) in [(&rows, "another data"), (&weights, "another reference")] {
        let before = std::fs::read(path).unwrap();
        let mut after = before.clone();
        match path == &rows {
            true => {
                after = String::from_utf8(after)
                    .unwrap()
                    .replace("sat", "ran")
                    .into_bytes()
            }
            false => *after.last_mut().unwrap() ^= 1,
        }
        std::fs::write(path, after).unwrap();
        let message = resumed(&[]).unwrap_err();
        assert!(message.contains(word), "{message}");
        std::fs::write(path, before).unwrap();
    }
    std::fs::remove_file(dir.join("run/reference.safetensors")).unwrap();
    resumed(&[]).unwrap();
    std::fs::write(dir.join("run/reference.safetensors"), "no tensors").unwrap();
    assert!(resumed(&[]).unwrap_err().contains("is damaged"));
}

#[test]
fn blocks_of_another_size_are_refused_for_a_model_that_routes_blocks() {
    let scene = Scene::of(testing::moe_config(LabelAlignment::Same));
    let path = scene.dir.path().join("parent/config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["expert_capacity"] = 4.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let run = |changes: &[&str], name| scene.run(&scene.recipe(changes), name, Resume::No);
    let message = |change| run(&[change], "run").unwrap_err().to_string();
    let other = "objective.block_size=8";
    assert!(message(other).contains("`objective.block_size` must be 4"));
    let other = "train.eval_block_sizes=[1, 4]";
    assert!(message(other).contains("`train.eval_block_sizes` must be 4"));
    run(&["train.eval_block_sizes=[4]", "train.steps=2"], "run").unwrap();
}

#[test]
fn a_run_is_not_resumed_on_other_data() {
    let scene = mixture();
    scene
        .run(&pre_training(&scene, &["train.steps=1"]), "run", Resume::No)
        .unwrap();
    let error = scene
        .run(&scene.recipe(&[]), "run", Resume::Yes)
        .unwrap_err();
    let found = "sources of [6, 1] documents, those of the recipe have [6]";
    assert!(error.to_string().contains(found), "{error}");
    let more = "{\"text\": \"what a day.\"}\n".repeat(2);
    std::fs::write(scene.dir.path().join("more.jsonl"), more).unwrap();
    let recipe = pre_training(&scene, &["train.steps=2"]);
    let error = scene.run(&recipe, "run", Resume::Yes).unwrap_err();
    assert!(error.to_string().contains("have [6, 2]"), "{error}");
}

#[test]
fn a_check_of_the_data_counts_what_a_run_would_meet() {
    let scene = chats();
    let rows = scene.dir.path().join("rows.jsonl");
    let more = "{\"text\": 5}\n{\"input_ids\": [1, 30]}\n{\"text\": \"a cat sat on a mat.\"}\n";
    std::fs::write(&rows, CHATS.to_owned() + more).unwrap();
    let report = check_data(&scene.recipe(&["data.max_len=12"])).unwrap();
    let train = &report.train;
    // One chat is cut within its second turn, one fits; the text is cut in two.
    assert_eq!((train.rows, train.documents), (6, 4));
    assert_eq!((train.cut_rows, train.dropped_documents), (2, 1));
    assert_eq!((train.mask_id_rows, train.malformed_rows), (1, 1));
    assert!(train.problems[0].contains("line 4"), "{:?}", train.problems);
    let lengths = train.lengths.expect("there are documents");
    assert_eq!((lengths.min, lengths.max), (8, 12));
    assert_eq!(report.malformed_rows(), 2, "the same file is validated on");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["train"]["lengths"]["p50"], 9);
}
