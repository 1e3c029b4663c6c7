//! What people and programs see: data on stdout, everything else on stderr.

mod progress;
mod table;

use std::io::{self, IsTerminal as _, Write};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub(crate) use progress::{SweepProgressBars, counting_bar, human_duration, stderr_beside_progress};
pub(crate) use table::Table;

use crate::arguments::Format;

/// Prints a value as JSON, or lets `table` draw it.
///
/// # Errors
/// When stdout cannot be written.
pub(crate) fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let stdout = io::stdout();
    let mut out = io::BufWriter::new(stdout.lock());
    match format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from).context("stdout")?;
            writeln!(out).context("stdout")?;
        }
        Format::Table => table(value, &mut out).context("stdout")?,
    }
    out.flush().context("stdout")
}

/// Prints an error with its causes, one a line, on stderr; a cause that was told already is left out.
pub(crate) fn print_error(error: &anyhow::Error) {
    let label = if io::stderr().is_terminal() { "\x1b[1;31merror\x1b[0m" } else { "error" };
    let mut said = error.to_string();
    eprintln!("{label}: {said}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Libraries like to repeat their cause's text in their own.
        if !said.contains(&cause) {
            eprintln!("  because: {cause}");
            said.push_str(&cause);
        }
    }
}

/// A text as one word of a shell's command line.
pub(crate) fn shell(text: impl std::fmt::Display) -> String {
    let text = text.to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Prints a note for people on stderr.
pub(crate) fn note(text: impl std::fmt::Display) {
    progress::print_line(&text.to_string());
}
