//! Runs on answers of the model's own. Decoding is made up here: an answer depends on the policy's weights
//! and on what it is drawn as.

use super::*;
use crate::rollout::{Group, Rollout};
use llada_diffusion::{Rng, Stream};

/// Answers of two to five tokens, worth something if the first is even.
struct Parity {
    num_prompts: usize,
    /// Whether every answer is right.
    is_easy: bool,
}

impl Parity {
    fn group(&self, policy: &Model, drawn: Drawn, size: u32) -> Group {
        let weight = policy.weights.embedding.values().f32s()[0].to_bits();
        let rng = Rng::new(u64::from(weight), Stream::Sample);
        let rollout = |sample: u32| {
            let [len, words @ ..] = rng.at(drawn.epoch, drawn.document as u64, sample);
            let word = |i: u32| words[i as usize % words.len()].rotate_left(i) % 29;
            let mut ids: Vec<u32> = (0..1 + len % 4).map(word).collect();
            ids.push(testing::EOS);
            let is_right = self.is_easy || ids[0].is_multiple_of(2);
            Rollout {
                is_complete: true,
                reward: f64::from(u8::from(is_right)),
                forwards: ids.len(),
                ids,
            }
        };
        Group {
            prompt: vec![drawn.document as u32, 3, 5],
            rollouts: (0..size).map(rollout).collect(),
        }
    }
}

impl Environment for Parity {
    fn sources(&self) -> Vec<(usize, f64)> {
        vec![(self.num_prompts, 1.0)]
    }

    fn answer(&mut self, policy: &Model, drawn: &[Drawn]) -> Result<Vec<Group>> {
        let groups = drawn.iter().map(|&drawn| self.group(policy, drawn, 4));
        Ok(groups.collect())
    }

    fn answer_held_out(&mut self, policy: &Model) -> Result<Vec<Group>> {
        let drawn = (20..25).map(|document| Drawn { epoch: 0, document });
        Ok(drawn.map(|drawn| self.group(policy, drawn, 1)).collect())
    }
}

fn run(scene: &Scene, steps: u64, name: &str, resume: Resume, is_easy: bool) -> Vec<Metrics> {
    let steps = format!("train.steps={steps}");
    let text = scene.recipe(&[]).to_toml();
    let changes = [
        "ebpo.task=parity",
        "objective.mask_ratio_band=[0.001, 1.0]",
        "objective.mask_draw=exact_k",
        "optimizer.schedule=constant",
        "train.micro_batch_rows=60",
        "train.eval_block_sizes=[]",
        &steps,
    ];
    let recipe = Recipe::parse(&text, &changes.map(str::to_owned)).unwrap();
    let mut environment = Parity {
        num_prompts: 6,
        is_easy,
    };
    let mut metrics = Vec::new();
    train_policy(
        &recipe,
        &mut environment,
        &scene.dir.path().join(name),
        resume,
        &mut |progress| match progress {
            Progress::Step(row) => metrics.push(row.clone()),
            Progress::Reference { .. } => panic!("there is no reference"),
        },
        &AtomicBool::new(false),
    )
    .unwrap();
    metrics
}

#[test]
fn a_resumed_run_on_answers_is_bit_equal_to_an_uninterrupted_one() {
    let scene = Scene::new();
    let whole = run(&scene, 5, "whole", Resume::No, false);
    run(&scene, 3, "parts", Resume::No, false);
    let rest = run(&scene, 5, "parts", Resume::Yes, false);
    assert_eq!(rest.len(), 2);
    for (whole, resumed) in whole[3..].iter().zip(&rest) {
        assert_eq!(whole.measures, resumed.measures);
        assert_eq!((whole.loss, &whole.valid), (resumed.loss, &resumed.valid));
        assert_eq!((whole.tokens, whole.lr), (resumed.tokens, resumed.lr));
    }
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let bytes = |run| scene.bytes(&format!("{run}/checkpoints/step-000005/{file}"));
        assert!(bytes("whole") == bytes("parts"), "{file}");
    }
}

#[test]
fn a_run_on_answers_logs_rewards_and_ratios() {
    let scene = Scene::new();
    let metrics = run(&scene, 3, "run", Resume::No, false);
    for key in [
        "ebpo_clipped",
        "ebpo_compared",
        "ebpo_complete",
        "ebpo_equal_groups",
        "ebpo_ratio",
        "ebpo_reward",
        "ebpo_tokens",
        "ebpo_tpf",
    ] {
        assert!(metrics[0].measures[key].is_finite(), "{key}");
    }
    assert_ne!(
        metrics[0].measures["ebpo_ratio"], 1.0,
        "the second update sees a move"
    );
    assert!(metrics[2].valid.contains_key("ebpo_reward") && metrics[1].valid.is_empty());
    let report = scene.bytes("run/report.html");
    assert!(String::from_utf8(report).unwrap().contains("<h2>Reward"));
}

#[test]
fn a_batch_of_equal_rewards_is_skipped_and_still_logged() {
    let scene = Scene::new();
    let metrics = run(&scene, 2, "run", Resume::No, true);
    let last = &metrics[1];
    assert_eq!((last.skipped_steps, last.loss, last.tokens), (2, 0.0, 0));
    assert_eq!(last.measures["ebpo_reward"], 1.0);
    assert_eq!(last.measures["ebpo_equal_groups"], 4.0);
    let weights = load(
        &scene.dir.path().join("run/final"),
        Precision::F32,
        KeepDtype::F32,
    );
    let before = load(
        &scene.dir.path().join("parent"),
        Precision::F32,
        KeepDtype::F32,
    );
    let embedding = |loaded: llada_model::Loaded| loaded.weights.embedding.values().f32s().to_vec();
    assert!(embedding(weights.unwrap()) == embedding(before.unwrap()));
}

#[test]
fn answers_are_needed_by_recipes_that_train_on_them_and_by_no_other() {
    let scene = Scene::new();
    let refuse = |result: Result<Outcome>| result.unwrap_err().to_string();
    let plain = scene.recipe(&[]);
    let mut environment = Parity {
        num_prompts: 1,
        is_easy: true,
    };
    let run = scene.dir.path().join("run");
    let never = AtomicBool::new(false);
    let message = refuse(train_policy(
        &plain,
        &mut environment,
        &run,
        Resume::No,
        &mut |_| {},
        &never,
    ));
    assert!(message.contains("`ebpo` must be given"), "{message}");
    let policy = scene.recipe(&["ebpo.task=parity", "objective.mask_ratio_band=[0.001, 1.0]"]);
    let message = refuse(train(&policy, &run, Resume::No, &mut |_| {}, &never));
    assert!(message.contains("`ebpo` needs answers"), "{message}");
    assert!(!run.exists());
}
