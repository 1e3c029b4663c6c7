//! `avsweep report`: the sweep as one HTML file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use avsweep_domain::{Normalisation, Point, QueryScore, SweepDefinition, Verdict};
use avsweep_proto::v1;

use super::best::{self, BestOutput};
use super::sweeps::example_ordinals;
use super::{agreement, convergence, sample};
use crate::arguments::ReportArguments;
use crate::connection::{Connection, Place, explain};
use crate::embedded::Access;
use crate::output::{self, human_duration};
use crate::report::{ExampleResponse, Fact, ReportData, TargetAnswer, render};

/// Queries per domain whose responses are shown at each point.
const EXAMPLES_PER_DOMAIN: usize = 4;

/// Points of the convergence's picture.
const CONVERGENCE_STEPS: u32 = 24;

/// `avsweep report`
pub(super) async fn run(place: &Place, arguments: &ReportArguments) -> Result<()> {
    let connection = Connection::open(place, Access::Read).await?;
    let (progress, definition) = connection.sweep(&arguments.sweep).await?;
    let best = best::answers(&connection, progress.sweep, &definition, Vec::new(), arguments.aggregate, None)
        .await?;
    let mut tallies = Vec::new();
    let mut pages = connection
        .sweeps()
        .read_tallies(v1::ReadTalliesRequest { sweep: progress.sweep.to_string() })
        .await
        .map_err(explain)?
        .into_inner();
    while let Some(page) = pages.message().await.map_err(explain)? {
        for point in page.points {
            tallies.push(point.try_into()?);
        }
    }
    let responses = responses(&connection, progress.sweep, &definition, &best).await?;
    let mut facts = facts(&progress);
    if let Some(agreement) = agreement::ask(&connection, progress.sweep).await? {
        let capital = |name: String| name[..1].to_uppercase() + &name[1..];
        facts.extend(agreement.facts().into_iter().map(|(name, value)| Fact::new(capital(name), value)));
    }
    let page = render(&ReportData {
        definition: &definition,
        generated_at: chrono::Local::now().format("%Y-%m-%d %H:%M").to_string(),
        tallies: &tallies,
        reading: definition.default_reading(),
        aggregate: arguments.aggregate,
        answers: table(&definition, &best)?,
        responses,
        convergence: convergence::ask(&connection, progress.sweep, CONVERGENCE_STEPS).await?,
        facts,
    })
    .context("the report cannot be written as JSON")?;
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.html", definition.name)));
    std::fs::write(&out, page).with_context(|| format!("{}: cannot be written", out.display()))?;
    output::note(format!("wrote {}; open it in a browser", out.display()));
    Ok(())
}

fn facts(progress: &v1::SweepProgress) -> Vec<Fact> {
    let state = avsweep_domain::SweepState::try_from(progress.state())
        .map_or_else(|_| "unknown".to_owned(), |state| state.to_string());
    let spent = Duration::from_micros(progress.merge_micros + progress.evaluate_micros);
    vec![
        Fact::new("State", state),
        Fact::new("Results stored", progress.results.to_string()),
        Fact::new("Engine time", human_duration(spent)),
    ]
}

fn table(definition: &SweepDefinition, best: &BestOutput) -> Result<Vec<TargetAnswer>> {
    best.targets
        .iter()
        .map(|answer| {
            let judged: Vec<_> = answer.domains.iter().map(|domain| domain.judged).collect();
            Ok(TargetAnswer {
                target: definition.target(&answer.target)?,
                point: answer.point.clone(),
                rates: answer
                    .domains
                    .iter()
                    .map(|domain| domain.reported(best.reported_on).copied())
                    .collect(),
                judged: if judged.iter().all(Option::is_none) { Vec::new() } else { judged },
                aggregate: answer.reported_aggregate(best.reported_on),
                achieved: answer.achieved,
            })
        })
        .collect()
}

/// Stored responses at the origin and at each target's best point; nothing is generated for a report.
async fn responses(
    connection: &Connection,
    sweep: i64,
    definition: &SweepDefinition,
    best: &BestOutput,
) -> Result<Vec<ExampleResponse>> {
    let origin = Point::origin(definition.space.dimensions());
    let mut points = vec![(origin, "origin".to_owned())];
    for answer in &best.targets {
        let Some(point) = &answer.point else { continue };
        match points.iter_mut().find(|(known, _)| known == point) {
            Some((_, label)) => *label = format!("{label}; best for {}", answer.target),
            None => points.push((point.clone(), format!("best for {}", answer.target))),
        }
    }
    let ordinals = example_ordinals(definition, EXAMPLES_PER_DOMAIN);
    let mut examples = Vec::new();
    for (point, label) in points {
        let request = v1::RequestSampleRequest {
            sweep: sweep.to_string(),
            point: Some((&point).into()),
            ordinals: ordinals.clone(),
            stored_only: true,
        };
        for sampled in sample::ask(connection, &request).await?.responses {
            let Some(response) = sampled.response else { continue };
            let entry = definition
                .queries()
                .nth(sampled.ordinal as usize)
                .with_context(|| format!("a response to query number {}", sampled.ordinal))?;
            let score = sampled.score.map(QueryScore::try_from).transpose()?;
            examples.push(ExampleResponse {
                point: point.clone(),
                point_label: label.clone(),
                domain: entry.domain,
                query_id: entry.query.id.clone(),
                question: entry.query.question().to_owned(),
                text: response.text,
                verdict: sampled.verdict.map(Verdict::try_from).transpose()?,
                level_by_likelihood: score.and_then(|score| score.level(Normalisation::Mean)),
            });
        }
    }
    Ok(examples)
}
