//! Errors that are the command line's: they end the process with code 2.

use std::fmt;

/// Something on the command line that no sweep or store can make right.
#[derive(Debug)]
pub(crate) struct UsageError(String);

impl UsageError {
    /// With what is wrong and what is wanted.
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }

    /// For `map_err`, with the error's own text.
    pub(crate) fn from_error<E: std::error::Error>(error: E) -> anyhow::Error {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self(text).into()
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for UsageError {}
