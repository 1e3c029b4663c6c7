//! What can go wrong with a judge.

use std::error::Error;
use std::sync::Arc;

/// Why a judge could not be made, or a response not be judged.
///
/// No variant ever holds the key.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JudgeError {
    /// `judge.base_url` cannot be used.
    #[error("judge.base_url '{found}' {problem}; such as https://api.example.com/v1 is wanted")]
    BaseUrl {
        /// The value found.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `judge.base_url` may hold a secret, so it is not repeated.
    #[error(
        "judge.base_url holds {0}, which would reach logs and the store; name the variable that holds the key in \
         judge.api_key_env instead"
    )]
    BaseUrlSecret(&'static str),
    /// The key is not there.
    #[error(
        "judge.api_key_env names the environment variable '{variable}', which is {problem}; set it to the key, or \
         leave api_key_env out where the endpoint wants none"
    )]
    Key {
        /// The variable's name.
        variable: String,
        /// What is wrong with its value.
        problem: &'static str,
    },
    /// The HTTP client could not be set up.
    #[error("setting up the HTTP client of the judge failed")]
    Client(#[source] Arc<reqwest::Error>),
    /// The endpoint rejected the request in a way that trying again does not change.
    #[error("judge at {endpoint} rejected the request")]
    Rejected {
        /// The endpoint.
        endpoint: String,
        /// What it said.
        source: AttemptError,
    },
    /// Every attempt failed.
    #[error("judge at {endpoint} gave no verdict in {attempts} attempts; the last failed")]
    GaveUp {
        /// The endpoint.
        endpoint: String,
        /// Attempts made.
        attempts: u32,
        /// Why the last one failed.
        source: AttemptError,
    },
    /// The endpoint asked for a longer wait than is sensible.
    #[error("judge at {endpoint} asked to wait {seconds} s, at most {longest} s are waited")]
    WaitTooLong {
        /// The endpoint.
        endpoint: String,
        /// Seconds asked for.
        seconds: u64,
        /// The limit.
        longest: u64,
        /// What came with it.
        source: AttemptError,
    },
}

/// Why one request to an endpoint failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AttemptError {
    /// No whole reply in time.
    #[error("no reply within {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
    /// The connection could not be made or broke.
    #[error("the connection failed")]
    Connection(#[source] Arc<reqwest::Error>),
    /// An HTTP status other than success.
    #[error("HTTP status {status}: {message}")]
    Status {
        /// The status.
        status: u16,
        /// The reply's own error message, shortened.
        message: String,
        /// The reply's own error code, where it has one.
        code: Option<String>,
    },
    /// The reply is longer than is sensible for a verdict.
    #[error("the reply is longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The reply is no verdict.
    #[error(transparent)]
    Reply(#[from] ReplyError),
}

/// Why a reply is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The reply is no chat completion.
    #[error("the reply is no chat completion: {problem}")]
    NotACompletion {
        /// What the parser says.
        problem: String,
    },
    /// The completion holds no choice.
    #[error("the chat completion has no choice; one is wanted")]
    NoChoice,
    /// The model did not end its turn by itself.
    #[error("finish_reason is '{found}'; 'stop' is wanted")]
    Finish {
        /// The reason found.
        found: String,
    },
    /// The message has no text.
    #[error("the message has no content")]
    NoContent,
    /// The text does not follow the schema.
    #[error("the message does not follow the schema: {problem}")]
    Schema {
        /// What the parser says.
        problem: String,
    },
    /// The label is none of those asked for.
    #[error("label '{found}' is none of {wanted}")]
    UnknownLabel {
        /// The label found, shortened.
        found: String,
        /// The labels asked for, joined.
        wanted: String,
    },
}

impl JudgeError {
    /// Whether the failure lies in this one response rather than in the endpoint: others are worth judging still.
    pub fn is_item_specific(&self) -> bool {
        match self {
            Self::Rejected { source, .. } | Self::GaveUp { source, .. } => match source {
                AttemptError::TooLarge { .. } | AttemptError::Reply(_) => true,
                AttemptError::Status { status, code, .. } => {
                    *status == 413 || code.as_deref() == Some("context_length_exceeded")
                }
                AttemptError::Timeout { .. } | AttemptError::Connection(_) => false,
            },
            Self::BaseUrl { .. }
            | Self::BaseUrlSecret(_)
            | Self::Key { .. }
            | Self::Client(_)
            | Self::WaitTooLong { .. } => false,
        }
    }
}

/// An error with all its sources in one line, for places that hold only text.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// At most `limit` characters of a text, with a sign where some were left out.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = JudgeError::GaveUp {
            endpoint: "http://judge".to_owned(),
            attempts: 3,
            source: ReplyError::NoChoice.into(),
        };
        assert_eq!(
            error_chain(&error),
            "judge at http://judge gave no verdict in 3 attempts; the last failed: \
             the chat completion has no choice; one is wanted"
        );
    }

    #[test]
    fn shortening_cuts_between_characters() {
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöü", 2), "äö…");
    }
}
