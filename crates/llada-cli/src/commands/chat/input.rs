//! Lines from stdin, and Ctrl-C.

use std::io::{ErrorKind, IsTerminal};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Context;

use crate::ui;

/// Reads a line whenever one is asked for, on a thread of its own: waiting for a line is also
/// waiting for Ctrl-C.
#[derive(Debug)]
pub(super) struct Input {
    ask: Sender<()>,
    heard: Receiver<Heard>,
    is_terminal: bool,
}

#[derive(Debug)]
enum Heard {
    Line(std::io::Result<Option<String>>),
    Interrupt,
}

impl Input {
    pub(super) fn new() -> anyhow::Result<Self> {
        let (ask, asked) = channel::<()>();
        let (interrupt, heard) = channel();
        let tell = interrupt.clone();
        // Sending fails only when the conversation is over.
        ctrlc::set_handler(move || drop(interrupt.send(Heard::Interrupt)))
            .context("cannot handle Ctrl-C")?;
        std::thread::spawn(move || {
            for () in asked {
                let line = std::io::stdin().lines().next().transpose();
                if tell.send(Heard::Line(line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            ask,
            heard,
            is_terminal: std::io::stdin().is_terminal(),
        })
    }

    /// Returns the next line; `None` at the end of input or after Ctrl-C.
    pub(super) fn line(&self) -> anyhow::Result<Option<String>> {
        loop {
            if self.is_terminal {
                ui::prompt("> ");
            }
            self.ask.send(()).context("stdin is closed")?;
            match self.heard.recv().context("stdin is closed")? {
                Heard::Line(Err(error)) if error.kind() == ErrorKind::InvalidData => {
                    ui::say("error: a line is not UTF-8 and was left out");
                }
                Heard::Line(line) => return line.context("cannot read stdin"),
                Heard::Interrupt => return Ok(None),
            }
        }
    }

    /// Returns whether Ctrl-C was pressed since the last line.
    pub(super) fn is_interrupted(&self) -> bool {
        self.heard.try_recv().is_ok()
    }
}
