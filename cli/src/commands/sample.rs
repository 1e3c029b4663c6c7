//! `avsweep sample`: what the model says at a point.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use avsweep_domain::{Point, SweepDefinition, nearest_name};
use avsweep_proto::v1;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::export::label_name;
use super::run::{Crew, check_judge};
use super::sweeps::example_ordinals;
use crate::arguments::{Format, SampleArguments};
use crate::embedded::{Session, explain};
use crate::interruption;
use crate::output;

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
pub(super) async fn run(store: &Path, arguments: &SampleArguments, format: Format) -> Result<Outcome> {
    // Looking first: what is stored needs no worker, and may be read while another process works on the store.
    let session = Session::read(store).await?;
    let (progress, definition) = session.sweep(&arguments.sweep).await?;
    definition.space.check(&arguments.point)?;
    let ordinals = ordinals(&definition, &arguments.queries)?;
    let mut request = v1::RequestSampleRequest {
        sweep: progress.sweep.to_string(),
        point: Some((&arguments.point).into()),
        ordinals,
        stored_only: true,
    };
    let mut response = ask(&session, &request).await?;
    session.close().await;
    let judged = response.responses.iter().filter(|sampled| sampled.verdict.is_some()).count();
    if judged < request.ordinals.len() {
        request.stored_only = false;
        let interrupted = interruption::listen();
        let generated = generate(store, &request, &definition, arguments.threads, &interrupted).await?;
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

/// Has the missing responses generated and judged; `None` when the user interrupts.
async fn generate(
    store: &Path,
    request: &v1::RequestSampleRequest,
    definition: &SweepDefinition,
    threads: Option<u16>,
    interrupted: &CancellationToken,
) -> Result<Option<v1::RequestSampleResponse>> {
    check_judge(definition)?;
    let session = Session::work(store).await?;
    let mut outcome = ask(&session, request).await.map(Some);
    if matches!(&outcome, Ok(Some(response)) if response.pending > 0) {
        match Crew::start(&session, threads, definition) {
            Ok(crew) => {
                outcome = tokio::select! {
                    response = wait(&session, request) => response.map(Some),
                    reason = crew.failure() => Err(anyhow::anyhow!(reason)),
                    () = interrupted.cancelled() => Ok(None),
                };
                crew.stop().await;
            }
            Err(error) => outcome = Err(error),
        }
    }
    session.close().await;
    outcome
}

/// The ordinals of the named queries, or of a few per domain.
fn ordinals(definition: &SweepDefinition, ids: &[String]) -> Result<Vec<u32>> {
    if ids.is_empty() {
        return Ok(example_ordinals(definition, EXAMPLES_PER_DOMAIN));
    }
    ids.iter()
        .map(|id| {
            definition.queries().find(|entry| entry.query.id == *id).map(|entry| entry.ordinal).with_context(
                || {
                    let known: Vec<_> = definition.queries().map(|entry| entry.query.id.as_str()).collect();
                    let hint = nearest_name(id, known.iter().copied())
                        .or(known.first().copied())
                        .map_or_else(String::new, |near| format!(" (there is '{near}', for example)"));
                    format!("the sweep has no query '{id}'{hint}")
                },
            )
        })
        .collect()
}

/// Asks for the responses and has those generated that are not stored.
pub(super) async fn ask(
    session: &Session,
    request: &v1::RequestSampleRequest,
) -> Result<v1::RequestSampleResponse> {
    Ok(session.sweeps().request_sample(request.clone()).await.map_err(explain)?.into_inner())
}

async fn wait(session: &Session, request: &v1::RequestSampleRequest) -> Result<v1::RequestSampleResponse> {
    loop {
        let response = ask(session, request).await?;
        if response.pending == 0 || !response.failures.is_empty() {
            return Ok(response);
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
