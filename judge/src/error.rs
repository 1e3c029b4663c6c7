//! What can go wrong with a judge.

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
         make api_key_env empty (\"\") where the endpoint wants none"
    )]
    Key {
        /// The variable's name.
        variable: String,
        /// What is wrong with its value.
        problem: &'static str,
    },
    /// The process does not let sweeps use this key there.
    #[error(
        "judge.api_key_env names '{variable}' for {base_url}, which this judge does not allow; start the judge with \
         --key-for {variable}={base_url} to allow it"
    )]
    KeyNotAllowed {
        /// The variable's name.
        variable: String,
        /// Where its value would be sent.
        base_url: String,
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
    /// Every attempt failed, while the endpoint answers other requests.
    #[error(
        "judge at {endpoint} answers other requests, but gave no verdict on this response in {attempts} attempts; the \
         last failed"
    )]
    OneUnanswered {
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
            Self::OneUnanswered { .. } => true,
            Self::BaseUrl { .. }
            | Self::BaseUrlSecret(_)
            | Self::Key { .. }
            | Self::KeyNotAllowed { .. }
            | Self::Client(_)
            | Self::WaitTooLong { .. } => false,
        }
    }

    /// Whether the endpoint is away or busy: the same request may succeed later, whatever the response.
    pub fn may_pass(&self) -> bool {
        match self {
            // Only failures that may pass are tried until the attempts are used up.
            Self::GaveUp { .. } => !self.is_item_specific(),
            Self::WaitTooLong { .. } => true,
            Self::Rejected { .. }
            | Self::OneUnanswered { .. }
            | Self::BaseUrl { .. }
            | Self::BaseUrlSecret(_)
            | Self::Key { .. }
            | Self::KeyNotAllowed { .. }
            | Self::Client(_) => false,
        }
    }

    /// Whether every request will fail until somebody changes address, key, model or account.
    ///
    /// Other rejections, such as 400, may be about the one request.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::BaseUrl { .. }
            | Self::BaseUrlSecret(_)
            | Self::Key { .. }
            | Self::KeyNotAllowed { .. }
            | Self::Client(_) => true,
            Self::Rejected { source: AttemptError::Status { status, .. }, .. } => {
                !self.is_item_specific() && matches!(status, 300..=399 | 401..=405 | 407 | 410)
            }
            Self::Rejected { .. }
            | Self::GaveUp { .. }
            | Self::OneUnanswered { .. }
            | Self::WaitTooLong { .. } => false,
        }
    }
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

    fn rejected(status: u16) -> JudgeError {
        let source = AttemptError::Status { status, message: String::new(), code: None };
        JudgeError::Rejected { endpoint: "http://judge".to_owned(), source }
    }

    #[test]
    fn a_failure_is_of_one_item_or_may_pass_or_lasts_but_never_two_of_these() {
        let gave_up =
            |source| JudgeError::GaveUp { endpoint: "http://judge".to_owned(), attempts: 3, source };
        let status = |status| AttemptError::Status { status, message: String::new(), code: None };
        let one_unanswered = JudgeError::OneUnanswered {
            endpoint: "http://judge".to_owned(),
            attempts: 3,
            source: AttemptError::Timeout { seconds: 60 },
        };
        let too_long = JudgeError::WaitTooLong {
            endpoint: "http://judge".to_owned(),
            seconds: 900,
            longest: 300,
            source: status(429),
        };
        let key = JudgeError::Key { variable: "KEY".to_owned(), problem: "not set" };
        for (error, wanted) in [
            (gave_up(ReplyError::NoChoice.into()), (true, false, false)),
            (rejected(413), (true, false, false)),
            (gave_up(status(503)), (false, true, false)),
            (gave_up(status(429)), (false, true, false)),
            (gave_up(AttemptError::Timeout { seconds: 60 }), (false, true, false)),
            (one_unanswered, (true, false, false)),
            (too_long, (false, true, false)),
            (rejected(401), (false, false, true)),
            (rejected(403), (false, false, true)),
            (rejected(404), (false, false, true)),
            (key, (false, false, true)),
            (rejected(400), (false, false, false)),
        ] {
            let found = (error.is_item_specific(), error.may_pass(), error.is_lasting());
            assert_eq!(found, wanted, "{error:?}");
        }
    }

    #[test]
    fn shortening_cuts_between_characters() {
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöü", 2), "äö…");
    }
}
