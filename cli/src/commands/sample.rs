//! `avsweep sample`: what the model says at a point.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use avsweep_domain::{Point, SweepDefinition, nearest_name};
use avsweep_proto::v1;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::crew::{Crew, CrewOptions, check_judge};
use super::export::label_name;
use super::sweeps::example_ordinals;
use crate::arguments::{CacheArguments, Format, SampleArguments};
use crate::connection::{Connection, Place, explain, is_away};
use crate::embedded::Access;
use crate::interruption;
use crate::output;
use crate::usage::UsageError;

/// Queries per domain when none is named.
const EXAMPLES_PER_DOMAIN: usize = 3;

/// How often stored responses are asked for while the worker generates.
const POLL: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct SampleOutput {
    sweep: String,
    point: String,
    responses: Vec<ResponseOutput>,
}

#[derive(Serialize)]
struct ResponseOutput {
    domain: String,
    query: String,
    question: String,
    response: String,
    tokens: u32,
    level: Option<String>,
    confidence: Option<f64>,
}

/// `avsweep sample`
pub(super) async fn run(place: &Place, arguments: &SampleArguments, format: Format) -> Result<Outcome> {
    // Looking first: what is stored needs no worker, and may be read while another process works on the store.
    let connection = Connection::open(place, Access::Read).await?;
    let (progress, definition) = connection.sweep(&arguments.sweep).await?;
    definition.space.check(&arguments.point).map_err(UsageError::from_error)?;
    let ordinals = ordinals(&definition, &arguments.queries)?;
    let mut request = v1::RequestSampleRequest {
        sweep: progress.sweep.to_string(),
        point: Some((&arguments.point).into()),
        ordinals,
        stored_only: true,
    };
    let mut response = ask(&connection, &request).await?;
    let judged = response.responses.iter().filter(|sampled| sampled.verdict.is_some()).count();
    if judged < request.ordinals.len() {
        request.stored_only = false;
        let interrupted = interruption::listen().token();
        let generated = if place.is_remote() {
            wait_for_workers(&connection, &request, &interrupted).await?
        } else {
            connection.close().await;
            generate(place, &request, &definition, arguments, &interrupted).await?
        };
        let Some(generated) = generated else { return Ok(Outcome::Interrupted) };
        response = generated;
    }
    if response.responses.len() < request.ordinals.len()
        && let Some(failure) = response.failures.first()
    {
        bail!("the responses could not be generated: {failure}");
    }
    for failure in &response.failures {
        output::note(format!("not judged: {failure}"));
    }
    let sampled = collect(&definition, &arguments.point, response)?;
    output::print(format, &sampled, |sampled, out| {
        for response in &sampled.responses {
            writeln!(out, "{} · {}", response.domain, response.query)?;
            writeln!(out, "  Q  {}", response.question)?;
            let level = response.level.as_ref().map_or_else(String::new, |level| format!("  [{level}]"));
            writeln!(out, "  A  {}{level}\n", response.response.trim())?;
        }
        Ok(())
    })?;
    Ok(Outcome::Done)
}

/// Has the coordinator's workers and judges make what is missing; `None` when the user interrupts.
async fn wait_for_workers(
    connection: &Connection,
    request: &v1::RequestSampleRequest,
    interrupted: &CancellationToken,
) -> Result<Option<v1::RequestSampleResponse>> {
    let response = ask(connection, request).await?;
    if response.pending == 0 {
        return Ok(Some(response));
    }
    let workers = connection.sweeps().list_workers(v1::ListWorkersRequest {}).await.map_err(explain)?;
    let present = |kind: v1::WorkerKind| {
        workers.get_ref().workers.iter().any(|worker| {
            !worker.gone
                && worker
                    .status
                    .as_ref()
                    .is_some_and(|status| status.kind() == kind && status.state() != v1::WorkerState::Stopped)
        })
    };
    let absent = match (present(v1::WorkerKind::Worker), present(v1::WorkerKind::Judge)) {
        (true, true) => "",
        (false, true) => "; no worker is there now: start one with 'avsweep worker'",
        (true, false) => "; no judge is there now: start one with 'avsweep judge'",
        (false, false) => {
            "; neither a worker nor a judge is there now: start 'avsweep worker' and 'avsweep judge'"
        }
    };
    output::note(format!("waiting for workers to answer {} queries{absent}", response.pending));
    tokio::select! {
        response = wait(connection, request) => response.map(Some),
        () = interrupted.cancelled() => {
            output::note("the workers go on; the same command shows what they made");
            Ok(None)
        }
    }
}

/// Has the missing responses generated and judged in this process; `None` when the user interrupts.
async fn generate(
    place: &Place,
    request: &v1::RequestSampleRequest,
    definition: &SweepDefinition,
    arguments: &SampleArguments,
    interrupted: &CancellationToken,
) -> Result<Option<v1::RequestSampleResponse>> {
    check_judge(definition)?;
    let connection = Connection::open(place, Access::Work).await?;
    let mut outcome = ask(&connection, request).await.map(Some);
    if matches!(&outcome, Ok(Some(response)) if response.pending > 0) {
        let cache = CacheArguments { cache: None }.folder();
        let crew = CrewOptions {
            device: arguments.device.device,
            memory: arguments.device.memory,
            threads: arguments.threads,
            cache: &cache,
        };
        match Crew::start(&connection, crew, definition) {
            Ok(crew) => {
                outcome = tokio::select! {
                    response = wait(&connection, request) => response.map(Some),
                    reason = crew.failure() => Err(anyhow::anyhow!(reason)),
                    () = interrupted.cancelled() => Ok(None),
                };
                crew.stop().await;
            }
            Err(error) => outcome = Err(error),
        }
    }
    connection.close().await;
    outcome
}

/// The ordinals of the named queries, or of a few per domain.
fn ordinals(definition: &SweepDefinition, ids: &[String]) -> Result<Vec<u32>> {
    if ids.is_empty() {
        return Ok(example_ordinals(definition, EXAMPLES_PER_DOMAIN));
    }
    ids.iter()
        .map(|id| {
            let entry = definition.queries().find(|entry| entry.query.id == *id);
            Ok(entry.ok_or_else(|| unknown_query(definition, id))?.ordinal)
        })
        .collect()
}

fn unknown_query(definition: &SweepDefinition, id: &str) -> UsageError {
    let known: Vec<_> = definition.queries().map(|entry| entry.query.id.as_str()).collect();
    let hint = nearest_name(id, known.iter().copied())
        .or(known.first().copied())
        .map_or_else(String::new, |near| format!(" (there is '{near}', for example)"));
    UsageError::new(format!("the sweep has no query '{id}'{hint}"))
}

/// Asks for the responses and has those generated that are not stored.
pub(super) async fn ask(
    connection: &Connection,
    request: &v1::RequestSampleRequest,
) -> Result<v1::RequestSampleResponse> {
    Ok(connection.sweeps().request_sample(request.clone()).await.map_err(explain)?.into_inner())
}

/// Asks until nothing is pending. A coordinator that is away for a moment is asked again.
async fn wait(
    connection: &Connection,
    request: &v1::RequestSampleRequest,
) -> Result<v1::RequestSampleResponse> {
    loop {
        match connection.sweeps().request_sample(request.clone()).await {
            Ok(response) => {
                let response = response.into_inner();
                if response.pending == 0 || !response.failures.is_empty() {
                    return Ok(response);
                }
            }
            Err(status) if is_away(&status) => tracing::info!(reason = status.message(), "asking again"),
            Err(status) => return Err(explain(status)),
        }
        tokio::time::sleep(POLL).await;
    }
}

fn collect(
    definition: &SweepDefinition,
    point: &Point,
    response: v1::RequestSampleResponse,
) -> Result<SampleOutput> {
    let responses = response
        .responses
        .into_iter()
        .map(|sampled| {
            let entry = definition
                .queries()
                .nth(sampled.ordinal as usize)
                .with_context(|| format!("a response to query number {}", sampled.ordinal))?;
            let response = sampled.response.context("a sampled response without text")?;
            let verdict = sampled.verdict.map(avsweep_domain::Verdict::try_from).transpose()?;
            Ok(ResponseOutput {
                domain: definition.domains[entry.domain].name.clone(),
                query: entry.query.id.clone(),
                question: entry.query.question().to_owned(),
                response: response.text,
                tokens: response.tokens,
                level: verdict.as_ref().map(|verdict| label_name(verdict.label, definition)),
                confidence: verdict.and_then(|verdict| verdict.confidence),
            })
        })
        .collect::<Result<_>>()?;
    Ok(SampleOutput { sweep: definition.name.clone(), point: point.to_string(), responses })
}
