//! Policy optimisation on evidence bounds (EBPO, LLaDA2.1).
//!
//! An answer's ratio of the policy to the one that wrote it is taken from their bounds on its
//! log-likelihood: `log r = sum over n of w_n sum over blocks of [log p(y^b | z_n, x) - log p_old(y^b | z_n, x)]`,
//! where z_n has every block masked at level t_n. The levels are noisy copies beside one clean half, so that
//! one forward scores all blocks at all levels. Policy and old policy score the same rows: they share every
//! mask, and until the first update of a batch every ratio is exactly 1.

use llada_diffusion::{Clip, LossRow, ebpo_loss};
use llada_model::{Activations, Gradients, Model};
use llada_tensor::HeadRow;

use super::pass::nll;
use super::{Measures, Pass, Sums, score};
use crate::batch::{Answers, Batch, MicroBatch};

/// How answers are compared with those of the old policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Ebpo {
    /// How far ratios are followed.
    pub clip: Clip,
    /// What the bound at each noise level weighs: w_n times t_n.
    pub level_weights: Vec<f64>,
}

/// Where an answer stands.
struct Judged {
    loss: f64,
    /// Derivative of its loss by its bound.
    slope: f64,
    ratio: f64,
    is_clipped: bool,
}

impl Ebpo {
    /// Returns a model's bounds on the log-likelihood of each answer of a batch, in nats.
    pub fn bounds(&self, model: &Model, batch: &Batch) -> Vec<f64> {
        let mut bounds = vec![0.0; batch.drawn.len()];
        for micro_batch in &batch.micro_batches {
            self.add_bounds(micro_batch, &score(model, micro_batch), &mut bounds);
        }
        bounds
    }

    /// Adds the gradient of the mean loss over all answers, those that were not worth comparing included,
    /// to `grads`.
    pub(super) fn accumulate(
        &self,
        model: &Model,
        batch: &Batch,
        activations: Activations,
        grads: &mut Gradients,
    ) -> (Sums, Measures) {
        let answers = &batch.answers;
        let scale = 1.0 / answers.count.max(1) as f64;
        let mut bounds = vec![0.0; batch.drawn.len()];
        let mut sums = Sums::default();
        for micro_batch in &batch.micro_batches {
            let pass = Pass::forward(model, micro_batch, activations);
            self.add_bounds(micro_batch, pass.head(), &mut bounds);
            // A bound is minus the weighted sum of what is differentiated, hence the sign.
            let weight = |(row, weight): (&LossRow, f64)| {
                (-scale * self.judge(answers, &bounds, row.doc as usize).slope * weight) as f32
            };
            let weights: Vec<f32> = self.rows(micro_batch).map(weight).collect();
            sums += pass.sums();
            pass.backward(&weights, None, grads);
        }
        let judged = (0..bounds.len()).map(|doc| self.judge(answers, &bounds, doc));
        let judged: Vec<Judged> = judged.collect();
        sums.loss = scale * judged.iter().map(|one| one.loss).sum::<f64>();
        (sums, measures(&judged))
    }

    fn judge(&self, answers: &Answers, bounds: &[f64], doc: usize) -> Judged {
        let old = answers.old_bounds.as_ref();
        let log_ratio = old.map_or(0.0, |old| bounds[doc] - old[doc]);
        let (loss, slope) = ebpo_loss(log_ratio, answers.advantages[doc], self.clip);
        Judged {
            loss,
            slope,
            ratio: log_ratio.exp(),
            is_clipped: slope == 0.0 && loss != 0.0,
        }
    }

    /// Adds what a forward pass says of the bounds of its answers.
    fn add_bounds(&self, micro_batch: &MicroBatch, head: &[HeadRow], bounds: &mut [f64]) {
        for ((row, weight), head) in self.rows(micro_batch).zip(head) {
            bounds[row.doc as usize] -= weight * nll(head);
        }
    }

    /// Returns the loss rows with their weights in the bound: of its level, over the mask ratio.
    fn rows<'m>(&self, micro_batch: &'m MicroBatch) -> impl Iterator<Item = (&'m LossRow, f64)> {
        let rows = micro_batch.rows.loss_rows.iter().zip(&micro_batch.rates);
        rows.map(|(row, &rate)| (row, self.level_weights[row.copy as usize] / f64::from(rate)))
    }
}

fn measures(judged: &[Judged]) -> Measures {
    let mean =
        |of: fn(&Judged) -> f64| judged.iter().map(of).sum::<f64>() / judged.len().max(1) as f64;
    Measures::from([
        ("ebpo_ratio", mean(|one| one.ratio)),
        (
            "ebpo_clipped",
            mean(|one| f64::from(u8::from(one.is_clipped))),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use llada_diffusion::{Band, NoiseSchedule};
    use llada_diffusion::{BlockSize, Elision, LabelAlignment, MaskDraw, RateScope, Rng, Stream};

    use super::*;
    use crate::batch::{Assembly, Task};
    use crate::data::Drawn;
    use crate::objective::Loss;
    use crate::optimizer::AdamWSettings;
    use crate::rollout::{Group, Lesson, Rollout};
    use crate::step::{Learner, StepSettings};
    use crate::testing::{EOS, assembly, model};

    const LEVELS: [f32; 3] = [0.25, 0.5, 1.0];

    fn ebpo() -> Ebpo {
        Ebpo {
            clip: Clip {
                low: 0.2,
                high: 0.2,
            },
            level_weights: vec![0.5, 0.25, 0.25],
        }
    }

    /// Two prompts with three answers each, under these rewards.
    fn groups(rewards: [f64; 6]) -> Vec<Group> {
        let answers = [
            &[3, 4, 5, 6, EOS][..],
            &[3, 4, 9],
            &[8, 8, 8, 8, 8, 8, 8, 8, EOS],
            &[1, EOS],
            &[2, 1, 2, EOS],
            &[7, 7, 7],
        ];
        let rollout = |(ids, reward): (&&[u32], f64)| Rollout {
            ids: ids.to_vec(),
            is_complete: ids.last() == Some(&EOS),
            reward,
            forwards: 1,
        };
        let rollouts: Vec<_> = answers.iter().zip(rewards).map(rollout).collect();
        let prompts = [vec![1, 2], vec![5, 6, 7, 8, 9]];
        let group = |(prompt, rollouts): (Vec<u32>, &[Rollout])| Group {
            prompt,
            rollouts: rollouts.to_vec(),
        };
        prompts
            .into_iter()
            .zip(rollouts.chunks(3))
            .map(group)
            .collect()
    }

    fn batch_of(rewards: [f64; 6], micro_batch_rows: usize) -> Batch {
        let drawn = [4, 9].map(|document| Drawn { epoch: 1, document });
        let mut assembly = Assembly {
            micro_batch_rows,
            ..assembly(LabelAlignment::Shifted, Elision::On)
        };
        if let Task::Diffusion(diffusion) = &mut assembly.task {
            let noise = |level| NoiseSchedule {
                draw: MaskDraw::ExactK,
                ..NoiseSchedule::new(RateScope::Block, Band::new(level, level).unwrap())
            };
            diffusion.noises = LEVELS.map(noise).to_vec();
        }
        Lesson::of(&groups(rewards), &drawn).batch(&assembly, BlockSize::new(4).unwrap())
    }

    fn batch() -> Batch {
        batch_of([1.0, 0.0, 0.0, 0.5, 1.0, 0.0], 1000)
    }

    /// The batch after ratios have moved: some within their bounds, some beyond them on either side.
    fn moved(ebpo: &Ebpo, model: &Model) -> Batch {
        let mut batch = batch();
        let log_ratios = [0.4, -0.1, -0.5, 0.5, -0.4, 0.3];
        let bounds = ebpo.bounds(model, &batch).into_iter().zip(log_ratios);
        batch.answers.old_bounds = Some(bounds.map(|(bound, moved)| bound - moved).collect());
        batch
    }

    fn loss(model: &Model, batch: &Batch) -> (f64, Measures, Gradients) {
        let mut grads = model.zero_gradients();
        let (sums, measures) = ebpo().accumulate(model, batch, Activations::Keep, &mut grads);
        (sums.loss, measures, grads)
    }

    #[test]
    fn every_ratio_is_one_until_the_first_update() {
        let (model, mut batch) = (model(LabelAlignment::Shifted), batch());
        let (expected, measures, gradient) = loss(&model, &batch);
        batch.answers.old_bounds = Some(ebpo().bounds(&model, &batch));
        let (found, of_old, of_old_gradient) = loss(&model, &batch);
        assert_eq!(
            (measures["ebpo_ratio"], measures["ebpo_clipped"]),
            (1.0, 0.0)
        );
        assert_eq!((of_old, found), (measures, expected));
        assert!(of_old_gradient == gradient, "bit by bit");
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let mut model = model(LabelAlignment::Shifted);
        let batch = moved(&ebpo(), &model);
        let (_, measures, gradient) = loss(&model, &batch);
        assert_eq!(measures["ebpo_clipped"], 2.0 / 6.0);
        for direction in 0..4 {
            let rng = Rng::new(direction, Stream::Data);
            let sign = |array: usize, i: usize| {
                if rng.uniform(0, array as u64, i as u32) < 0.5 {
                    -1.0
                } else {
                    1.0f32
                }
            };
            let slope = gradient.tensors().into_iter().enumerate();
            let slope: f64 = slope
                .flat_map(|(array, (_, tensor))| {
                    let values = tensor.f32s().iter().enumerate();
                    values.map(move |(i, &g)| f64::from(g * sign(array, i)))
                })
                .sum();
            let mut walk = |by: f32| {
                let trained = model.weights.trained_mut(&gradient).into_iter().enumerate();
                trained.for_each(|(array, weight)| {
                    let values = weight.f32s_mut().iter_mut().enumerate();
                    values.for_each(|(i, value)| *value += by * sign(array, i));
                });
                loss(&model, &batch).0
            };
            let step = 2e-4;
            let (above, below) = (walk(step), walk(-2.0 * step));
            walk(step);
            let numeric = (above - below) / f64::from(2.0 * step);
            let norm: f64 = (gradient.tensors().iter())
                .flat_map(|(_, tensor)| tensor.f32s().iter().map(|&g| f64::from(g).powi(2)))
                .sum::<f64>()
                .sqrt();
            assert!(
                (slope - numeric).abs() < 1e-2 * norm,
                "{slope} {numeric} {norm}"
            );
        }
    }

    #[test]
    fn an_answer_beyond_its_bounds_teaches_nothing() {
        let model = model(LabelAlignment::Shifted);
        for (log_ratio, advantage, is_taught) in [
            (1.0, 1.0, false),
            (-1.0, -1.0, false),
            (-1.0, 1.0, true),
            (1.0, -1.0, true),
        ] {
            let mut batch = batch();
            let bounds = ebpo().bounds(&model, &batch).into_iter();
            batch.answers.old_bounds = Some(bounds.map(|bound| bound - log_ratio).collect());
            batch.answers.advantages = vec![0.0; 6];
            batch.answers.advantages[2] = advantage;
            let (_, _, gradient) = loss(&model, &batch);
            let is_zero = gradient == model.zero_gradients();
            assert_eq!(is_zero, !is_taught, "{log_ratio} {advantage}");
        }
    }

    #[test]
    fn answers_to_a_prompt_share_their_masks_and_every_level_its_ratio() {
        let batch = batch();
        let rows = &batch.micro_batches[0].rows.loss_rows;
        let masked = |doc: u32, copy: u32| {
            let of_copy = rows
                .iter()
                .filter(move |row| row.doc == doc && row.copy == copy);
            let positions = of_copy
                .map(|row| row.position)
                .filter(|&position| position < 4);
            positions.collect::<Vec<_>>()
        };
        for copy in 0..3 {
            assert_eq!(masked(0, copy), masked(2, copy));
            assert!(!masked(0, copy).is_empty(), "no block is without a mask");
        }
        assert_eq!(masked(0, 2), [2, 3], "level 1 masks all of the answer");
        let rates = &batch.micro_batches[0].rates;
        let of_third = rows
            .iter()
            .zip(rates)
            .filter(|(row, _)| row.copy == 1 && row.doc == 2);
        assert!(of_third.clone().count() > 0 && of_third.clone().all(|(_, &rate)| rate == 0.5));
    }

    #[test]
    fn a_loss_and_its_gradient_do_not_depend_on_micro_batches() {
        let model = model(LabelAlignment::Shifted);
        let rewards = [1.0, 0.0, 0.0, 0.5, 1.0, 0.0];
        let (whole, parts) = (batch_of(rewards, 1000), batch_of(rewards, 1));
        assert_eq!(
            (whole.micro_batches.len(), parts.micro_batches.len()),
            (1, 6)
        );
        let (whole, parts) = (loss(&model, &whole), loss(&model, &parts));
        assert!((whole.0 - parts.0).abs() < 1e-12 && whole.1 == parts.1);
        for ((name, whole), (_, parts)) in whole.2.tensors().iter().zip(parts.2.tensors()) {
            let pairs = whole.f32s().iter().zip(parts.f32s());
            let worst = pairs.fold(0f32, |max, (a, b)| max.max((a - b).abs()));
            assert!(worst < 1e-5, "{name}: {worst}");
        }
    }

    #[test]
    fn equal_rewards_leave_the_weights_alone() {
        let model = model(LabelAlignment::Shifted);
        let gradients = model.zero_gradients();
        let before = model.weights.embedding.values().f32s().to_vec();
        let settings = AdamWSettings {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.1,
        };
        let mut learner = Learner::new(model, gradients, settings);
        let step = StepSettings {
            learning_rate: 0.1,
            clip: 1.0,
            activations: Activations::Keep,
            expert_bias_rate: 0.0,
        };
        let batch = batch_of([1.0; 6], 1000);
        let report = learner
            .train_step(&batch, &Loss::Ebpo(ebpo()), &step)
            .unwrap();
        assert_eq!((report, batch.answers.count), (None, 6));
        assert!(learner.model.weights.embedding.values().f32s() == before);
    }
}
