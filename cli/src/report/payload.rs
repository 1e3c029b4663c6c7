//! The numbers of a report in the compact form that the page's scripts read.
//!
//! Counts are integers in base64 (little-endian, as narrow as they allow): a 21³ grid with three domains and three
//! levels takes about 150 kB per reading.

use std::collections::BTreeSet;

use avsweep_domain::{
    Label, Normalisation, PointTallies, QuerySet, Reading, SetTallies, SweepDefinition, Ticks, Verdict,
    Wanted,
};
use serde::Serialize;

use crate::commands::convergence::ConvergenceOutput;

use super::{ExampleResponse, ReportData, TargetAnswer, embed, facts};

/// A range with more values than this is drawn by the values that were measured.
const LONGEST_AXIS: u64 = 201;

/// With more points than this only the reading the page opens on is carried, for the file's size.
const POINTS_WITH_ALL_READINGS: usize = 100_000;

/// The root of the embedded JSON.
#[derive(Debug, Serialize)]
pub(super) struct Payload<'a> {
    format: u32,
    version: &'static str,
    name: &'a str,
    generated: &'a str,
    levels: &'a [String],
    domains: Vec<Domain<'a>>,
    coefficients: Vec<Axis<'a>>,
    /// Rows of `points`.
    count: usize,
    /// Row-major [count, coefficients]: each value's index in its coefficient's `values`.
    points: Packed,
    layers: Vec<Layer>,
    /// The layer to open on.
    layer: usize,
    /// The set that `answers` report on.
    reported: &'static str,
    aggregate: String,
    answers: Vec<Answer<'a>>,
    responses: Vec<Response<'a>>,
    convergence: &'a ConvergenceOutput,
    facts: Vec<[String; 2]>,
}

#[derive(Debug, Serialize)]
struct Domain<'a> {
    name: &'a str,
    search: usize,
    confirm: usize,
}

/// A coefficient with the values it is known at, in ticks, ascending.
#[derive(Debug, Serialize)]
struct Axis<'a> {
    name: &'a str,
    vector: &'a str,
    tensors: Option<&'a [String]>,
    values: Vec<Ticks>,
    /// Indices of the `values` that maps and curves are drawn over; `None` means all.
    axis: Option<Vec<usize>>,
}

/// Unsigned integers, little-endian, `width` bytes each.
#[derive(Debug, Serialize)]
struct Packed {
    width: u8,
    data: String,
}

/// What one reading of one query set counted.
#[derive(Debug, Serialize)]
struct Layer {
    reading: &'static str,
    normalisation: Option<&'static str>,
    set: &'static str,
    /// Rows of the report's points that the layer has; `None` means all.
    rows: Option<Packed>,
    /// Queries per [row, domain].
    asked: Packed,
    /// Queries per [row, domain, level]; judged layers have `unclear` and `refused` behind the levels.
    counts: Packed,
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    /// Per domain a level's index, `"base"` or `"any"`.
    wanted: Vec<Want>,
    point: Option<&'a [Ticks]>,
    /// Per domain [count, n].
    rates: Vec<Option<[u32; 2]>>,
    judged: Vec<Option<[u32; 2]>>,
    aggregate: Option<f64>,
    achieved: Option<bool>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Want {
    Level(u8),
    Word(&'static str),
}

#[derive(Debug, Serialize)]
struct Response<'a> {
    point: &'a [Ticks],
    label: &'a str,
    domain: usize,
    id: &'a str,
    question: &'a str,
    text: &'a str,
    /// A level's index, `"unclear"` or `"refused"`.
    verdict: Option<Want>,
    confidence: Option<f64>,
    reason: Option<&'a str>,
    /// A level's index.
    likelihood: Option<u8>,
}

/// What the page is given.
pub(super) fn payload<'a>(report: &'a ReportData<'_>) -> Payload<'a> {
    let definition = report.definition;
    let measured: Vec<&PointTallies> = report.tallies.iter().filter(|point| has_results(point)).collect();
    let coefficients: Vec<_> =
        (0..definition.space.dimensions()).map(|index| axis(definition, &measured, index)).collect();
    let (layers, layer) = layers(report, &measured);
    Payload {
        format: 1,
        version: env!("CARGO_PKG_VERSION"),
        name: &definition.name,
        generated: &report.generated_at,
        levels: definition.levels.names(),
        domains: definition
            .domains
            .iter()
            .map(|domain| Domain {
                name: &domain.name,
                search: domain.search.len(),
                confirm: domain.confirm.len(),
            })
            .collect(),
        count: measured.len(),
        points: points(&measured, &coefficients),
        coefficients,
        layers,
        layer,
        reported: set_name(definition.reported_set()),
        aggregate: report.aggregate.to_string(),
        answers: report.answers.iter().map(answer).collect(),
        responses: report.responses.iter().map(response).collect(),
        convergence: &report.convergence,
        facts: facts::facts(report, measured.len())
            .into_iter()
            .map(|fact| [fact.label, fact.value])
            .collect(),
    }
}

fn has_results(point: &PointTallies) -> bool {
    [&point.search, &point.confirm].into_iter().any(|set| {
        set.likelihood.iter().flatten().any(|tally| tally.queries > 0)
            || set.judgement.iter().flatten().any(|tally| tally.queries > 0)
    })
}

fn axis<'a>(definition: &'a SweepDefinition, measured: &[&PointTallies], index: usize) -> Axis<'a> {
    let coefficient = &definition.space.coefficients()[index];
    let mut values: BTreeSet<Ticks> =
        measured.iter().filter_map(|point| point.point.values().get(index).copied()).collect();
    let short = coefficient.range.count() <= LONGEST_AXIS;
    if short {
        values.extend((0..coefficient.range.count()).filter_map(|step| coefficient.range.value(step)));
    }
    let values: Vec<Ticks> = values.into_iter().collect();
    let on_axis: Vec<usize> = values
        .iter()
        .enumerate()
        .filter(|(_, value)| coefficient.range.contains(**value))
        .map(|(position, _)| position)
        .collect();
    Axis {
        name: &coefficient.name,
        vector: definition.vectors.get(coefficient.vector).map_or("", |vector| &vector.name),
        tensors: coefficient.tensors.as_deref(),
        axis: (short && on_axis.len() < values.len()).then_some(on_axis),
        values,
    }
}

fn points(measured: &[&PointTallies], axes: &[Axis<'_>]) -> Packed {
    pack(measured.iter().flat_map(|point| {
        axes.iter().zip(point.point.values()).map(|(axis, value)| {
            // Every measured value went into its axis.
            axis.values.binary_search(value).unwrap_or_default() as u32
        })
    }))
}

/// The layers that have results, and which of them the answers were chosen by.
fn layers(report: &ReportData<'_>, measured: &[&PointTallies]) -> (Vec<Layer>, usize) {
    let readings: Vec<Reading> = if measured.len() > POINTS_WITH_ALL_READINGS {
        vec![report.reading]
    } else {
        Normalisation::ALL.into_iter().map(Reading::Likelihood).chain([Reading::Judgement]).collect()
    };
    let mut layers = Vec::new();
    let mut opening = 0;
    for reading in readings {
        for set in [QuerySet::Search, QuerySet::Confirm] {
            if let Some(layer) = layer(report.definition, measured, reading, set) {
                if reading == report.reading && set == QuerySet::Search {
                    opening = layers.len();
                }
                layers.push(layer);
            }
        }
    }
    (layers, opening)
}

fn layer(
    definition: &SweepDefinition,
    measured: &[&PointTallies],
    reading: Reading,
    set: QuerySet,
) -> Option<Layer> {
    let (levels, domains) = (definition.levels.len(), definition.domains.len());
    let mut rows = Vec::new();
    let mut asked = Vec::new();
    let mut counts: Vec<u32> = Vec::new();
    for (row, point) in measured.iter().enumerate() {
        let tallies = match set {
            QuerySet::Search => &point.search,
            QuerySet::Confirm => &point.confirm,
        };
        if (0..domains).all(|domain| tallies.counts(reading, domain).is_none()) {
            continue;
        }
        rows.push(row as u32);
        for domain in 0..domains {
            let (at_levels, n) = tallies.counts(reading, domain).unwrap_or((&[], 0));
            asked.push(n);
            counts.extend((0..levels).map(|level| at_levels.get(level).copied().unwrap_or(0)));
            if reading == Reading::Judgement {
                counts.extend(outside_levels(tallies, domain));
            }
        }
    }
    let (reading, normalisation) = match reading {
        Reading::Likelihood(Normalisation::Mean) => ("likelihood", Some("mean")),
        Reading::Likelihood(Normalisation::Sum) => ("likelihood", Some("sum")),
        Reading::Likelihood(Normalisation::PerByte) => ("likelihood", Some("per_byte")),
        Reading::Judgement => ("judgement", None),
    };
    (!rows.is_empty()).then(|| Layer {
        reading,
        normalisation,
        set: set_name(set),
        asked: pack(asked),
        counts: pack(counts),
        rows: (rows.len() < measured.len()).then(|| pack(rows)),
    })
}

/// How many of a domain's responses are unclear, and how many the judge refused.
fn outside_levels(tallies: &SetTallies, domain: usize) -> [u32; 2] {
    tallies
        .judgement
        .as_ref()
        .and_then(|domains| domains.get(domain))
        .map_or([0, 0], |tally| [tally.unclear, tally.refused])
}

fn set_name(set: QuerySet) -> &'static str {
    match set {
        QuerySet::Search => "search",
        QuerySet::Confirm => "confirm",
    }
}

fn answer(answer: &TargetAnswer) -> Answer<'_> {
    let counts = |rates: &[Option<avsweep_domain::LevelRate>]| {
        rates.iter().map(|rate| rate.map(|rate| [rate.count, rate.n])).collect()
    };
    Answer {
        wanted: answer
            .target
            .wanted()
            .iter()
            .map(|want| match want {
                Wanted::Level(level) => Want::Level(level.0),
                Wanted::AsBase => Want::Word("base"),
                Wanted::Free => Want::Word("any"),
            })
            .collect(),
        point: answer.point.as_ref().map(avsweep_domain::Point::values),
        rates: counts(&answer.rates),
        judged: counts(&answer.judged),
        aggregate: answer.aggregate,
        achieved: answer.achieved,
    }
}

fn response(response: &ExampleResponse) -> Response<'_> {
    let verdict = |verdict: &Verdict| match verdict.label {
        Label::Level(level) => Want::Level(level.0),
        Label::Unclear => Want::Word("unclear"),
        Label::Refused => Want::Word("refused"),
    };
    Response {
        point: response.point.values(),
        label: &response.point_label,
        domain: response.domain,
        id: &response.query_id,
        question: &response.question,
        text: &response.text,
        verdict: response.verdict.as_ref().map(verdict),
        confidence: response.verdict.as_ref().and_then(|verdict| verdict.confidence),
        reason: response.verdict.as_ref().and_then(|verdict| verdict.reason.as_deref()),
        likelihood: response.level_by_likelihood.map(|level| level.0),
    }
}

fn pack(numbers: impl IntoIterator<Item = u32>) -> Packed {
    let numbers: Vec<u32> = numbers.into_iter().collect();
    let width = match numbers.iter().copied().max().unwrap_or(0) {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        _ => 4,
    };
    let bytes: Vec<u8> =
        numbers.iter().flat_map(|number| number.to_le_bytes().into_iter().take(width)).collect();
    Packed { width: width as u8, data: embed::base64(&bytes) }
}
