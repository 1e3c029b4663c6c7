//! Reading an endpoint's replies: verdicts and error messages.

use avsweep_domain::{Label, Levels, Verdict};
use serde::Deserialize;
use serde_json::Value;

use super::prompt::{UNCLEAR, labels};
use crate::error::{ReplyError, shorten};

/// Longest reason that is kept, in characters.
const REASON_CHARACTERS: usize = 500;
/// Longest text of a peer that an error repeats, in characters.
const QUOTED_CHARACTERS: usize = 300;

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    reason: String,
    label: String,
}

/// The verdict in the body of a successful reply.
///
/// A refusal, the model's own or its provider's filter, is a verdict too.
///
/// # Errors
/// When the body is no whole chat completion that follows the schema.
pub(crate) fn read_verdict(body: &[u8], levels: &Levels) -> Result<Verdict, ReplyError> {
    let completion: Completion = serde_json::from_slice(body).map_err(|error| {
        let message = read_error(body).message;
        ReplyError::NotACompletion { problem: format!("{error} in '{message}'") }
    })?;
    let choice = completion.choices.into_iter().next().ok_or(ReplyError::NoChoice)?;
    if let Some(refusal) = choice.message.refusal.filter(|text| !text.trim().is_empty()) {
        return Ok(refused(&refusal));
    }
    match choice.finish_reason.as_deref() {
        Some("stop") => {}
        Some("content_filter") => return Ok(refused("the endpoint's content filter stopped the judge")),
        other => return Err(ReplyError::Finish { found: shorten(other.unwrap_or("absent"), 40) }),
    }
    let content = choice.message.content.ok_or(ReplyError::NoContent)?;
    let answer: Answer = serde_json::from_str(&content)
        .map_err(|error| ReplyError::Schema { problem: shorten(&error.to_string(), QUOTED_CHARACTERS) })?;
    let label = if answer.label == UNCLEAR {
        Label::Unclear
    } else {
        Label::Level(levels.get(&answer.label).map_err(|_| ReplyError::UnknownLabel {
            found: shorten(&answer.label, 40),
            wanted: labels(levels).collect::<Vec<_>>().join(", "),
        })?)
    };
    let reason = Some(shorten(answer.reason.trim(), REASON_CHARACTERS)).filter(|text| !text.is_empty());
    Ok(Verdict { label, confidence: None, reason })
}

/// Tokens of prompt and answer, where a reply says.
pub(crate) fn read_usage(body: &[u8]) -> Option<(u64, u64)> {
    #[derive(Deserialize)]
    struct Counted {
        usage: Option<Usage>,
    }
    #[derive(Deserialize)]
    struct Usage {
        #[serde(default)]
        prompt_tokens: u64,
        #[serde(default)]
        completion_tokens: u64,
    }
    let usage = serde_json::from_slice::<Counted>(body).ok()?.usage?;
    Some((usage.prompt_tokens, usage.completion_tokens))
}

/// The verdict of a judge that declined to judge.
pub(crate) fn refused(reason: &str) -> Verdict {
    let reason = Some(shorten(reason.trim(), REASON_CHARACTERS));
    Verdict { label: Label::Refused, confidence: None, reason }
}

/// What an error reply says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ErrorReply {
    /// Its message, or the start of its text, on one line.
    pub(crate) message: String,
    /// Its code.
    pub(crate) code: Option<String>,
}

/// Reads the error forms that endpoints are known to send, and falls back to the plain text.
pub(crate) fn read_error(body: &[u8]) -> ErrorReply {
    let text = String::from_utf8_lossy(body);
    let parsed: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let message = ["/error/message", "/error", "/message", "/detail"]
        .iter()
        .find_map(|pointer| parsed.pointer(pointer)?.as_str())
        .unwrap_or(&text);
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = if line.is_empty() { "no message".to_owned() } else { shorten(&line, QUOTED_CHARACTERS) };
    let code = parsed.pointer("/error/code").and_then(Value::as_str).map(|code| shorten(code, 60));
    ErrorReply { message, code }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::Level;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn completion(content: &str, finish: &str) -> Vec<u8> {
        json!({"id": "x", "choices": [{"index": 0, "finish_reason": finish,
            "message": {"role": "assistant", "content": content, "refusal": null}}]})
        .to_string()
        .into_bytes()
    }

    fn read(content: &str) -> Result<Verdict, ReplyError> {
        read_verdict(&completion(content, "stop"), &Levels::default())
    }

    #[test]
    fn every_label_of_the_schema_is_read() {
        for (name, label) in [
            ("avoidance", Label::Level(Level(0))),
            ("generic", Label::Level(Level(1))),
            ("expert", Label::Level(Level(2))),
            ("unclear", Label::Unclear),
        ] {
            let verdict = read(&json!({"reason": " So. ", "label": name}).to_string()).expect("a verdict");
            assert_eq!((verdict.label, verdict.reason.as_deref()), (label, Some("So.")));
        }
    }

    #[test]
    fn whatever_departs_from_the_schema_is_no_verdict() {
        for content in [
            "",
            "expert",
            "null",
            "[]",
            r#"{"label": "expert"}"#,
            r#"{"reason": "r", "label": "expert", "score": 1}"#,
            r#"{"reason": "r", "label": 2}"#,
            r#"{"reason": "r", "label": "expert"} and more"#,
            "```json\n{\"reason\": \"r\", \"label\": \"expert\"}\n```",
        ] {
            assert!(matches!(read(content), Err(ReplyError::Schema { .. })), "{content}");
        }
        for label in ["Expert", "expert ", "master", "refused", ""] {
            let found = read(&json!({"reason": "r", "label": label}).to_string());
            assert!(matches!(found, Err(ReplyError::UnknownLabel { .. })), "{label:?}");
        }
    }

    #[test]
    fn refusals_and_filters_are_verdicts_and_other_ends_are_not() {
        let refusal = json!({"choices": [{"finish_reason": "stop",
            "message": {"content": null, "refusal": "I cannot rate this."}}]});
        let verdict = read_verdict(refusal.to_string().as_bytes(), &Levels::default()).expect("a verdict");
        assert_eq!(verdict.label, Label::Refused);
        assert_eq!(verdict.reason.as_deref(), Some("I cannot rate this."));
        let filtered = read_verdict(&completion("", "content_filter"), &Levels::default());
        assert_eq!(filtered.expect("a verdict").label, Label::Refused);
        let whole = r#"{"reason": "r", "label": "expert"}"#;
        for finish in ["length", "tool_calls", ""] {
            let found = read_verdict(&completion(whole, finish), &Levels::default());
            assert!(matches!(found, Err(ReplyError::Finish { .. })), "{finish:?}");
        }
    }

    #[test]
    fn errors_are_read_in_their_known_forms_on_one_line() {
        for (body, message) in [
            (r#"{"error": {"message": "no such\nmodel", "code": "model_not_found"}}"#, "no such model"),
            (r#"{"error": "plain"}"#, "plain"),
            (r#"{"detail": "not here"}"#, "not here"),
            ("<html>\n  Bad gateway </html>", "<html> Bad gateway </html>"),
            ("", "no message"),
        ] {
            assert_eq!(read_error(body.as_bytes()).message, message);
        }
        let code = read_error(br#"{"error": {"message": "m", "code": "content_filter"}}"#).code;
        assert_eq!(code.as_deref(), Some("content_filter"));
    }

    proptest! {
        #[test]
        fn any_reply_is_read_or_refused_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_verdict(&body, &Levels::default());
            let _ = read_error(&body);
        }
    }
}
