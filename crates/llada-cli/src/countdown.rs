//! Countdown in the characters of worked sums: all of the given numbers, added or subtracted, make a target.
//!
//! ```text
//! prompt    7,25,13;31=
//! response  25+13-7
//! ```
//!
//! Any expression that makes the target is right, so the response is one of several.

use llada_diffusion::{Rng, Stream};

/// Largest number that is given.
const LARGEST: u32 = 30;

/// One problem and a solution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Countdown {
    /// In the order of the solution, the first the largest.
    terms: Vec<u32>,
    /// Whether each term after the first is subtracted.
    subtracted: Vec<bool>,
    /// Order in which the numbers are given.
    order: Vec<usize>,
}

impl Countdown {
    /// Draws problem `index` of the stream that `seed` names, of three or four numbers.
    pub(crate) fn draw(seed: u64, index: u64) -> Self {
        let rng = Rng::new(seed, Stream::Data);
        let count = 3 + rng.below(2, index, 0, 2) as usize; // epochs 0 and 1 draw sums
        let number = |place| 1 + rng.below(3, index, place, LARGEST);
        let mut terms: Vec<u32> = (0..count as u32).map(number).collect();
        terms.sort_unstable_by(|a, b| b.cmp(a));
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&place| rng.at(4, index, place as u32));
        let mut total = terms[0];
        let mut subtracted = Vec::new();
        for (place, &term) in (0..).zip(&terms[1..]) {
            let subtract = term <= total && rng.below(5, index, place, 2) == 1;
            total = if subtract { total - term } else { total + term };
            subtracted.push(subtract);
        }
        Self {
            terms,
            subtracted,
            order,
        }
    }

    /// The numbers that are given.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.order.iter().map(|&place| self.terms[place]).collect()
    }

    /// What they are to make.
    pub(crate) fn target(&self) -> u32 {
        let signed = self.terms[1..].iter().zip(&self.subtracted);
        signed.fold(self.terms[0], |total, (term, &subtract)| match subtract {
            true => total - term,
            false => total + term,
        })
    }

    /// The question, ending in `=`.
    pub(crate) fn prompt(&self) -> String {
        let numbers: Vec<String> = self.numbers().iter().map(u32::to_string).collect();
        format!("{};{}=", numbers.join(","), self.target())
    }

    /// A solution.
    pub(crate) fn response(&self) -> String {
        let signed = self.terms[1..].iter().zip(&self.subtracted);
        let signed = signed.map(|(term, &subtract)| match subtract {
            true => format!("-{term}"),
            false => format!("+{term}"),
        });
        self.terms[0].to_string() + &signed.collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use llada_eval::{Item, Judge, Task};
    use serde_json::json;

    use super::*;

    #[test]
    fn every_response_solves_its_problem_and_a_changed_one_does_not() {
        let task = Task::find("plain_countdown").unwrap();
        let judge = Judge::new(&task, None, NonZeroUsize::MIN).unwrap();
        for index in 0..500 {
            let problem = Countdown::draw(7, index);
            assert_eq!(problem, Countdown::draw(7, index));
            let fields = json!({
                "prompt": problem.prompt(),
                "nums": problem.numbers(),
                "target": problem.target(),
            });
            let item = Item {
                id: index.to_string(),
                fields: fields.as_object().unwrap().clone(),
            };
            let response = problem.response();
            let answers = [response.clone(), response + "+1"];
            let answers = answers.each_ref().map(|answer| (&item, answer.as_str()));
            let judged = judge.judge(&answers).unwrap();
            let verdicts = [judged[0].correct, judged[1].correct];
            assert_eq!(verdicts, [true, false], "{answers:?}");
        }
        assert_ne!(Countdown::draw(7, 0), Countdown::draw(8, 0));
    }
}
