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

/// Prints an error with its causes, one a line, on stderr.
pub(crate) fn print_error(error: &anyhow::Error) {
    let label = if io::stderr().is_terminal() { "\x1b[1;31merror\x1b[0m" } else { "error" };
    eprintln!("{label}: {}", causes(error).join("\n  because: "));
}

/// An error with its causes in one line, as logs want it.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    causes(error).join(": ")
}

/// What an error and its causes say; a cause that was told already is left out: libraries like to repeat their cause's
/// text in their own.
fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.iter().any(|text| text.contains(&cause)) {
            told.push(cause);
        }
    }
    told
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

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::in_one_line;

    #[test]
    fn a_cause_that_was_told_is_left_out() {
        let error = anyhow!("refused").context("cannot connect: refused").context("the store is away");
        assert_eq!(in_one_line(&error), "the store is away: cannot connect: refused");
    }
}
