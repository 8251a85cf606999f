//! Answers that a policy wrote, and what they are worth: the data of policy optimisation ([`Ebpo`]).
//!
//! This crate does not decode. Whoever trains a policy brings an [`Environment`]: prompts, a decoder and
//! a rule that rewards. A [`Lesson`] is what can be learned of the answers to some prompts.
//!
//! [`Ebpo`]: crate::objective::Ebpo

use llada_diffusion::{BlockSize, group_advantages};
use llada_model::Model;

use crate::batch::{Answers, Assembly, Batch};
use crate::data::{Document, Drawn, Span};
use crate::error::Result;
use crate::objective::Measures;
use crate::step::StepReport;

/// An answer and what it is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Token ids, the one that ends the answer included.
    pub ids: Vec<u32>,
    /// Whether it came to an end, and was not cut off.
    pub is_complete: bool,
    /// What it is worth.
    pub reward: f64,
    /// Forwards that decided its tokens.
    pub forwards: usize,
}

/// A prompt and its answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Answers that are compared with each other.
    pub rollouts: Vec<Rollout>,
}

/// Where prompts, answers and rewards come from.
///
/// Answers are to depend on the policy, on what is drawn and on the seed of the run, and on nothing else:
/// then a resumed run is that which was interrupted.
pub trait Environment {
    /// Returns how many prompts can be drawn from each source, and the weight of the source.
    fn sources(&self) -> Vec<(usize, f64)>;

    /// Answers the prompts that are drawn, several times each, in their order.
    ///
    /// # Errors
    /// If an answer or its reward cannot be had.
    fn answer(&mut self, policy: &Model, drawn: &[Drawn]) -> Result<Vec<Group>>;

    /// Answers held-out prompts once each, as the policy will be served; there may be none.
    ///
    /// # Errors
    /// As [`Environment::answer`].
    fn answer_held_out(&mut self, policy: &Model) -> Result<Vec<Group>>;
}

/// What can be learned of some groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lesson {
    /// Each answer of the groups whose rewards differ: what its prompt was drawn as, and prompt and answer.
    pub documents: Vec<(Drawn, Document)>,
    /// What is known of these answers.
    pub answers: Answers,
    /// What is logged of all answers, by name.
    pub measures: Measures,
}

impl Lesson {
    /// Compares the answers of each group; `drawn` is what the prompts were drawn as.
    pub fn of(groups: &[Group], drawn: &[Drawn]) -> Self {
        let mut lesson = Self {
            measures: measures(groups).into(),
            ..Self::default()
        };
        let mut num_equal = 0;
        for (group, &drawn) in groups.iter().zip(drawn) {
            let rewards: Vec<f64> = group.rollouts.iter().map(|one| one.reward).collect();
            lesson.answers.count += rewards.len();
            match group_advantages(&rewards) {
                Some(advantages) => {
                    let documents = group
                        .rollouts
                        .iter()
                        .map(|one| (drawn, group.document(one)));
                    lesson.documents.extend(documents);
                    lesson.answers.advantages.extend(advantages);
                }
                None => num_equal += 1,
            }
        }
        let num_compared = lesson.documents.len() as f64;
        lesson.measures.extend([
            ("ebpo_equal_groups", f64::from(num_equal)),
            (
                "ebpo_compared",
                num_compared / lesson.answers.count.max(1) as f64,
            ),
        ]);
        lesson
    }

    /// Builds the forward passes over the answers.
    pub fn batch(&self, assembly: &Assembly, block_size: BlockSize) -> Batch {
        let documents = self.documents.iter();
        let units = documents.map(|(drawn, document)| (*drawn, std::slice::from_ref(document)));
        Batch {
            answers: self.answers.clone(),
            ..assembly.batch_of(&units.collect::<Vec<_>>(), block_size)
        }
    }

    /// Adds to what was measured in an update; without one, since all rewards are equal, it is all.
    pub(crate) fn report(self, update: Option<StepReport>) -> StepReport {
        let mut report = update.unwrap_or_default();
        report.measures.extend(self.measures);
        report
    }
}

impl Group {
    /// Returns a document that ends with an answer, which is what is learned of it.
    fn document(&self, rollout: &Rollout) -> Document {
        let ids = [&self.prompt[..], &rollout.ids].concat();
        let range = self.prompt.len()..ids.len();
        let ends_turn = rollout.is_complete;
        Document::new(ids, vec![Span { range, ends_turn }])
    }
}

/// Returns the mean reward, tokens per forward, tokens per answer and the share of complete answers, by the
/// names they are logged under.
pub(crate) fn measures(groups: &[Group]) -> [(&'static str, f64); 4] {
    let rollouts = groups.iter().flat_map(|group| &group.rollouts);
    let count = rollouts.clone().count().max(1) as f64;
    let sum = |of: fn(&Rollout) -> f64| rollouts.clone().map(of).sum::<f64>();
    let tokens = sum(|one| one.ids.len() as f64);
    [
        ("ebpo_reward", sum(|one| one.reward) / count),
        ("ebpo_tpf", tokens / sum(|one| one.forwards as f64).max(1.0)),
        ("ebpo_tokens", tokens / count),
        (
            "ebpo_complete",
            sum(|one| f64::from(u8::from(one.is_complete))) / count,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(prompt: u32, rewards: &[f64]) -> Group {
        let rollout = |&reward: &f64| Rollout {
            ids: vec![1, 2, 3],
            is_complete: reward > 0.0,
            reward,
            forwards: 2,
        };
        Group {
            prompt: vec![prompt; 2],
            rollouts: rewards.iter().map(rollout).collect(),
        }
    }

    #[test]
    fn groups_with_equal_rewards_are_counted_and_left_out() {
        let groups = [
            group(5, &[1.0, 1.0]),
            group(6, &[0.0, 1.0]),
            group(7, &[0.0, 0.0]),
        ];
        let drawn = [3, 9, 4].map(|document| Drawn { epoch: 2, document });
        let lesson = Lesson::of(&groups, &drawn);
        assert_eq!(lesson.answers.advantages, [-1.0, 1.0]);
        assert_eq!(lesson.answers.count, 6);
        let [(first, wrong), (second, right)] = &lesson.documents[..] else {
            panic!("two answers")
        };
        assert_eq!((first, second), (&drawn[1], &drawn[1]));
        assert_eq!(wrong.ids, [6, 6, 1, 2, 3]);
        assert_eq!(wrong.spans[0].range, 2..5);
        assert!(!wrong.spans[0].ends_turn && right.spans[0].ends_turn);
        let measures = lesson.measures;
        assert_eq!((measures["ebpo_reward"], measures["ebpo_tpf"]), (0.5, 1.5));
        assert_eq!(measures["ebpo_equal_groups"], 2.0);
        assert_eq!(measures["ebpo_compared"], 1.0 / 3.0);
    }

    #[test]
    fn a_lesson_of_equal_rewards_holds_nothing_to_learn() {
        let lesson = Lesson::of(
            &[group(5, &[1.0; 4])],
            &[Drawn {
                epoch: 0,
                document: 0,
            }],
        );
        assert!(lesson.documents.is_empty() && lesson.answers.advantages.is_empty());
        assert_eq!(lesson.measures["ebpo_reward"], 1.0);
    }
}
