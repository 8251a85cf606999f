//! `llada trace show`: recorded decoding, step by step.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use llada_model::Config;
use serde::Deserialize;

use super::decoding::{Slots, Speller, open};
use super::models;
use crate::args::{IdArgs, PrecisionArgs, TraceArgs, TraceCommand, TraceShowArgs};
use crate::live::Live;
use crate::{failure, ui};

/// What is needed of an answer that `generate --json --trace` printed.
#[derive(Debug, Deserialize)]
struct Recorded {
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    trace: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    block: usize,
    step: usize,
    ids: Vec<u32>,
}

impl Step {
    /// Position of the block's first id.
    fn start(&self) -> usize {
        self.block * self.ids.len()
    }

    /// Returns whether the block lies where a text can be.
    fn is_in_range(&self) -> bool {
        let end = (self.block.checked_add(1)).and_then(|next| next.checked_mul(self.ids.len()));
        end.is_some()
    }
}

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<()> {
    match &args.what {
        TraceCommand::Show(args) => show(args),
    }
}

fn show(args: &TraceShowArgs) -> anyhow::Result<()> {
    let dir = models::texts(&args.model)?;
    let checkpoint = open(&dir, &IdArgs::default(), &PrecisionArgs::default(), false)?;
    let speller = Speller(checkpoint.tokenizer.as_ref());
    let mask_id = args.mask_id.or(Config::of_checkpoint(&dir)?.mask_token_id);
    for recorded in read(&args.file)? {
        let replay = Replay {
            recorded,
            speller,
            mask_id,
        };
        match ui::live() {
            Some(live) => replay.animate(live, Duration::from_millis(args.delay_ms))?,
            None => replay.list()?,
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<Recorded>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    if text.is_empty() {
        let message = format!("`{}`: expected an answer, found none", path.display());
        return Err(failure::usage(message));
    }
    let lines = (1..).zip(text.lines());
    let recorded = lines.map(|(number, line): (usize, &str)| {
        let problem =
            |problem: String| failure::usage(format!("{}:{number}: {problem}", path.display()));
        let recorded: Recorded =
            serde_json::from_str(line).map_err(|error| problem(error.to_string()))?;
        if !recorded.trace.iter().all(Step::is_in_range) {
            return Err(problem("a block is out of range".to_owned()));
        }
        if recorded.trace.is_empty() {
            return Err(problem(
                "no trace; record one with `llada generate --json --trace`".to_owned(),
            ));
        }
        Ok(recorded)
    });
    recorded.collect()
}

/// The blocks that were recorded so far, by number, as their last steps left them.
type Blocks = BTreeMap<usize, Slots>;

/// Returns, for every step, the first block that takes this step or a later one: those before it are
/// done. With a window the steps of several blocks alternate.
fn first_active(trace: &[Step]) -> Vec<usize> {
    let mut firsts: Vec<usize> = trace.iter().map(|step| step.block).collect();
    for i in (1..firsts.len()).rev() {
        firsts[i - 1] = firsts[i - 1].min(firsts[i]);
    }
    firsts
}

struct Replay<'a> {
    recorded: Recorded,
    speller: Speller<'a>,
    mask_id: Option<u32>,
}

impl Replay<'_> {
    /// Prints a line for every step.
    fn list(&self) -> anyhow::Result<()> {
        ui::line(format!("prompt: {}", self.spell(&self.recorded.prompt_ids)))?;
        let mut blocks = Blocks::new();
        for step in &self.recorded.trace {
            let now = self.slots(step);
            let before = blocks.insert(step.block, now.clone());
            let before = before.unwrap_or_else(|| self.untouched(step));
            let pairs = || now.iter().zip(&before);
            let filled = pairs().filter(|(now, before)| now.is_some() && before.is_none());
            let changed = pairs().filter(|(now, before)| now != before && before.is_some());
            // Nothing is drawn again, so any width will do.
            let text = self
                .speller
                .draw(&mut Live::new(usize::MAX, false), &now, &now);
            ui::line(format!(
                "block {} step {}: {} filled, {} changed  {text}",
                step.block,
                step.step,
                filled.count(),
                changed.count(),
            ))?;
        }
        Ok(())
    }

    /// Draws the active blocks again after every step, behind the text before them.
    fn animate(&self, mut live: Live, delay: Duration) -> anyhow::Result<()> {
        let Recorded {
            prompt_ids,
            output_ids,
            trace,
        } = &self.recorded;
        ui::write(&live.commit(&self.spell(prompt_ids)))?;
        let mut blocks = Blocks::new();
        let mut shown = 0;
        for (step, first) in trace.iter().zip(first_active(trace)) {
            let now = self.slots(step);
            let before = blocks.clone();
            blocks.insert(step.block, now);
            blocks.retain(|&block, _| block >= first);
            let start = first.saturating_mul(step.ids.len());
            let done = start.saturating_sub(prompt_ids.len()).min(output_ids.len());
            let text = self.spell(&output_ids[shown.min(done)..done]);
            ui::write(&live.commit(&text))?;
            shown = shown.max(done);
            let hidden = prompt_ids.len().saturating_sub(start);
            let now = blocks.values().flatten().copied().skip(hidden);
            let before = blocks.keys().flat_map(|block| match before.get(block) {
                Some(slots) => slots.clone(),
                None => self.untouched(step),
            });
            let (now, before): (Slots, Slots) = (now.collect(), before.skip(hidden).collect());
            ui::write(&self.speller.draw(&mut live, &now, &before))?;
            std::thread::sleep(delay);
        }
        let rest = self.spell(&self.recorded.output_ids[shown..]);
        ui::write(&(live.commit(&rest) + "\n"))
    }

    fn slots(&self, step: &Step) -> Slots {
        let ids = step.ids.iter();
        ids.map(|&id| (Some(id) != self.mask_id).then_some(id))
            .collect()
    }

    /// Returns the block before its first step: the end of the prompt, then open positions.
    fn untouched(&self, step: &Step) -> Slots {
        let start = step.start();
        let prompt = &self.recorded.prompt_ids;
        (start..start + step.ids.len())
            .map(|i| prompt.get(i).copied())
            .collect()
    }

    fn spell(&self, ids: &[u32]) -> String {
        ids.iter().map(|&id| self.speller.spell(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_done_when_no_later_step_is_its_own() {
        let step = |block| Step {
            block,
            step: 0,
            ids: Vec::new(),
        };
        let trace = [0, 1, 0, 1, 2, 1, 2, 3].map(step);
        assert_eq!(first_active(&trace), [0, 0, 0, 1, 1, 1, 2, 3]);
        assert_eq!(first_active(&[]), [0; 0]);
    }
}
