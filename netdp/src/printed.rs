//! What goes to standard output, and errors as a line.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;

/// Prints `value` as JSON, indented.
///
/// # Errors
/// As [`line`].
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints a line. A reader that has gone away, as `head` does, is no error.
///
/// # Errors
/// When it can't be written, as to a full disk.
pub fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// The error and its causes in one line, each said once.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let error = anyhow::anyhow!("disk full").context("cannot write: disk full");
        assert_eq!(one_line(&error), "cannot write: disk full");
        let error = anyhow::anyhow!("disk\nfull").context("cannot write");
        assert_eq!(one_line(&error), "cannot write: disk full");
    }
}
