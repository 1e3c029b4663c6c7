//! `avsweep best`: the table of targets.

use std::io::{self, Write};

use anyhow::{Context as _, Result};
use avsweep_domain::{
    Aggregate, Interval, LevelRate, Point, QuerySet, Reading, SweepDefinition, Target, Wanted,
};
use avsweep_proto::v1;
use avsweep_search::honesty::confirm_interval;
use serde::Serialize;

use crate::arguments::{BestArguments, Format};
use crate::connection::{Connection, Place, explain};
use crate::embedded::Access;
use crate::output::{self, Table};
use crate::usage::UsageError;

/// The answers for some targets of one sweep.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BestOutput {
    /// The sweep.
    pub sweep: String,
    /// The coefficients' names, in the order of a point's values.
    pub coefficients: Vec<String>,
    /// The domains' names.
    pub domains: Vec<String>,
    /// How domains are summed up.
    pub aggregate: Aggregate,
    /// The queries that rates are reported on.
    pub reported_on: QuerySet,
    /// Points whose search queries are all measured.
    pub points_measured: u64,
    /// How many of the targets are achieved.
    pub achieved: usize,
    /// One answer per target.
    pub targets: Vec<TargetOutput>,
}

/// The answer for one target.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TargetOutput {
    /// `medical=expert,legal=avoidance,financial=generic`
    pub target: String,
    /// The chosen point, `None` when nothing has been measured.
    #[serde(serialize_with = "point_text")]
    pub point: Option<Point>,
    /// Its values by coefficient.
    pub coefficients: Vec<f64>,
    /// One entry per domain.
    pub domains: Vec<DomainOutput>,
    /// Aggregate on the queries that points are chosen by.
    pub search_aggregate: f64,
    /// Aggregate on the confirm queries.
    pub confirm_aggregate: Option<f64>,
    /// Aggregate of judged responses.
    pub judged_aggregate: Option<f64>,
    /// Every domain's dominant level is the wanted one, on the reported queries.
    /// `None` when the point is not measured on them.
    pub achieved: Option<bool>,
    /// 95 % interval of the aggregate on the confirm queries: all domains' together.
    pub confirm_interval: Option<Interval>,
    /// How far the choice can be trusted; `None` where every point is measured, where a ladder's judge chose, or where no
    /// model can say.
    pub assurance: Option<AssuranceOutput>,
}

/// What is known of the points that are not measured; on the search queries, in units of the aggregate.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AssuranceOutput {
    /// That no other point of the grid is better.
    pub probability_best: f64,
    /// By how much the grid's best is expected to be better.
    pub expected_regret: f64,
    /// With 95 % probability the grid's best is better by no more than this.
    pub regret_bound: f64,
    /// The evaluation that is expected to gain most for this target.
    #[serde(serialize_with = "point_text")]
    pub next: Option<Point>,
    /// What it is expected to gain.
    pub next_gain: f64,
}

/// A point as `--point` takes it, not as ticks.
fn point_text<S: serde::Serializer>(point: &Option<Point>, serializer: S) -> Result<S::Ok, S::Error> {
    point.as_ref().map(ToString::to_string).serialize(serializer)
}

/// One domain of an answer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DomainOutput {
    /// The domain.
    pub domain: String,
    /// The level wanted, `any` where the domain is free.
    pub wanted: String,
    /// Rate on the search queries.
    pub search: Option<LevelRate>,
    /// Rate on the confirm queries.
    pub confirm: Option<LevelRate>,
    /// Rate among judged responses.
    pub judged: Option<LevelRate>,
}

impl DomainOutput {
    /// The rate to report: confirm queries where there are any.
    pub(crate) fn reported(&self, set: QuerySet) -> Option<&LevelRate> {
        match set {
            QuerySet::Confirm => self.confirm.as_ref(),
            QuerySet::Search => self.search.as_ref(),
        }
    }
}

impl TargetOutput {
    /// The aggregate to report: confirm queries where there are any.
    pub(crate) fn reported_aggregate(&self, set: QuerySet) -> Option<f64> {
        match set {
            QuerySet::Confirm => self.confirm_aggregate,
            QuerySet::Search => self.point.as_ref().map(|_| self.search_aggregate),
        }
    }
}

/// `avsweep best`
pub(super) async fn run(place: &Place, arguments: &BestArguments, format: Format) -> Result<()> {
    let connection = Connection::open(place, Access::Read).await?;
    let (progress, definition) = connection.sweep(&arguments.sweep).await?;
    let targets = if arguments.all_targets {
        Vec::new()
    } else {
        arguments
            .targets
            .iter()
            .map(|text| definition.target(text).map_err(UsageError::from_error))
            .collect::<Result<_>>()?
    };
    let reading = arguments.reading.map(Reading::from);
    let best =
        answers(&connection, progress.sweep, &definition, targets, arguments.aggregate, reading).await?;
    if let v1::SweepState::Running | v1::SweepState::Paused = progress.state() {
        let of = progress.points_planned.or(progress.points_budget);
        output::note(format!(
            "note: sweep '{}' is not done: these are the best of {} points{}, and may change",
            progress.name,
            best.points_measured,
            of.map_or_else(String::new, |of| format!(" out of {of}"))
        ));
    }
    if definition.evaluation.ladder.is_some()
        && reading.unwrap_or_else(|| definition.default_reading()) == Reading::Judgement
    {
        output::note(format!(
            "note: no P(best) by the judge: it chose among the points that the ladder judged, and nothing models the \
             others; 'avsweep sweep show {}' says how many were judged and why",
            progress.name
        ));
    }
    output::print(format, &best, write_table)
}

/// Asks for the best points of targets (of all, when the list is empty).
pub(crate) async fn answers(
    connection: &Connection,
    sweep: i64,
    definition: &SweepDefinition,
    targets: Vec<Target>,
    aggregate: Aggregate,
    reading: Option<Reading>,
) -> Result<BestOutput> {
    let request = v1::BestPointsRequest {
        sweep: sweep.to_string(),
        targets: targets.iter().map(Into::into).collect(),
        aggregate: v1::Aggregate::from(aggregate).into(),
        reading: reading.map_or(v1::Reading::Unspecified, Into::into).into(),
        assured: true,
    };
    let response = connection.sweeps().best_points(request).await.map_err(explain)?.into_inner();
    let reported_on = QuerySet::try_from(response.reported_set())?;
    let targets: Vec<_> = response
        .answers
        .into_iter()
        .map(|answer| read_answer(answer, definition, aggregate, reported_on))
        .collect::<Result<_>>()?;
    Ok(BestOutput {
        sweep: definition.name.clone(),
        coefficients: definition.space.coefficients().iter().map(|c| c.name.clone()).collect(),
        domains: definition.domain_names().into_iter().map(str::to_owned).collect(),
        aggregate,
        reported_on,
        points_measured: response.points_measured,
        achieved: targets.iter().filter(|target| target.achieved == Some(true)).count(),
        targets,
    })
}

fn read_answer(
    answer: v1::TargetAnswer,
    definition: &SweepDefinition,
    aggregate: Aggregate,
    reported_on: QuerySet,
) -> Result<TargetOutput> {
    let target = Target::try_from(answer.target.context("an answer without its target")?)?;
    let point = answer.point.map(Point::try_from).transpose()?;
    let names = definition.domain_names();
    let rate = |count: Option<v1::LevelCount>| count.map(|count| LevelRate::new(count.count, count.n));
    let counts: Option<Vec<(u32, u32)>> = answer
        .domains
        .iter()
        .filter(|domain| domain.level.is_some())
        .map(|domain| domain.confirm.as_ref().map(|confirm| (confirm.count, confirm.n)))
        .collect();
    let assurance = answer
        .assurance
        .map(|assurance| {
            anyhow::Ok(AssuranceOutput {
                probability_best: assurance.probability_best,
                expected_regret: assurance.expected_regret,
                regret_bound: assurance.regret_bound,
                next: assurance.next.map(Point::try_from).transpose()?,
                next_gain: assurance.next_gain,
            })
        })
        .transpose()?;
    let domains = answer
        .domains
        .into_iter()
        .zip(&names)
        .zip(target.wanted())
        .map(|((domain, name), want)| DomainOutput {
            domain: (*name).to_owned(),
            wanted: match want {
                Wanted::Level(level) => definition.levels.name(*level).to_owned(),
                Wanted::AsBase => "base".to_owned(),
                Wanted::Free => "any".to_owned(),
            },
            search: rate(domain.search),
            confirm: rate(domain.confirm),
            judged: rate(domain.judged),
        })
        .collect();
    Ok(TargetOutput {
        target: target.display(&names, &definition.levels).to_string(),
        coefficients: point.as_ref().map(Point::to_f64).unwrap_or_default(),
        point,
        domains,
        search_aggregate: answer.search_aggregate,
        confirm_aggregate: answer.confirm_aggregate,
        judged_aggregate: answer.judged_aggregate,
        achieved: answer.achieved,
        confirm_interval: counts
            // The queries that a point was chosen by say nothing that would hold for others.
            .filter(|counts| !counts.is_empty() && reported_on == QuerySet::Confirm)
            .map(|counts| confirm_interval(aggregate, &counts)),
        assurance,
    })
}

/// Draws the table of targets.
///
/// # Errors
/// When `out` cannot be written.
pub(crate) fn write_table(best: &BestOutput, out: &mut dyn Write) -> io::Result<()> {
    let judged = best.targets.iter().any(|target| target.judged_aggregate.is_some());
    let assured = best.targets.iter().any(|target| target.assurance.is_some());
    let width = best
        .targets
        .iter()
        .flat_map(|target| &target.domains)
        .map(|domain| abbreviated(&domain.wanted).chars().count())
        .max()
        .unwrap_or(0);
    let mut headings = best.domains.clone();
    headings.push(best.coefficients.join(","));
    headings.push(best.aggregate.to_string());
    if judged {
        headings.push("judged".to_owned());
    }
    if assured {
        headings.extend(["P(best)".to_owned(), "regret ≤".to_owned()]);
    }
    headings.push("hit".to_owned());
    let mut table = Table::new(headings);
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
    for target in &best.targets {
        let mut row: Vec<String> = target
            .domains
            .iter()
            .map(|domain| match domain.wanted.as_str() {
                "any" => "any".to_owned(),
                wanted => {
                    let rate = domain.reported(best.reported_on);
                    // Beside the assurance there is room for one interval.
                    let rate = if assured { number(rate.map(|rate| rate.rate)) } else { short_rate(rate) };
                    format!("{:width$} {rate}", abbreviated(wanted))
                }
            })
            .collect();
        row.push(target.point.as_ref().map_or_else(|| "–".to_owned(), ToString::to_string));
        let aggregate = number(target.reported_aggregate(best.reported_on));
        row.push(match &target.confirm_interval {
            Some(interval) if assured => {
                format!("{aggregate} {}–{}", short(interval.low), short(interval.high))
            }
            _ => aggregate,
        });
        if judged {
            row.push(number(target.judged_aggregate));
        }
        if assured {
            let assurance = target.assurance.as_ref();
            row.push(number(assurance.map(|assurance| assurance.probability_best)));
            row.push(number(assurance.map(|assurance| assurance.regret_bound)));
        }
        row.push(
            match target.achieved {
                Some(true) => "yes",
                Some(false) => "no",
                None => "–",
            }
            .to_owned(),
        );
        table.row(row);
    }
    table.write(out)?;
    let counts: Vec<u32> = best
        .targets
        .iter()
        .flat_map(|target| &target.domains)
        .filter_map(|domain| domain.reported(best.reported_on).map(|rate| rate.n))
        .collect();
    let n = match (counts.iter().min(), counts.iter().max()) {
        (Some(least), Some(most)) if least == most => format!("; n = {least} per domain"),
        (Some(least), Some(most)) => format!("; n = {least} to {most} per domain"),
        _ => String::new(),
    };
    let set = match best.reported_on {
        QuerySet::Confirm => "confirm queries, which no point was chosen by",
        QuerySet::Search => "search queries, which points were chosen by (there are no confirm queries)",
    };
    writeln!(
        out,
        "{} of {} targets hit (every domain's dominant level is the wanted one). \
         Rates of the wanted level with 95 % intervals, on the {set}{n}. {} points measured.",
        best.achieved,
        best.targets.len(),
        best.points_measured
    )?;
    let unmeasured = best.targets.iter().filter(|target| target.point.is_some() && target.achieved.is_none());
    match unmeasured.count() {
        0 => {}
        count => writeln!(
            out,
            "Not measured on these queries: the best points of {count} targets, which are no hit and no miss. A sweep \
             measures the best points of targets that name a level for every domain; 'avsweep sample' shows others."
        )?,
    }
    if assured { write_assurance(best, out) } else { Ok(()) }
}

/// What the columns of the assurance mean, and what to evaluate next.
fn write_assurance(best: &BestOutput, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "P(best): the probability that no other point of the grid is better on the search queries; regret: with 95 % \
         probability the best one is better by no more than this."
    )?;
    let next = best
        .targets
        .iter()
        .filter_map(|target| {
            let assurance = target.assurance.as_ref()?;
            Some((target, assurance.next.as_ref()?, assurance.next_gain))
        })
        .max_by(|left, right| left.2.total_cmp(&right.2));
    match next {
        Some((target, point, gain)) => {
            writeln!(out, "Most useful next: {point}, expected to gain {gain:.4} for {}.", target.target)
        }
        None => writeln!(out, "No further evaluation is expected to gain anything."),
    }
}

/// A level's name, cut where 27 rows of three would not fit a terminal's 100 columns.
fn abbreviated(level: &str) -> String {
    if level.chars().count() <= 7 {
        return level.to_owned();
    }
    level.chars().take(5).chain(['.']).collect()
}

/// `.95`, `1.0`
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    match text.strip_prefix('0') {
        Some(fraction) => fraction.to_owned(),
        None => format!("{value:.1}"),
    }
}

/// `.95 .76–.99`
fn short_rate(rate: Option<&LevelRate>) -> String {
    rate.map_or_else(
        || "–".to_owned(),
        |rate| format!("{:3} {}–{}", short(rate.rate), short(rate.interval.low), short(rate.interval.high)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_is_not_measured_on_the_reported_queries_is_no_miss() {
        let target = TargetOutput {
            target: "medical=expert,legal=any".to_owned(),
            point: Some("1,-0.8".parse().expect("a point")),
            coefficients: vec![1.0, -0.8],
            domains: Vec::new(),
            search_aggregate: 1.0,
            confirm_aggregate: None,
            judged_aggregate: None,
            achieved: None,
            confirm_interval: None,
            assurance: None,
        };
        let best = BestOutput {
            sweep: "s".to_owned(),
            coefficients: vec!["alpha".to_owned(), "beta".to_owned()],
            domains: vec!["medical".to_owned(), "legal".to_owned()],
            aggregate: Aggregate::Min,
            reported_on: QuerySet::Confirm,
            points_measured: 47,
            achieved: 0,
            targets: vec![target],
        };
        let mut table = Vec::new();
        write_table(&best, &mut table).expect("memory");
        let table = String::from_utf8(table).expect("text");
        assert!(table.contains("the best points of 1 targets, which are no hit and no miss"), "{table}");
    }
}
