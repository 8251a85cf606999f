//! Trajectories: the states of a recorded decoding as noise (trajectory compression of dFactory).
//!
//! A decoder that wrote a block in steps 0 to N - 1 went through states whose masks are known from the
//! step of each token alone. A *jump* begins in one of them and learns all that several steps placed:
//!
//! ```text
//! masked(from)        = { p : step(p) >= from }            the state before step `from`
//! revealed(from, to)  = { p : from <= step(p) < to }       what is learned of it
//! ```
//!
//! Jumps of one step repeat what the decoder did; longer ones teach it to do the same in fewer. Tokens of
//! later steps are MASK and learn nothing: the decoder did not know them yet.

use std::num::NonZeroU32;
use std::ops::Range;

use crate::draft::{Draft, Role};
use crate::visibility::index;
use crate::{BlockSize, Corruption, Rng, Stream};

/// How far a jump may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrajectoryNoise {
    /// Steps of the recorded decoding that are learned as one, at most.
    pub most_steps: NonZeroU32,
}

/// A recorded answer and where its noise is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Pass over the data.
    pub epoch: u32,
    /// Number of the document in the data set.
    pub document: u64,
    /// The text, `[L]`.
    pub ids: &'a [u32],
    /// Which tokens the decoder wrote, `[L]`.
    pub supervised: &'a [bool],
    /// Step of its block in which each of these was placed, `[L]`.
    pub steps: &'a [u32],
}

/// What a position is in a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was placed before.
    Known,
    /// It is MASK, and learned.
    Revealed,
    /// It is MASK, and stays so.
    Open,
}

/// Returns what a position placed in `step` is in a jump over the steps of `range`.
pub fn place(step: u32, range: &Range<u32>) -> Place {
    if step < range.start {
        Place::Known
    } else if step < range.end {
        Place::Revealed
    } else {
        Place::Open
    }
}

impl TrajectoryNoise {
    /// Draws a jump for every block: uniform over the steps that placed something, then uniform over the
    /// numbers of such steps up to [`TrajectoryNoise::most_steps`], as far as there are any.
    ///
    /// What is masked in the corruption is what is learned; its rates are the shares of the blocks that are MASK.
    pub fn draw(
        &self,
        of: &Recorded<'_>,
        block_size: BlockSize,
        mask_token_id: u32,
    ) -> (Corruption, Draft) {
        let len = of.ids.len();
        let mut noise = Corruption {
            masked: vec![false; len],
            rates: vec![0.0; len],
        };
        let mut draft = Draft {
            ids: of.ids.to_vec(),
            targets: of.ids.to_vec(),
            roles: vec![None; len],
        };
        for block in 0..block_size.count(len) {
            let rows = block_size.rows(block, len);
            let written: Vec<usize> = rows.clone().filter(|&i| of.supervised[i]).collect();
            let Some(range) = self.jump(of, &written) else {
                continue;
            };
            let mut num_masked = 0;
            for &i in &written {
                let place = place(of.steps[i], &range);
                if place != Place::Known {
                    draft.ids[i] = mask_token_id;
                    num_masked += 1;
                }
                if place == Place::Revealed {
                    draft.roles[i] = Some(Role::Masked);
                    noise.masked[i] = true;
                }
            }
            noise.rates[rows].fill(num_masked as f32 / written.len() as f32);
        }
        (noise, draft)
    }

    /// Returns the steps of the jump of a block whose `written` positions these are; none without any.
    fn jump(&self, of: &Recorded<'_>, written: &[usize]) -> Option<Range<u32>> {
        let mut steps: Vec<u32> = written.iter().map(|&i| of.steps[i]).collect();
        steps.sort_unstable();
        steps.dedup();
        let rng = Rng::new(of.seed, Stream::Trajectory);
        let [begin, length, ..] = rng.at(of.epoch, of.document, index(*written.first()?));
        let from = below(begin, steps.len());
        let length = below(length, self.most_steps.get() as usize);
        let last = (from + length).min(steps.len() - 1);
        Some(steps[from]..steps[last] + 1)
    }
}

/// Maps a random word to `0..n`.
fn below(word: u32, n: usize) -> usize {
    ((u64::from(word) * n as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: u32 = 99;

    fn noise(most_steps: u32) -> TrajectoryNoise {
        TrajectoryNoise {
            most_steps: NonZeroU32::new(most_steps).unwrap(),
        }
    }

    /// What was written, in blocks of 4 after a prompt.
    fn recorded<'a>(
        epoch: u32,
        ids: &'a [u32],
        supervised: &'a [bool],
        steps: &'a [u32],
    ) -> Recorded<'a> {
        Recorded {
            seed: 1,
            epoch,
            document: 3,
            ids,
            supervised,
            steps,
        }
    }

    #[test]
    fn a_jump_reveals_its_steps_and_leaves_later_ones_open() {
        let places = [0, 1, 2, 3, 9].map(|step| place(step, &(1..3)));
        let expected = [
            Place::Known,
            Place::Revealed,
            Place::Revealed,
            Place::Open,
            Place::Open,
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn every_jump_comes_up_and_none_goes_too_far() {
        let (ids, supervised, steps) = ([7; 4], [true; 4], [0, 2, 5, 6]);
        let mut seen = std::collections::BTreeMap::new();
        for epoch in 0..4000 {
            let of = recorded(epoch, &ids, &supervised, &steps);
            let range = noise(2).jump(&of, &[0, 1, 2, 3]).unwrap();
            *seen.entry((range.start, range.end)).or_insert(0) += 1;
        }
        // Of four beginnings each has two lengths, but the last, whose two are one.
        let jumps = [(0, 1), (0, 3), (2, 3), (2, 6), (5, 6), (5, 7), (6, 7)];
        assert!(seen.keys().eq(&jumps), "{seen:?}");
        for (jump, count) in seen {
            let expected: i32 = if jump == (6, 7) { 1000 } else { 500 };
            assert!((expected - count).abs() < 140, "{jump:?}: {count}");
        }
    }

    proptest! {
        #[test]
        fn states_are_those_of_the_record(
            steps in prop::collection::vec(0_u32..6, 4..15),
            prompt in 0_usize..4,
            epoch in 0_u32..50,
            most_steps in 1_u32..5,
        ) {
            let len = steps.len();
            let ids: Vec<u32> = (0..len as u32).collect();
            let supervised: Vec<bool> = (0..len).map(|i| i >= prompt).collect();
            let size = BlockSize::new(4).unwrap();
            let of = recorded(epoch, &ids, &supervised, &steps);
            let (noise, draft) = noise(most_steps).draw(&of, size, MASK);
            prop_assert_eq!(&draft.targets, &ids);
            for block in 0..size.count(len) {
                let written: Vec<usize> = size.rows(block, len).filter(|&i| supervised[i]).collect();
                let is_open = |i: &usize| draft.ids[*i] == MASK;
                let (open, known): (Vec<usize>, Vec<usize>) = written.iter().partition(|i| is_open(i));
                let learned: Vec<usize> = written.iter().copied().filter(|&i| noise.masked[i]).collect();
                let step = |i: &usize| steps[*i];
                // Something is learned of every block that was written, and only what is MASK.
                prop_assert_eq!(learned.is_empty(), written.is_empty());
                prop_assert!(learned.iter().all(is_open));
                // The state is one that the decoder was in: all before a step, nothing after.
                if let (Some(last), Some(first)) = (known.iter().map(step).max(), open.iter().map(step).min()) {
                    prop_assert!(last < first);
                }
                // What is learned came next, all of it, in as many steps as allowed.
                let end = learned.iter().map(step).max();
                prop_assert!(open.iter().all(|i| Some(step(i)) > end || learned.contains(i)));
                let mut passed: Vec<u32> = learned.iter().map(step).collect();
                passed.sort_unstable();
                passed.dedup();
                prop_assert!(passed.len() <= most_steps as usize);
                for i in written {
                    let role = noise.masked[i].then_some(Role::Masked);
                    prop_assert_eq!(draft.roles[i], role);
                }
            }
            prop_assert!((0..prompt.min(len)).all(|i| draft.ids[i] == ids[i] && !noise.masked[i]));
        }
    }
}
