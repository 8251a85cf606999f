//! `llada chat`: a conversation in the terminal.
//!
//! One engine lives as long as the conversation, so what was said is found in its cache. Answers go
//! to stdout as their text becomes final; on a terminal the active block is drawn behind it.

mod dialogue;
mod input;
mod view;

use std::time::Instant;

use anyhow::bail;
use llada_engine::{Answer, Engine, Event};
use serde_json::{Map, Value};

pub(super) use self::dialogue::Dialogue;
use self::input::Input;
use self::view::View;
use super::decoding::{Prompt, Row, Speller, job, open};
use super::{load_model, quantised};
use crate::args::ChatArgs;
use crate::{failure, ui};
use llada_request::{Checkpoint, Settings};

const HELP: &str = "\
/help             this
/reset            forget the conversation
/system TEXT      replace the system message
/set NAME VALUE   decode otherwise, for example /set threshold 0.7, /set mode q, /set edit 0.5,
                  /set temperature 0.8, /set seed 1, /set max-new-tokens 100
/quit             leave; so do Ctrl-D and, while no answer is written, Ctrl-C";

pub(crate) fn run(args: &ChatArgs) -> anyhow::Result<()> {
    let dir = quantised::open(&args.model.dir, args.weights.quant)?;
    let checkpoint = open(&dir, &args.model.ids, &args.model.precision, args.model.ar)?;
    let mut dialogue = Dialogue::new(&checkpoint)?;
    if let Some(system) = &args.system {
        dialogue.set_system(system)?;
    }
    check(&checkpoint, &args.decoding)?;
    let model = load_model(&dir, args.model.precision.products.into())?;
    let engine = Engine::new(&model, checkpoint.options(1, None)).map_err(failure::usage)?;
    if dialogue.is_plain_text() {
        ui::say("this checkpoint has no chat template: it continues the text that you write");
    }
    let mut chat = Chat {
        checkpoint: &checkpoint,
        engine,
        dialogue,
        settings: args.decoding.clone(),
        input: Input::new()?,
    };
    while let Some(line) = chat.input.line()? {
        match chat.obey(line.trim()) {
            Ok(Next::Line) => {}
            Ok(Next::Quit) => break,
            // One bad line does not end a conversation.
            Err(error) => ui::say(failure::message(&error)),
        }
    }
    Ok(())
}

/// What follows a line.
enum Next {
    Line,
    Quit,
}

struct Chat<'a> {
    checkpoint: &'a Checkpoint,
    engine: Engine<'a>,
    dialogue: Dialogue,
    settings: Settings,
    input: Input,
}

impl Chat<'_> {
    /// Does what a line asks for: a command, or an answer.
    fn obey(&mut self, line: &str) -> anyhow::Result<Next> {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "" => {}
            "/quit" => return Ok(Next::Quit),
            "/help" => ui::say(HELP),
            "/reset" => self.dialogue.reset(),
            "/system" => self.dialogue.set_system(rest.trim())?,
            "/set" => self.settings = self.changed(rest.trim())?,
            _ if command.starts_with('/') => {
                bail!(failure::usage(format!(
                    "unknown command `{command}`; /help lists them"
                )));
            }
            _ => self.answer(line)?,
        }
        Ok(Next::Line)
    }

    /// Returns the settings with one of them changed.
    fn changed(&self, assignment: &str) -> anyhow::Result<Settings> {
        let Some((name, value)) = assignment.split_once(char::is_whitespace) else {
            bail!(failure::usage(
                "expected /set NAME VALUE, such as /set threshold 0.7"
            ));
        };
        let (name, value) = (name.replace('-', "_"), value.trim());
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        if value.is_null() {
            bail!(failure::usage(format!(
                "`{name}` is null; expected a value"
            )));
        }
        let fields = Map::from_iter([(name, value)]);
        let change: Settings =
            serde_json::from_value(Value::Object(fields)).map_err(failure::usage)?;
        let settings = change.or(&self.settings);
        check(self.checkpoint, &settings)?;
        Ok(settings)
    }

    /// Writes the answer to a line. An interrupted turn is forgotten.
    fn answer(&mut self, line: &str) -> anyhow::Result<()> {
        let tokenizer = self
            .checkpoint
            .tokenizer_for("a chat")
            .map_err(failure::usage)?;
        let prompt = self.dialogue.prompt(tokenizer, line)?;
        let row = Row::new(Prompt::Ids(prompt));
        let mut job = job(self.checkpoint, row, &self.settings)?;
        let speller = Speller(Some(tokenizer));
        let mut view = View::new(
            speller,
            self.checkpoint.text(&job.request, &job.settings)?,
            job.request.prompt.len(),
        );
        job.request.draft = view.is_live();
        let start = Instant::now();
        let hooks = std::mem::take(&mut job.hooks);
        let id = self
            .engine
            .submit_with(&job.request, hooks)
            .map_err(failure::usage)?;
        let answer = loop {
            if self.input.is_interrupted() {
                self.engine.cancel(id);
                view.finish()?;
                return Ok(());
            }
            if let Some(answer) = finished(self.engine.step(), &mut view)? {
                break answer;
            }
        };
        let text = view.finish()?;
        ui::say(cost(&answer, start));
        self.dialogue
            .record(job.request.prompt, line, &answer, text);
        Ok(())
    }
}

/// Shows what a forward brought; returns the answer if it is finished.
fn finished(events: Vec<Event>, view: &mut View<'_>) -> anyhow::Result<Option<Answer>> {
    view.show(&events)?;
    for event in events {
        match event {
            Event::Committed { .. } | Event::Draft { .. } => {}
            Event::Finished { answer, .. } => return Ok(Some(answer)),
            Event::Failed { error, .. } => bail!(error),
        }
    }
    Ok(None)
}

/// Refuses settings with which no line could be answered.
fn check(checkpoint: &Checkpoint, settings: &Settings) -> anyhow::Result<()> {
    if let Some(name) = settings.records() {
        let message = format!("`{name}` adds to JSON, which a chat does not print");
        return Err(failure::usage(message));
    }
    let row = Row::new(Prompt::Ids(Vec::new()));
    job(checkpoint, row, settings).map(drop)
}

fn cost(answer: &Answer, start: Instant) -> String {
    let tokens = answer.output_ids.len();
    format!(
        "[{tokens} tokens, {:.2} tokens per forward, {:.0} tokens/s, {} tokens cached]",
        tokens as f64 / answer.forwards.denoise as f64,
        tokens as f64 / start.elapsed().as_secs_f64(),
        answer.cached_tokens,
    )
}
