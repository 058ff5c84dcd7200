//! What a long command is doing, on standard error: a spinner or a bar on a
//! terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>3} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }

    /// So many pieces of work are to be done; [`Progress::advance`] counts them.
    pub(crate) fn expect(&self, pieces: u64) {
        let Some(bar) = &self.0 else { return };
        let template = "{elapsed:>3} {bar:24} {percent:>3} %, {eta} left: {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_length(pieces);
        bar.set_position(0);
        bar.reset_eta();
    }

    /// These pieces are done.
    pub(crate) fn advance(&self, pieces: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(pieces);
        }
    }

    /// What begins now.
    pub(crate) fn step(&self, what: &str) {
        match &self.0 {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{what}"),
        }
    }

    /// Something that stays on the screen.
    pub(crate) fn note(&self, what: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| eprintln!("{what}")),
            None => eprintln!("{what}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
