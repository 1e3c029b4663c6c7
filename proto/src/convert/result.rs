//! Scores, responses, verdicts.

use avsweep_domain::{FinishReason, Label, Level, QueryScore, ReferenceScore, Response, Verdict};

use super::{all, required, wire_enum};
use crate::{ConvertError, WireEnum, v1};

wire_enum!(FinishReason, FinishReason, {
    Stop = (FinishReason::Stop),
    Length = (FinishReason::Length),
});

/// Most levels that a sweep can have, as in [`avsweep_domain::Levels`].
pub(super) const MAX_LEVELS: u32 = 8;

/// A level's index within the largest range that levels can have; whether the sweep has it is the caller's to check.
pub(super) fn level(message: &'static str, field: &'static str, index: u32) -> Result<Level, ConvertError> {
    match u8::try_from(index) {
        Ok(index) if u32::from(index) < MAX_LEVELS => Ok(Level(index)),
        _ => Err(ConvertError::invalid(message, field, index, "a level's index, 0 to 7,")),
    }
}

impl From<&ReferenceScore> for v1::ReferenceScore {
    fn from(score: &ReferenceScore) -> Self {
        Self { log_prob_sum: score.log_prob_sum, tokens: score.tokens, bytes: score.bytes }
    }
}

impl TryFrom<v1::ReferenceScore> for ReferenceScore {
    type Error = ConvertError;

    fn try_from(wire: v1::ReferenceScore) -> Result<Self, ConvertError> {
        let invalid = |field, found: &dyn std::fmt::Display, wanted| {
            Err(ConvertError::invalid("ReferenceScore", field, found, wanted))
        };
        if !wire.log_prob_sum.is_finite() {
            let (message, field, found) = ("ReferenceScore", "log_prob_sum", wire.log_prob_sum);
            return Err(ConvertError::NotFinite { message, field, found });
        }
        if wire.log_prob_sum > 0.0 {
            return invalid("log_prob_sum", &wire.log_prob_sum, "a finite number, at most 0,");
        }
        if wire.tokens == 0 {
            return invalid("tokens", &wire.tokens, "at least 1");
        }
        if wire.bytes == 0 {
            return invalid("bytes", &wire.bytes, "at least 1");
        }
        Ok(Self { log_prob_sum: wire.log_prob_sum, tokens: wire.tokens, bytes: wire.bytes })
    }
}

fn query_score(message: &'static str, scores: Vec<v1::ReferenceScore>) -> Result<QueryScore, ConvertError> {
    let count = scores.len();
    if !(2..=MAX_LEVELS as usize).contains(&count) {
        let found = format_args!("{count} long");
        return Err(ConvertError::invalid(message, "scores", found, "one score per level, 2 to 8,"));
    }
    all(scores).map(QueryScore)
}

impl From<&QueryScore> for v1::ScoreRow {
    fn from(score: &QueryScore) -> Self {
        Self { scores: score.0.iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::ScoreRow> for QueryScore {
    type Error = ConvertError;

    fn try_from(wire: v1::ScoreRow) -> Result<Self, ConvertError> {
        query_score("ScoreRow", wire.scores)
    }
}

impl From<&(u32, QueryScore)> for v1::ScoreResult {
    fn from((ordinal, score): &(u32, QueryScore)) -> Self {
        Self { ordinal: *ordinal, scores: score.0.iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::ScoreResult> for (u32, QueryScore) {
    type Error = ConvertError;

    fn try_from(wire: v1::ScoreResult) -> Result<Self, ConvertError> {
        Ok((wire.ordinal, query_score("ScoreResult", wire.scores)?))
    }
}

impl From<&Response> for v1::Response {
    fn from(response: &Response) -> Self {
        Self {
            text: response.text.clone(),
            tokens: response.tokens,
            finish: v1::FinishReason::from(response.finish).into(),
        }
    }
}

impl TryFrom<v1::Response> for Response {
    type Error = ConvertError;

    fn try_from(wire: v1::Response) -> Result<Self, ConvertError> {
        let finish = v1::FinishReason::read("Response", "finish", wire.finish)?;
        Ok(Self { text: wire.text, tokens: wire.tokens, finish })
    }
}

impl From<&(u32, Response)> for v1::ResponseResult {
    fn from((ordinal, response): &(u32, Response)) -> Self {
        Self { ordinal: *ordinal, response: Some(response.into()) }
    }
}

impl TryFrom<v1::ResponseResult> for (u32, Response) {
    type Error = ConvertError;

    fn try_from(wire: v1::ResponseResult) -> Result<Self, ConvertError> {
        Ok((wire.ordinal, required("ResponseResult", "response", wire.response)?.try_into()?))
    }
}

impl From<&Verdict> for v1::Verdict {
    fn from(verdict: &Verdict) -> Self {
        use v1::verdict::Label as Wire;
        let label = match verdict.label {
            Label::Level(level) => Wire::Level(u32::from(level.0)),
            Label::Unclear => Wire::Unclear(v1::UnclearLabel {}),
            Label::Refused => Wire::Refused(v1::RefusedLabel {}),
        };
        Self { label: Some(label), confidence: verdict.confidence, reason: verdict.reason.clone() }
    }
}

impl TryFrom<v1::Verdict> for Verdict {
    type Error = ConvertError;

    fn try_from(wire: v1::Verdict) -> Result<Self, ConvertError> {
        use v1::verdict::Label as Wire;
        let label = match required("Verdict", "label", wire.label)? {
            Wire::Level(index) => Label::Level(level("Verdict", "level", index)?),
            Wire::Unclear(v1::UnclearLabel {}) => Label::Unclear,
            Wire::Refused(v1::RefusedLabel {}) => Label::Refused,
        };
        if let Some(found) = wire.confidence.filter(|confidence| !confidence.is_finite()) {
            return Err(ConvertError::NotFinite { message: "Verdict", field: "confidence", found });
        }
        if let Some(confidence) = wire.confidence
            && !(0.0..=1.0).contains(&confidence)
        {
            return Err(ConvertError::invalid("Verdict", "confidence", confidence, "0 to 1"));
        }
        Ok(Self { label, confidence: wire.confidence, reason: wire.reason })
    }
}

impl From<&(u32, Verdict)> for v1::VerdictResult {
    fn from((ordinal, verdict): &(u32, Verdict)) -> Self {
        Self { ordinal: *ordinal, verdict: Some(verdict.into()) }
    }
}

impl TryFrom<v1::VerdictResult> for (u32, Verdict) {
    type Error = ConvertError;

    fn try_from(wire: v1::VerdictResult) -> Result<Self, ConvertError> {
        Ok((wire.ordinal, required("VerdictResult", "verdict", wire.verdict)?.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score() -> impl Strategy<Value = ReferenceScore> {
        (-1e6f64..=0.0, 1u32.., 1u32..).prop_map(|(log_prob_sum, tokens, bytes)| ReferenceScore {
            log_prob_sum,
            tokens,
            bytes,
        })
    }

    fn finish() -> impl Strategy<Value = FinishReason> {
        prop_oneof![Just(FinishReason::Stop), Just(FinishReason::Length)]
    }

    fn label() -> impl Strategy<Value = Label> {
        prop_oneof![
            (0u8..8).prop_map(|index| Label::Level(Level(index))),
            Just(Label::Unclear),
            Just(Label::Refused),
        ]
    }

    proptest! {
        #[test]
        fn scores_round_trip(ordinal: u32, scores in prop::collection::vec(score(), 2..=8)) {
            let result = (ordinal, QueryScore(scores));
            prop_assert_eq!(<(u32, QueryScore)>::try_from(v1::ScoreResult::from(&result)), Ok(result.clone()));
            prop_assert_eq!(QueryScore::try_from(v1::ScoreRow::from(&result.1)), Ok(result.1));
        }

        #[test]
        fn responses_round_trip(ordinal: u32, text in ".{0,40}", tokens: u32, finish in finish()) {
            let result = (ordinal, Response { text, tokens, finish });
            prop_assert_eq!(<(u32, Response)>::try_from(v1::ResponseResult::from(&result)), Ok(result));
        }

        #[test]
        fn verdicts_round_trip(
            ordinal: u32,
            label in label(),
            confidence in prop::option::of(0.0f64..=1.0),
            reason in prop::option::of(".{0,40}"),
        ) {
            let result = (ordinal, Verdict { label, confidence, reason });
            prop_assert_eq!(<(u32, Verdict)>::try_from(v1::VerdictResult::from(&result)), Ok(result));
        }
    }

    #[test]
    fn numbers_that_no_evaluation_yields_are_refused_with_field_and_value() {
        let good = v1::ReferenceScore { log_prob_sum: -1.0, tokens: 3, bytes: 9 };
        assert!(ReferenceScore::try_from(good).is_ok());
        for (bad, text) in [
            (v1::ReferenceScore { log_prob_sum: f64::NAN, ..good }, "ReferenceScore.log_prob_sum is NaN"),
            (v1::ReferenceScore { log_prob_sum: f64::NEG_INFINITY, ..good }, "log_prob_sum is -inf"),
            (v1::ReferenceScore { log_prob_sum: 0.5, ..good }, "log_prob_sum is 0.5"),
            (v1::ReferenceScore { tokens: 0, ..good }, "ReferenceScore.tokens is 0; at least 1"),
            (v1::ReferenceScore { bytes: 0, ..good }, "ReferenceScore.bytes is 0; at least 1"),
        ] {
            let error = ReferenceScore::try_from(bad).expect_err("a bad score").to_string();
            assert!(error.contains(text), "{error}");
        }
        let verdict = |label, confidence| v1::Verdict { label, confidence, reason: None };
        assert!(Verdict::try_from(verdict(None, None)).is_err());
        assert!(Verdict::try_from(verdict(Some(v1::verdict::Label::Level(8)), None)).is_err());
        assert!(Verdict::try_from(verdict(Some(v1::verdict::Label::Level(0)), Some(f64::NAN))).is_err());
        let response = v1::Response { text: String::new(), tokens: 1, finish: 9 };
        let error = Response::try_from(response).expect_err("an unknown reason").to_string();
        assert!(error.contains("Response.finish is 9; one of Stop Length"), "{error}");
    }
}
