//! `avsweep export --format grid`: what a full grid measured, as one file to replay searches against.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use avsweep_domain::{
    Coverage, Label, Normalisation, Point, PointTallies, QueryScore, SetTallies, Strategy, SweepDefinition,
};
use avsweep_proto::v1;
use avsweep_search::DomainShape;
use avsweep_search::record::{DEFAULT_QUANTUM, GridBuilder, RecordedGrid, UNCLEAR};

use super::{ResultValue, read_value};
use crate::connection::{Connection, explain};
use crate::output;
use crate::usage::UsageError;

/// Writes the recorded grid of a sweep whose every grid point is measured.
pub(super) async fn write(
    connection: &Connection,
    sweep: i64,
    definition: &SweepDefinition,
    out: Option<&Path>,
) -> Result<()> {
    if out.is_none() && io::stdout().is_terminal() {
        return Err(UsageError::new("a recorded grid is no text: name a file with --out").into());
    }
    let name = &definition.name;
    ensure!(
        definition.evaluation.likelihood != Coverage::None,
        "sweep '{name}' measures no likelihoods (evaluation.likelihood: none); a recorded grid is made of them"
    );
    let measured = measured(connection, sweep, definition).await?;
    complain_of_missing(definition, &measured)?;
    let judged = measured.values().all(|judged| *judged);
    let grid = read(connection, sweep, definition, judged).await?;
    let bytes = match out {
        Some(path) => {
            grid.write(path, DEFAULT_QUANTUM)?;
            std::fs::metadata(path).with_context(|| format!("{}", path.display()))?.len()
        }
        None => {
            let bytes = grid.to_bytes(DEFAULT_QUANTUM)?;
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("stdout")?;
            bytes.len() as u64
        }
    };
    let queries: usize = grid.domains().iter().map(|domain| domain.queries).sum();
    output::note(format!(
        "wrote {}: {} points, {queries} queries, {} levels{}; {:.1} kB",
        out.map_or_else(|| "stdout".to_owned(), |path| path.display().to_string()),
        grid.points(),
        grid.levels().len(),
        if judged { ", judged" } else { "" },
        bytes as f64 / 1e3
    ));
    Ok(())
}

/// The grid's points whose search queries all have likelihoods, and whether their responses are all judged.
async fn measured(
    connection: &Connection,
    sweep: i64,
    definition: &SweepDefinition,
) -> Result<BTreeMap<Point, bool>> {
    let request = v1::ReadTalliesRequest { sweep: sweep.to_string() };
    let mut pages = connection.sweeps().read_tallies(request).await.map_err(explain)?.into_inner();
    let mut measured = BTreeMap::new();
    while let Some(page) = pages.message().await.map_err(explain)? {
        for tallies in page.points {
            let PointTallies { point, search, .. } = tallies.try_into()?;
            // Samples may lie between the grid's points.
            if definition.space.on_grid(&point) && all_scored(definition, &search) {
                measured.insert(point, all_judged(definition, &search));
            }
        }
    }
    Ok(measured)
}

/// Whether every search query has a likelihood.
fn all_scored(definition: &SweepDefinition, tallies: &SetTallies) -> bool {
    tallies
        .likelihood
        .as_ref()
        .is_some_and(|domains| all(definition, domains.iter().map(|tally| tally.queries)))
}

/// Whether every search query's response is judged, also as unclear.
fn all_judged(definition: &SweepDefinition, tallies: &SetTallies) -> bool {
    tallies
        .judgement
        .as_ref()
        .is_some_and(|domains| all(definition, domains.iter().map(|tally| tally.queries)))
}

fn all(definition: &SweepDefinition, counted: impl ExactSizeIterator<Item = u32>) -> bool {
    let wanted = definition.domains.iter().map(|domain| domain.search.len());
    counted.len() == definition.domains.len()
        && counted.zip(wanted).all(|(found, wanted)| found as usize == wanted)
}

fn complain_of_missing(definition: &SweepDefinition, measured: &BTreeMap<Point, bool>) -> Result<()> {
    let wanted = definition.space.grid_size()?;
    let missing = wanted - measured.len() as u64;
    if missing == 0 {
        return Ok(());
    }
    let absent = definition.space.grid().filter(|point| !measured.contains_key(point));
    let examples: Vec<String> = absent.take(3).map(|point| format!("({point})")).collect();
    let name = &definition.name;
    let advice = match definition.strategy {
        Strategy::Grid if definition.evaluation.racing.is_some() => {
            "racing gives points up before all their queries are asked: give a copy of the sweep file another name and \
             no evaluation.racing, and run that; what is measured already is not measured again"
                .to_owned()
        }
        Strategy::Grid => format!(
            "run the sweep to its end ('avsweep sweep show {0}' says how far it is; where jobs failed for good, \
             'avsweep jobs retry {0}' tries them again)",
            output::shell(name)
        ),
        _ => format!(
            "strategy '{}' measures some points only: give a copy of the sweep file another name and strategy: \
             {{kind: grid}}, and run that; what is measured already is not measured again",
            definition.strategy.kind()
        ),
    };
    bail!(
        "sweep '{name}': {missing} of the grid's {wanted} points are not measured on all search queries, the first of \
         them {}: {advice}",
        examples.join(", ")
    )
}

/// Reads all points, page by page.
async fn read(
    connection: &Connection,
    sweep: i64,
    definition: &SweepDefinition,
    judged: bool,
) -> Result<RecordedGrid> {
    let domains: Vec<DomainShape> = definition
        .domains
        .iter()
        .map(|domain| DomainShape { name: domain.name.clone(), queries: domain.search.len() })
        .collect();
    let queries = domains.iter().map(|domain| domain.queries).sum();
    let mut builder = GridBuilder::new(definition.space.clone(), definition.levels.clone(), domains)?;
    let request = v1::ReadResultsRequest { sweep: sweep.to_string() };
    let mut pages = connection.sweeps().read_results(request).await.map_err(explain)?.into_inner();
    let mut reading: Option<PointReading> = None;
    let bar = output::counting_bar("points", definition.space.grid_size().ok());
    while let Some(page) = pages.message().await.map_err(explain)? {
        for row in page.rows {
            let ordinal = row.ordinal as usize;
            // Search queries come first; confirm queries and points between the grid's are no part of it.
            if ordinal >= queries {
                continue;
            }
            let point = Point::try_from(row.point.context("a result without its point")?)?;
            if reading.as_ref().is_none_or(|reading| reading.point != point) {
                let next = PointReading::new(point, queries, judged);
                if let Some(whole) = reading.replace(next) {
                    whole.add_to(&mut builder, definition)?;
                    bar.inc(1);
                }
            }
            if let Some(reading) = &mut reading {
                reading.take(ordinal, &read_value(row.result)?);
            }
        }
    }
    if let Some(last) = reading {
        last.add_to(&mut builder, definition)?;
    }
    bar.finish_and_clear();
    Ok(builder.build()?)
}

/// The results of the point whose rows are being read.
struct PointReading {
    point: Point,
    /// By ordinal; empty while a query's row has not come.
    log_probs: Vec<Vec<f32>>,
    /// By ordinal; `None` where judged levels are not recorded.
    judged: Option<Vec<u8>>,
}

impl PointReading {
    fn new(point: Point, queries: usize, judged: bool) -> Self {
        Self { point, log_probs: vec![Vec::new(); queries], judged: judged.then(|| vec![UNCLEAR; queries]) }
    }

    fn take(&mut self, ordinal: usize, value: &ResultValue) {
        match value {
            ResultValue::Score(scores) => self.log_probs[ordinal] = mean_log_probs(scores),
            ResultValue::Verdict(verdict) => {
                if let Some(judged) = &mut self.judged {
                    judged[ordinal] = match verdict.label {
                        Label::Level(level) => level.0,
                        Label::Unclear | Label::Refused => UNCLEAR,
                    };
                }
            }
            ResultValue::Response(_) => {}
        }
    }

    fn add_to(self, builder: &mut GridBuilder, definition: &SweepDefinition) -> Result<()> {
        if definition.space.on_grid(&self.point) {
            builder.add(&self.point, &self.log_probs.concat(), self.judged.as_deref())?;
        }
        Ok(())
    }
}

/// Mean log-probabilities per token in single precision, whose first largest is the query's level still.
fn mean_log_probs(scores: &QueryScore) -> Vec<f32> {
    let mut means: Vec<f32> = scores.0.iter().map(|score| Normalisation::Mean.apply(score) as f32).collect();
    if let Some(level) = scores.level(Normalisation::Mean) {
        let (lower, rest) = means.split_at_mut(level.index());
        // Rounding can make a tie of what was less, and of a tie the lower level would win.
        for mean in lower.iter_mut().filter(|mean| **mean >= rest[0]) {
            *mean = rest[0].next_down();
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use avsweep_domain::ReferenceScore;

    use super::*;

    #[test]
    fn rounding_keeps_the_level_of_a_near_tie() {
        let score = |log_prob_sum| ReferenceScore { log_prob_sum, tokens: 1, bytes: 1 };
        let scores = QueryScore(vec![score(-1.000_000_001), score(-1.0), score(-1.0)]);
        let means = mean_log_probs(&scores);
        assert!(means[0] < means[1] && means[1] == means[2], "{means:?}");
        assert_eq!(scores.level(Normalisation::Mean).map(avsweep_domain::Level::index), Some(1));
    }
}
