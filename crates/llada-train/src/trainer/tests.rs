use llada_diffusion::LabelAlignment;
use llada_model::{Config, KeepDtype, Weights, load, save};
use llada_tensor::Precision;
use tempfile::TempDir;

mod adapters;
mod policy;
mod stages;

use super::log::step_of;
use super::*;
use crate::testing;

/// A checkpoint, documents and a recipe, in a directory of their own.
struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::of(testing::config(LabelAlignment::Shifted))
    }

    fn of(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let weights = Weights::random(&config, 1, Precision::F32);
        save(
            &dir.path().join("parent"),
            &config,
            &weights,
            &SaveOptions::default(),
        )
        .unwrap();
        let alphabet = "abcdefghijklmnopqrstuvwxyz .,!";
        let mut tokenizer = Tokenizer::characters(alphabet, &["<|mask|>", "<|end|>"]).unwrap();
        tokenizer
            .set_role(llada_text::Role::Eos, "<|end|>")
            .unwrap();
        tokenizer.save(dir.path().join("parent")).unwrap();
        let rows = [
            "a cat sat.",
            "a dog ran, and ran!",
            "no rain.",
            "the sun is up.",
            "go on!",
        ];
        let text = rows
            .map(|row| format!("{{\"text\": \"{row}\"}}\n"))
            .concat();
        let answer = "{\"prompt\": \"one and one is\", \"response\": \" two.\"}\n";
        std::fs::write(dir.path().join("rows.jsonl"), text + answer).unwrap();
        Self { dir }
    }

    fn recipe(&self, changes: &[&str]) -> Recipe {
        let dir = self.dir.path().display();
        let text = format!(
            "[model]\npath = \"{dir}/parent\"\n\
             [data]\ntrain = \"{dir}/rows.jsonl\"\nvalid = \"{dir}/rows.jsonl\"\n\
             [objective]\nkind = \"bdlm\"\nblock_size = 4\nmask_ratio_band = [0.1, 1.0]\n\
             [optimizer]\nlr = 0.01\nwarmup_steps = 2\n\
             [train]\nsteps = 8\nbatch_documents = 4\neval_block_sizes = [1, 4]\n"
        );
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        Recipe::parse(&text, &changes).unwrap()
    }

    /// Starts from random weights of a model that can insert and delete.
    fn random_recipe(&self, changes: &[&str]) -> Recipe {
        let parent = self.dir.path().join("parent");
        let text = std::fs::read_to_string(parent.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["vocab_size"] = 34.into();
        config["delete_token_id"] = 32.into();
        config["split_token_id"] = 33.into();
        let path = self.dir.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let text = self.recipe(&[]).to_toml();
        let text = text.replace(
            &format!("path = \"{}\"", parent.display()),
            &format!(
                "config = \"{}\"\ntokenizer = \"{}\"",
                path.display(),
                parent.display()
            ),
        );
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        Recipe::parse(&text, &changes).unwrap()
    }

    /// Puts preference pairs in place of the rows if the loss is about them.
    fn write_pairs_for(&self, loss: &str) {
        if !loss.starts_with("dpo") {
            return;
        }
        let row = |(prompt, chosen, rejected)| {
            format!(
                "{{\"prompt\": \"{prompt}\", \"chosen\": \"{chosen}\", \"rejected\": \"{rejected}\"}}\n"
            )
        };
        let rows = [
            ("a cat", " sat down.", " dog dog dog dog."),
            ("one and", " one is two.", " no."),
            ("the sun", " is up.", ",,,,,,,,"),
            ("go", " on!", " zzz"),
        ];
        std::fs::write(self.dir.path().join("rows.jsonl"), rows.map(row).concat()).unwrap();
    }

    fn run(&self, recipe: &Recipe, name: &str, resume: Resume) -> Result<(Outcome, Vec<Metrics>)> {
        let mut metrics = Vec::new();
        let mut progress = |progress: Progress<'_>| match progress {
            Progress::Step(row) => metrics.push(row.clone()),
            Progress::Reference { scored, pairs } => assert!(scored < pairs),
        };
        let never = AtomicBool::new(false);
        let outcome = train(
            recipe,
            &self.dir.path().join(name),
            resume,
            &mut progress,
            &never,
        )?;
        Ok((outcome, metrics))
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(path)).unwrap()
    }
}

#[test]
fn a_run_leaves_what_its_directory_promises() {
    let scene = Scene::new();
    let recipe = scene.recipe(&["train.eval_every=4", "train.checkpoint_every=2"]);
    let (outcome, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 8));
    assert_eq!(metrics.len(), 8);
    assert_eq!(
        metrics[7].valid.keys().collect::<Vec<_>>(),
        ["block_1", "block_4"]
    );
    assert!(metrics[2].valid.is_empty() && !metrics[3].valid.is_empty());
    let run = scene.dir.path().join("run");
    let resolved = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert_eq!(Recipe::from_toml(&resolved).unwrap(), recipe);
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(
        log.lines().filter_map(step_of).collect::<Vec<_>>(),
        (1..=8).collect::<Vec<_>>()
    );
    let mut kept: Vec<_> = run
        .join("checkpoints")
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    kept.sort();
    assert_eq!(kept, ["step-000006", "step-000008"]);
    let child = load(&run.join("final"), Precision::F32, KeepDtype::F32).unwrap();
    assert_eq!(child.config.label_alignment, Some(LabelAlignment::Shifted));
    assert_eq!(
        Tokenizer::load(run.join("final")).unwrap().specials().mask,
        Some(testing::MASK)
    );
}

#[test]
fn a_resumed_run_is_bit_equal_to_an_uninterrupted_one() {
    for kind in ["kind=bdlm", "kind=mdlm", "kind=ar"] {
        let scene = Scene::new();
        let schedule = match kind {
            "kind=bdlm" => "block_schedule=[{block=1, steps=3}, {block=4, steps=1}]",
            _ => "eos_fill=true",
        };
        let text = scene.recipe(&[]).to_toml().replace("block_size = 4\n", "");
        let set = |steps: u64| {
            let changes = [
                format!("objective.{kind}"),
                format!("objective.{schedule}"),
                format!("train.steps={steps}"),
                "optimizer.schedule=constant".into(),
            ];
            Recipe::parse(&text, &changes).unwrap()
        };
        let (_, whole) = scene.run(&set(7), "whole", Resume::No).unwrap();
        scene.run(&set(4), "parts", Resume::No).unwrap();
        let (_, rest) = scene.run(&set(7), "parts", Resume::Yes).unwrap();
        assert_eq!(rest.len(), 3);
        for (whole, resumed) in whole[4..].iter().zip(&rest) {
            assert_eq!(
                (whole.step, whole.tokens),
                (resumed.step, resumed.tokens),
                "{kind}"
            );
            assert_eq!(
                (whole.loss, whole.grad_norm),
                (resumed.loss, resumed.grad_norm),
                "{kind}"
            );
        }
        let weights = |run| scene.bytes(&format!("{run}/final/model.safetensors"));
        assert!(
            weights("whole") == weights("parts"),
            "{kind}: weights differ"
        );
        let moments = |run| {
            scene.bytes(&format!(
                "{run}/checkpoints/step-000007/optimizer.safetensors"
            ))
        };
        assert!(
            moments("whole") == moments("parts"),
            "{kind}: moments differ"
        );
    }
}

#[test]
fn a_resumed_run_of_every_loss_is_bit_equal_to_an_uninterrupted_one() {
    let losses = [
        "cap.lambda=0.5",
        "dpo.beta=0.2",
        "edit.turns=2",
        "levenshtein.rate=0.3",
        "levenshtein.turns=2",
        "oput.share=0.5",
    ];
    for loss in losses {
        let scene = match loss {
            "levenshtein.turns=2" => Scene::of(testing::config(LabelAlignment::Same)),
            _ => Scene::new(),
        };
        let recipe = |steps: u64| {
            let steps = format!("train.steps={steps}");
            scene.random_recipe(&[
                loss,
                &steps,
                "optimizer.schedule=constant",
                "train.micro_batch_rows=40",
            ])
        };
        scene.write_pairs_for(loss);
        let (_, whole) = scene.run(&recipe(5), "whole", Resume::No).unwrap();
        scene.run(&recipe(3), "parts", Resume::No).unwrap();
        let (_, rest) = scene.run(&recipe(5), "parts", Resume::Yes).unwrap();
        for (whole, resumed) in whole[3..].iter().zip(&rest) {
            assert_eq!(whole.measures, resumed.measures, "{loss}");
            assert!(!whole.measures.is_empty(), "{loss}");
            assert_eq!(
                (whole.loss, &whole.valid),
                (resumed.loss, &resumed.valid),
                "{loss}"
            );
        }
        let weights = |run| scene.bytes(&format!("{run}/final/model.safetensors"));
        assert!(
            weights("whole") == weights("parts"),
            "{loss}: weights differ"
        );
    }
}

#[test]
fn preference_training_widens_the_margin_and_measures_held_out_pairs() {
    let scene = Scene::new();
    scene.write_pairs_for("dpo");
    let recipe = scene.recipe(&["dpo.draws=2", "train.steps=30", "objective.eos_fill=false"]);
    let (_, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
    assert_eq!(
        metrics[0].measures["dpo_margin"], 0.0,
        "the policy is its reference"
    );
    assert!((metrics[0].loss - 2f64.ln()).abs() < 1e-6);
    let last = &metrics[29];
    assert!(
        last.loss < 0.5 && last.measures["dpo_accuracy"] == 1.0,
        "{last:?}"
    );
    assert!(
        last.valid["dpo_margin"] > 1.0 && last.valid["block_4"] > 0.0,
        "{last:?}"
    );
}

#[test]
fn a_reference_of_another_kind_is_refused() {
    let scene = Scene::new();
    scene.write_pairs_for("dpo");
    let other = scene.dir.path().join("other");
    let config = testing::config(LabelAlignment::Same);
    let weights = Weights::random(&config, 1, Precision::F32);
    save(&other, &config, &weights, &SaveOptions::default()).unwrap();
    let recipe = scene.recipe(&[&format!("dpo.reference={}", other.display())]);
    let error = scene.run(&recipe, "run", Resume::No).unwrap_err();
    assert!(error.to_string().contains("label alignment"), "{error}");
}

#[test]
fn cap_lowers_the_entropy_of_right_guesses() {
    let scene = Scene::new();
    let entropy = |lambda: &str| {
        let recipe = scene.recipe(&[lambda, "train.steps=60", "train.batch_documents=6"]);
        let (_, metrics) = scene.run(&recipe, &lambda[4..], Resume::No).unwrap();
        let last = &metrics[50..];
        last.iter().map(|m| m.measures["cap_entropy"]).sum::<f64>() / 10.0
    };
    let (measured, sharpened) = (entropy("cap.lambda=0.0"), entropy("cap.lambda=2.0"));
    assert!(sharpened < 0.7 * measured, "{measured} -> {sharpened}");
}

#[test]
fn a_model_learns_to_replace_and_to_insert_and_delete() {
    for loss in ["edit.rate=0.3", "levenshtein.rate=0.3"] {
        let scene = Scene::new();
        let recipe = scene.random_recipe(&[
            loss,
            "train.steps=150",
            "train.batch_documents=6",
            "train.eval_block_sizes=[]",
            "optimizer.weight_decay=0.0",
        ]);
        let (_, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
        let mean = |metrics: &[Metrics]| {
            let nll = metrics.iter().map(|m| m.measures["edit_nll"]);
            nll.sum::<f64>() / metrics.len() as f64
        };
        let (first, last) = (mean(&metrics[..10]), mean(&metrics[140..]));
        assert!(last < 0.6 * first, "{loss}: {first} -> {last}");
    }
}

#[test]
fn a_checkpoint_without_operations_cannot_learn_to_insert() {
    let scene = Scene::new();
    let recipe = scene.recipe(&["levenshtein.rate=0.3"]);
    let error = scene.run(&recipe, "run", Resume::No).unwrap_err();
    assert!(error.to_string().contains("`delete_token_id`"), "{error}");
    let recipe = scene.random_recipe(&["levenshtein.turns=2"]);
    let error = scene.run(&recipe, "run", Resume::No).unwrap_err();
    assert!(
        error.to_string().contains("`levenshtein.turns` must be 1"),
        "{error}"
    );
}

#[test]
fn every_objective_learns_one_batch_by_heart() {
    for changes in [
        &["objective.kind=bdlm", "objective.block_size=4"][..],
        &[
            "objective.kind=bdlm",
            "objective.block_size=4",
            "objective.complementary=true",
        ],
        &[
            "objective.kind=bdlm",
            "objective.block_size=2",
            "objective.group_blocks=2",
        ],
        &["objective.kind=mdlm"],
        &["objective.kind=ar", "objective.loss_on_prompt=true"],
    ] {
        let scene = Scene::new();
        let text = scene.recipe(&[]).to_toml().replace("block_size = 4\n", "");
        let common = [
            "objective.normalisation=masked_mean",
            "objective.mask_ratio_band=[0.3, 0.8]",
            "train.steps=150",
            "train.batch_documents=6",
            "train.eval_block_sizes=[]",
            "optimizer.weight_decay=0.0",
        ];
        let changes: Vec<String> = common
            .iter()
            .chain(changes)
            .map(ToString::to_string)
            .collect();
        let recipe = Recipe::parse(&text, &changes).unwrap();
        let (_, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
        let (first, last) = (
            metrics[0].nll,
            metrics[140..].iter().map(|m| m.nll).sum::<f64>() / 10.0,
        );
        assert!(last < 0.35 * first, "{changes:?}: {first} -> {last}");
    }
}

#[test]
fn a_stop_saves_a_checkpoint_that_can_be_resumed() {
    let scene = Scene::new();
    let recipe = scene.recipe(&[]);
    let stop = AtomicBool::new(false);
    let run = scene.dir.path().join("run");
    let mut progress = |progress: Progress<'_>| {
        let is_third = matches!(progress, Progress::Step(row) if row.step == 3);
        stop.store(is_third, Ordering::Relaxed);
    };
    let outcome = train(&recipe, &run, Resume::No, &mut progress, &stop).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::Stopped, 3));
    assert!(run.join("checkpoints/step-000003").is_dir() && !run.join("final").exists());
    let (outcome, _) = scene.run(&recipe, "run", Resume::Yes).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 8));
}

#[test]
fn what_a_killed_run_left_behind_does_not_stop_the_next() {
    let scene = Scene::new();
    scene
        .run(&scene.recipe(&["train.steps=2"]), "run", Resume::No)
        .unwrap();
    let run = scene.dir.path().join("run");
    std::fs::create_dir(run.join("checkpoints/step-000004.partial")).unwrap();
    let log = run.join("metrics.jsonl");
    let logged = std::fs::read_to_string(&log).unwrap() + "{\"step\": 3}\n{\"step\":";
    std::fs::write(&log, logged).unwrap();
    scene
        .run(&scene.recipe(&["train.steps=4"]), "run", Resume::Yes)
        .unwrap();
    let logged = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        logged.lines().filter_map(step_of).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
}

#[test]
fn the_time_limit_ends_a_run_with_everything_saved() {
    let scene = Scene::new();
    let recipe = scene.recipe(&["train.max_seconds=1e-9"]);
    let (outcome, _) = scene.run(&recipe, "run", Resume::No).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::OutOfTime, 0));
    assert!(scene.dir.path().join("run/final/config.json").is_file());
}

#[test]
fn a_directory_in_use_is_not_written_to() {
    let scene = Scene::new();
    std::fs::create_dir(scene.dir.path().join("run")).unwrap();
    std::fs::write(scene.dir.path().join("run/notes.txt"), "mine").unwrap();
    let error = scene
        .run(&scene.recipe(&[]), "run", Resume::No)
        .unwrap_err();
    assert!(error.to_string().contains("is in use"), "{error}");
    let error = scene
        .run(&scene.recipe(&[]), "run", Resume::Yes)
        .unwrap_err();
    assert!(
        error.to_string().contains("no checkpoint to resume from"),
        "{error}"
    );
}

#[test]
fn a_failed_start_leaves_no_run_directory() {
    let scene = Scene::new();
    let recipe = scene.recipe(&["data.train=missing.jsonl"]);
    assert!(scene.run(&recipe, "run", Resume::No).is_err());
    assert!(!scene.dir.path().join("run").exists());
}

#[test]
fn a_diverging_run_stops_and_names_its_documents() {
    let scene = Scene::new();
    let recipe = scene.recipe(&["optimizer.lr=1e30", "optimizer.warmup_steps=0"]);
    let error = scene.run(&recipe, "run", Resume::No).unwrap_err();
    let Error::NonFinite { documents, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(documents.len(), 4);
}

#[test]
fn bf16_products_train_f32_weights() {
    let scene = Scene::new();
    let recipe = scene.recipe(&["model.precision=bf16"]);
    let (_, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
    assert!(metrics[7].loss.is_finite());
    let child = load(
        &scene.dir.path().join("run/final"),
        Precision::F32,
        KeepDtype::F32,
    )
    .unwrap();
    let is_rounded = |x: &f32| x.to_bits() & 0xFFFF == 0;
    assert!(
        !child
            .weights
            .embedding
            .values()
            .f32s()
            .iter()
            .all(is_rounded)
    );
}

#[test]
fn a_run_from_random_weights_needs_no_tokenizer_for_ids() {
    let scene = Scene::new();
    let dir = scene.dir.path();
    std::fs::write(dir.join("ids.jsonl"), "{\"input_ids\": [1, 2, 3, 4, 5]}\n").unwrap();
    let text = scene.recipe(&[]).to_toml();
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("path"))
        .map(|l| l.to_owned() + "\n")
        .collect();
    let changes = [
        format!("model.config={}/parent/config.json", dir.display()),
        format!("data.train={}/ids.jsonl", dir.display()),
        "data.valid=[]".into(),
    ];
    let recipe = Recipe::parse(&text, &changes).unwrap();
    let (outcome, _) = scene.run(&recipe, "run", Resume::No).unwrap();
    assert_eq!(outcome.ending, Ending::Finished);
}

#[test]
fn the_best_checkpoints_outlive_newer_ones_and_can_be_merged() {
    let scene = Scene::new();
    let recipe = scene.recipe(&[
        "train.eval_every=2",
        "train.checkpoint_every=2",
        "train.keep_last=1",
        "train.keep_best=2",
        "train.keep_best_metric=block_4",
    ]);
    let (_, metrics) = scene.run(&recipe, "run", Resume::No).unwrap();
    let mut scores: Vec<_> = metrics
        .iter()
        .filter_map(|row| Some((*row.valid.get("block_4")?, row.step)))
        .collect();
    scores.sort_by(|a, b| a.0.total_cmp(&b.0));
    let run = scene.dir.path().join("run");
    let best = crate::best_checkpoints(&run, "block_4", 2).unwrap();
    let steps: Vec<_> = best.iter().map(|scored| scored.step).collect();
    assert_eq!(steps, [scores[0].1, scores[1].1]);
    let paths: Vec<_> = best.into_iter().map(|scored| scored.path).collect();
    let out = scene.dir.path().join("merged");
    crate::merge(&paths, &out, llada_model::StorageDtype::Bf16).unwrap();
    load(&out, Precision::F32, KeepDtype::F32).unwrap();
    assert!(out.join("tokenizer.json").exists());
}

#[test]
fn a_merge_of_different_tokenizers_is_refused_and_leaves_nothing() {
    let scene = Scene::new();
    let recipe = scene.recipe(&["train.checkpoint_every=4"]);
    scene.run(&recipe, "run", Resume::No).unwrap();
    let checkpoints = ["step-000004", "step-000008"]
        .map(|name| scene.dir.path().join("run/checkpoints").join(name));
    std::fs::write(checkpoints[1].join("tokenizer_config.json"), "{}").unwrap();
    let out = scene.dir.path().join("merged");
    let error = crate::merge(&checkpoints, &out, llada_model::StorageDtype::Bf16).unwrap_err();
    assert!(
        error.to_string().contains("tokenizer_config.json"),
        "{error}"
    );
    assert!(!out.exists() && !out.with_extension("partial").exists());
}

#[test]
fn a_metric_that_is_not_validated_cannot_choose_checkpoints() {
    let scene = Scene::new();
    let recipe = scene.recipe(&[
        "train.eval_every=2",
        "train.checkpoint_every=2",
        "train.keep_best=1",
        "train.keep_best_metric=block_7",
    ]);
    let error = scene.run(&recipe, "run", Resume::No).unwrap_err();
    assert!(error.to_string().contains("block_7"), "{error}");
    assert!(!scene.dir.path().join("run").exists());
}
