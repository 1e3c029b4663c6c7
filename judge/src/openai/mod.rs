//! The judge behind a chat-completions endpoint: one request per response, retried where that can help.

mod endpoint;
mod prompt;
mod reply;

use std::env::VarError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use avsweep_domain::{Fingerprint, FinishReason, Levels, Message, Query, Response, Role, Verdict};
use avsweep_lease::error_chain;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::endpoint::Endpoint;
pub use self::prompt::DEFAULT_RUBRIC;
use self::prompt::Prompt;
use crate::error::{AttemptError, JudgeError};
use crate::judge::JudgeOptions;
use crate::meter::Meter;
use crate::retry_after::parse_retry_after;

/// Bytes of an error reply that are read; its message is shortened further.
const ERROR_BYTES: usize = 16 * 1024;

/// The settings of [`avsweep_domain::JudgeProvider::Openai`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenaiSettings<'a> {
    pub(crate) base_url: &'a str,
    pub(crate) model: &'a str,
    pub(crate) api_key_env: Option<&'a str>,
    pub(crate) concurrency: u32,
    pub(crate) timeout_seconds: u32,
    pub(crate) max_attempts: u32,
}

/// A chat-completions judge.
#[derive(Debug)]
pub(crate) struct OpenaiJudge {
    endpoint: Endpoint,
    prompt: Prompt,
    /// One permit per request in flight.
    slots: Semaphore,
    /// No request is sent before this instant: what the endpoint asked for last.
    resume_at: Mutex<Option<Instant>>,
    timeout: Duration,
    max_attempts: u32,
    options: JudgeOptions,
    liveness: Liveness,
}

/// One failed attempt.
struct Failure {
    error: AttemptError,
    /// Whether another attempt may succeed.
    retry: bool,
    /// The wait that the endpoint asked for.
    asked: Option<Duration>,
}

impl Failure {
    fn transient(error: impl Into<AttemptError>) -> Self {
        Self { error: error.into(), retry: true, asked: None }
    }
}

impl OpenaiJudge {
    pub(crate) fn new(
        settings: OpenaiSettings<'_>,
        rubric: &str,
        levels: &Levels,
        options: &JudgeOptions,
        environment: impl Fn(&str) -> Result<String, VarError>,
    ) -> Result<Self, JudgeError> {
        Ok(Self {
            endpoint: Endpoint::new(settings.base_url, settings.api_key_env, environment)?,
            prompt: Prompt::new(settings.model, rubric, levels),
            slots: Semaphore::new(settings.concurrency.max(1) as usize),
            resume_at: Mutex::new(None),
            timeout: Duration::from_secs(u64::from(settings.timeout_seconds.max(1))),
            max_attempts: settings.max_attempts.max(1),
            options: *options,
            liveness: Liveness::default(),
        })
    }

    pub(crate) fn prompt_fingerprint(&self) -> Fingerprint {
        self.prompt.fingerprint()
    }

    /// Asks until there is a verdict, the endpoint rejects the request, or the attempts are used up.
    pub(crate) async fn judge(
        &self,
        levels: &Levels,
        query: &Query,
        response: &Response,
        meter: &Meter,
    ) -> Result<Verdict, JudgeError> {
        let body = self.prompt.request(levels, query, response).to_string();
        let endpoint = || self.endpoint.url.to_string();
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let Failure { error, retry, asked } = match self.attempt(&body, levels, meter).await {
                Ok(verdict) => return Ok(verdict),
                Err(failure) => failure,
            };
            if !retry {
                return Err(JudgeError::Rejected { endpoint: endpoint(), source: error });
            }
            if attempts >= self.max_attempts {
                let endpoint = endpoint();
                if !may_lie_in_the_request(&error) || !self.answers_others(began, levels, meter).await {
                    return Err(JudgeError::GaveUp { endpoint, attempts, source: error });
                }
                // Once more, now that the endpoint is known to be there: it may just have come back.
                attempts += 1;
                let Failure { error, retry, .. } = match self.attempt(&body, levels, meter).await {
                    Ok(verdict) => return Ok(verdict),
                    Err(failure) => failure,
                };
                return Err(if !retry {
                    JudgeError::Rejected { endpoint, source: error }
                } else if may_lie_in_the_request(&error) {
                    JudgeError::OneUnanswered { endpoint, attempts, source: error }
                } else {
                    JudgeError::GaveUp { endpoint, attempts, source: error }
                });
            }
            let longest = self.options.longest_retry_after;
            let wait = match asked {
                Some(asked) if asked > longest => {
                    return Err(JudgeError::WaitTooLong {
                        endpoint: endpoint(),
                        seconds: asked.as_secs(),
                        longest: longest.as_secs(),
                        source: error,
                    });
                }
                // Jitter on top: everyone was told the same instant.
                Some(asked) => asked + self.options.backoff.random_delay(1),
                None => self.options.backoff.random_delay(attempts),
            };
            tracing::debug!(
                endpoint = %self.endpoint.url, attempts, wait_millis = wait.as_millis() as u64,
                error = %error_chain(&error), "a judge request failed and is tried again"
            );
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether the endpoint answers other requests than one that it has not answered since `began`.
    ///
    /// Without this a single response that the endpoint never answers, with all others judged, would look like an
    /// endpoint that is away, and be given back for ever. Where no other request shows it, a short one is made, by one
    /// caller for all.
    async fn answers_others(&self, began: Instant, levels: &Levels, meter: &Meter) -> bool {
        if self.liveness.answered_since(began) {
            return true;
        }
        let gave_up = Instant::now();
        let mut probed = self.liveness.probed.lock().await;
        if self.liveness.answered_since(began) {
            return true;
        }
        if probed.is_some_and(|at| at >= gave_up) {
            return false;
        }
        let text = |text: &str| text.to_owned();
        let query = Query {
            id: text("probe"),
            messages: vec![Message { role: Role::User, content: text("Is water wet?") }],
            references: levels.names().to_vec(),
        };
        let response = Response { text: text("Yes."), tokens: 1, finish: FinishReason::Stop };
        let body = self.prompt.request(levels, &query, &response).to_string();
        let answered = match self.attempt(&body, levels, meter).await {
            Ok(_) => true,
            Err(failure) => !may_lie_in_the_request(&failure.error) && !failure.retry,
        };
        *probed = Some(Instant::now());
        answered
    }

    /// One request, in a slot of its own, not before the endpoint wants one.
    async fn attempt(&self, body: &str, levels: &Levels, meter: &Meter) -> Result<Verdict, Failure> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        self.wait_until_resumed().await;
        meter.add_call();
        let outcome = match tokio::time::timeout(self.timeout, self.exchange(body, levels, meter)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::transient(AttemptError::Timeout { seconds: self.timeout.as_secs() })),
        };
        if let Err(Failure { asked: Some(asked), .. }) = &outcome {
            self.hold_back(*asked);
        }
        match &outcome {
            Ok(_) => self.liveness.note_answer(),
            Err(_) => meter.add_error(),
        }
        outcome
    }

    async fn exchange(&self, body: &str, levels: &Levels, meter: &Meter) -> Result<Verdict, Failure> {
        let mut request = self
            .endpoint
            .client
            .post(self.endpoint.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_owned());
        if let Some(authorization) = &self.endpoint.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let reply = request.send().await.map_err(connection_failure)?;
        let status = reply.status();
        if !status.is_success() {
            return self.read_failure(reply).await;
        }
        let limit = self.options.max_reply_bytes;
        let (bytes, whole) = Self::read_body(reply, limit).await?;
        if !whole {
            return Err(Failure::transient(AttemptError::TooLarge { limit }));
        }
        if let Some((input, output)) = reply::read_usage(&bytes) {
            meter.add_tokens(input, output);
        }
        let text = self.endpoint.redact(&String::from_utf8_lossy(&bytes));
        let mut verdict = reply::read_verdict(text.as_bytes(), levels).map_err(Failure::transient)?;
        // Once more after JSON's escapes are undone: a verdict is stored.
        verdict.reason = verdict.reason.map(|reason| self.endpoint.redact(&reason));
        Ok(verdict)
    }

    /// What a reply with another status than success means.
    async fn read_failure(&self, reply: reqwest::Response) -> Result<Verdict, Failure> {
        let status = reply.status();
        let asked = asked_wait(reply.headers());
        // The status says enough when the rest of the reply does not arrive.
        let (bytes, _) = Self::read_body(reply, ERROR_BYTES).await.unwrap_or_default();
        let text = self.endpoint.redact(&String::from_utf8_lossy(&bytes));
        let said = reply::read_error(text.as_bytes());
        if status == StatusCode::BAD_REQUEST && said.code.as_deref() == Some("content_filter") {
            return Ok(reply::refused(&self.endpoint.redact(&said.message)));
        }
        let retry = is_transient(status);
        Err(Failure {
            error: AttemptError::Status {
                status: status.as_u16(),
                message: self.endpoint.redact(&said.message),
                code: said.code.map(|code| self.endpoint.redact(&code)),
            },
            retry,
            asked: asked.filter(|_| retry),
        })
    }

    /// At most `limit` bytes of a body, and whether that is all of it.
    async fn read_body(mut reply: reqwest::Response, limit: usize) -> Result<(Vec<u8>, bool), Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = reply.chunk().await.map_err(connection_failure)? {
            let room = limit - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((bytes, false));
            }
        }
        Ok((bytes, true))
    }

    /// Keeps every request back for as long as the endpoint asked.
    fn hold_back(&self, asked: Duration) {
        let until = Instant::now() + asked.min(self.options.longest_retry_after);
        let mut resume_at = self.resume_at.lock().unwrap_or_else(PoisonError::into_inner);
        *resume_at = Some(resume_at.map_or(until, |earlier| earlier.max(until)));
    }

    async fn wait_until_resumed(&self) {
        loop {
            let resume_at = *self.resume_at.lock().unwrap_or_else(PoisonError::into_inner);
            match resume_at {
                Some(instant) if instant > Instant::now() => tokio::time::sleep_until(instant).await,
                _ => return,
            }
        }
    }
}

/// When the endpoint gave a verdict last, and was probed last.
#[derive(Debug, Default)]
struct Liveness {
    answered: Mutex<Option<Instant>>,
    /// Held while probing.
    probed: tokio::sync::Mutex<Option<Instant>>,
}

impl Liveness {
    fn note_answer(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn answered_since(&self, began: Instant) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at >= began)
    }
}

/// Failures that an endpoint which is away shows, but also one that breaks on this one request: it hangs, drops the
/// connection, or fails inside. One that is busy says so.
fn may_lie_in_the_request(error: &AttemptError) -> bool {
    match error {
        AttemptError::Timeout { .. } | AttemptError::Connection(_) => true,
        AttemptError::Status { status, .. } => matches!(status, 500 | 502 | 504),
        AttemptError::TooLarge { .. } | AttemptError::Reply(_) => false,
    }
}

fn connection_failure(error: reqwest::Error) -> Failure {
    // The endpoint is named once, by the error around this one.
    Failure::transient(AttemptError::Connection(Arc::new(error.without_url())))
}

/// Statuses after which the same request may succeed.
fn is_transient(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS)
        || status.is_server_error()
}

fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    parse_retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}
