//! Results of a point in memory: from columns and blocks, and as rows of a sweep.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use avsweep_domain::{FinishReason, Label, Level, Point, QueryScore, QuerySlice, Response, Verdict};

use crate::codec::{self, CodecError};
use crate::columns::narrow;
use crate::layout::SweepLayout;
use crate::{ResultRow, ResultValue, StoreError};

/// Scores of a point by query.
pub(crate) type Scores = HashMap<i64, QueryScore>;
/// Verdicts of a point by query.
pub(crate) type Verdicts = HashMap<i64, Verdict>;

/// A point's number and its decode settings: what responses hang on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoded {
    pub(crate) point: i64,
    pub(crate) decoding: i64,
}

/// Adds a block's scores to what is known of a point.
pub(crate) fn read_block(
    point: i64,
    block: &[u8],
    levels: usize,
    scores: &mut Scores,
) -> Result<(), StoreError> {
    codec::read_score_block(block, levels, |query, score| {
        scores.entry(query).or_insert(score);
    })
    .map_err(|error: CodecError| StoreError::corrupt(format!("a score block of point {point}"), error))
}

/// The block of those of some scores that are new at a point, and how many they are; they become known.
pub(crate) fn new_block(
    levels: usize,
    results: &[(i64, &QueryScore)],
    known: &mut Scores,
) -> (Option<Vec<u8>>, u64) {
    let mut new = Vec::with_capacity(results.len());
    for (query, score) in results {
        if let Entry::Vacant(entry) = known.entry(*query) {
            entry.insert((*score).clone());
            new.push((*query, *score));
        }
    }
    let count = new.len() as u64;
    ((count > 0).then(|| codec::score_block(levels, new)), count)
}

/// The queries of a slice, each once.
pub(crate) fn queries_of(layout: &SweepLayout, slice: QuerySlice) -> Vec<i64> {
    layout.missing(slice, |_| false).into_iter().map(|(_, query)| query).collect()
}

/// A finish reason as its column holds it.
pub(crate) fn finish_text(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// A response from its columns.
pub(crate) fn read_response(
    point: i64,
    tokens: i64,
    finish: &str,
    text: String,
) -> Result<Response, StoreError> {
    let what = || format!("a response of point {point}");
    let finish = match finish {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        other => return Err(StoreError::corrupt(what(), format!("finish reason '{other}' is unknown"))),
    };
    Ok(Response { text, tokens: narrow(tokens, what)?, finish })
}

const UNCLEAR: i64 = -1;
const REFUSED: i64 = -2;

/// A label as its column holds it.
pub(crate) fn label_number(label: Label) -> i64 {
    match label {
        Label::Level(level) => i64::from(level.0),
        Label::Unclear => UNCLEAR,
        Label::Refused => REFUSED,
    }
}

/// A verdict from its columns.
pub(crate) fn read_verdict(
    point: i64,
    label: i64,
    confidence: Option<f64>,
    reason: Option<String>,
) -> Result<Verdict, StoreError> {
    let label = match label {
        UNCLEAR => Label::Unclear,
        REFUSED => Label::Refused,
        level => Label::Level(Level(u8::try_from(level).map_err(|_| {
            StoreError::corrupt(format!("a verdict of point {point}"), format!("label {level} is unknown"))
        })?)),
    };
    Ok(Verdict { label, confidence, reason })
}

/// Everything stored at one point.
#[derive(Debug, Default)]
pub(crate) struct PointResults {
    pub(crate) scores: Scores,
    pub(crate) responses: HashMap<i64, Response>,
    pub(crate) verdicts: Verdicts,
}

impl PointResults {
    /// The results on the sweep's queries (those wanted), by ordinal, then rung.
    pub(crate) fn rows(
        mut self,
        layout: &SweepLayout,
        point: &Point,
        wanted: impl Fn(u32) -> bool,
    ) -> Vec<ResultRow> {
        let mut rows = Vec::with_capacity(self.scores.len() + self.responses.len() + self.verdicts.len());
        for ordinal in (0..layout.len() as u32).filter(|ordinal| wanted(*ordinal)) {
            let Some(query) = layout.query(ordinal) else {
                continue;
            };
            // Ordinals that share a query share its results; the last takes them out.
            let last = layout.ordinals(query).last() == Some(&ordinal);
            let values = [
                take(&mut self.scores, query, last).map(ResultValue::Score),
                take(&mut self.responses, query, last).map(ResultValue::Response),
                take(&mut self.verdicts, query, last).map(ResultValue::Verdict),
            ];
            rows.extend(values.into_iter().flatten().map(|value| ResultRow {
                point: point.clone(),
                ordinal,
                value,
            }));
        }
        rows
    }
}

fn take<T: Clone>(map: &mut HashMap<i64, T>, query: i64, remove: bool) -> Option<T> {
    match map.entry(query) {
        Entry::Occupied(entry) if remove => Some(entry.remove()),
        Entry::Occupied(entry) => Some(entry.get().clone()),
        Entry::Vacant(_) => None,
    }
}
