//! The made-up model and judge: results as functions of what they are results of, the same in every schedule.

use avsweep_domain::{
    Fingerprint, FingerprintBuilder, FinishReason, Label, Level, Point, Query, QueryScore, ReferenceScore,
    Response, Verdict,
};

fn number(builder: &FingerprintBuilder) -> u64 {
    let hash = builder.finish();
    hash.as_bytes()[..8].iter().fold(0, |bits, byte| (bits << 8) | u64::from(*byte))
}

fn at(kind: &str, recipe: Fingerprint, point: &Point, query: &Query) -> FingerprintBuilder {
    let mut builder = FingerprintBuilder::new(kind);
    builder.fingerprint(&recipe).text(&point.to_string()).fingerprint(&query.fingerprint());
    builder
}

/// The scores of a query's references at a point.
pub(crate) fn score(recipe: Fingerprint, point: &Point, query: &Query) -> QueryScore {
    let references = query.references.iter().enumerate().map(|(level, text)| {
        let bits = number(at("simulated score", recipe, point, query).count(level));
        ReferenceScore {
            log_prob_sum: -((bits >> 11) as f64 / (1_u64 << 53) as f64) * 50.0,
            tokens: 1 + (bits % 20) as u32,
            bytes: text.len().max(1) as u32,
        }
    });
    QueryScore(references.collect())
}

/// The response to a query at a point. Points share texts: the same is judged once for all of them.
pub(crate) fn response(recipe: Fingerprint, point: &Point, query: &Query) -> Response {
    let bits = number(&at("simulated response", recipe, point, query));
    Response {
        text: format!("answer {} to {}", bits % 4, query.id),
        tokens: 1 + (bits % 8) as u32,
        finish: if bits.is_multiple_of(2) { FinishReason::Stop } else { FinishReason::Length },
    }
}

/// The verdict on a text.
pub(crate) fn verdict(query: &Query, text: &str) -> Verdict {
    let mut builder = FingerprintBuilder::new("simulated verdict");
    let bits = number(builder.fingerprint(&query.fingerprint()).text(text));
    Verdict {
        label: match bits % 6 {
            0 => Label::Unclear,
            1 => Label::Refused,
            other => Label::Level(Level((other % 3) as u8)),
        },
        confidence: bits.is_multiple_of(2).then_some((bits % 101) as f64 / 100.0),
        reason: (bits % 7 < 3).then(|| format!("because of {}", query.id)),
    }
}
