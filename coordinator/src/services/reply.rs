//! What the store and the use cases return, as messages.

use std::time::Duration;

use avsweep_domain::{LevelRate, Rung};
use avsweep_proto::v1;
use avsweep_search::honesty::{Assurance, Convergence};
use avsweep_search::ladder::{Agreement, Climb};
use avsweep_search::{Answer, BestPoint, DomainAnswer};
use avsweep_store::{
    JobRecord, LeaseStatus, LeasedJob, ResultRow, ResultValue, RungCounts, Timestamp, WorkerJob, WorkerKind,
    WorkerState, WorkerStatus,
};

use crate::application::agreement::Rungs;
use crate::application::answering::Answers;
use crate::application::workers::SeenWorker;
use crate::{Progress, Sample, SampledResponse};

pub(super) fn lease_status(status: LeaseStatus) -> i32 {
    let wire = match status {
        LeaseStatus::Held => v1::LeaseStatus::Held,
        LeaseStatus::Lost => v1::LeaseStatus::Lost,
    };
    wire.into()
}

pub(super) fn leased_job(job: LeasedJob, blocks: Vec<u32>, lease_millis: u32) -> v1::LeasedJob {
    let reference = job.lease.reference;
    v1::LeasedJob {
        lease: Some(v1::LeaseRef {
            job: reference.job.0,
            attempt: reference.attempt,
            token: reference.token.as_bytes().to_vec(),
        }),
        sweep: job.sweep.0,
        sweep_fingerprint: job.sweep_fingerprint.as_bytes().to_vec(),
        rung: v1::Rung::from(job.rung).into(),
        point: Some((&job.point).into()),
        ordinals: job.ordinals,
        responses: job.responses.iter().map(Into::into).collect(),
        lease_millis,
        blocks,
    }
}

fn rung_progress(rung: Rung, counts: &RungCounts) -> v1::RungProgress {
    v1::RungProgress {
        rung: v1::Rung::from(rung).into(),
        ready: counts.ready,
        leased: counts.leased,
        done: counts.done,
        parked: counts.parked,
        raced: counts.raced,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn progress(progress: &Progress) -> v1::SweepProgress {
    let (record, totals) = (&progress.record, &progress.totals);
    v1::SweepProgress {
        sweep: record.id.0,
        name: record.definition.name.clone(),
        state: v1::SweepState::from(record.state).into(),
        fingerprint: record.fingerprint.as_bytes().to_vec(),
        points_planned: progress.points_planned,
        points_budget: progress.points_budget,
        points_done: progress.points_done,
        rungs: vec![
            rung_progress(Rung::Likelihood, &totals.likelihood),
            rung_progress(Rung::Generation, &totals.generation),
            rung_progress(Rung::Judgement, &totals.judgement),
        ],
        results: totals.results,
        load_micros: micros(totals.timings.load),
        merge_micros: micros(totals.timings.merge),
        evaluate_micros: micros(totals.timings.evaluate),
        duplicate_results: totals.duplicate_results,
        created_at: record.created_at.0.div_euclid(1000),
        strategy: record.definition.strategy.kind().to_owned(),
        priority: record.priority,
        workers: totals.holders,
        failures: totals.lost + totals.errors,
        points_per_second: progress.points_per_second,
        seconds_left: progress.seconds_left,
        points_raced: progress.points_raced(),
        evaluations_saved: totals.saved,
    }
}

pub(super) fn result_row(row: &ResultRow) -> v1::ResultRow {
    use v1::result_row::Result as Wire;
    v1::ResultRow {
        point: Some((&row.point).into()),
        ordinal: row.ordinal,
        result: Some(match &row.value {
            ResultValue::Score(score) => Wire::Score(score.into()),
            ResultValue::Response(response) => Wire::Response(response.into()),
            ResultValue::Verdict(verdict) => Wire::Verdict(verdict.into()),
        }),
    }
}

fn level_count(rate: &LevelRate) -> v1::LevelCount {
    v1::LevelCount { count: rate.count, n: rate.n }
}

fn domain_answer(domain: &DomainAnswer) -> v1::DomainAnswer {
    v1::DomainAnswer {
        level: domain.level.map(|level| u32::from(level.0)),
        search: domain.search.as_ref().map(level_count),
        confirm: domain.reported.as_ref().map(level_count),
        judged: domain.judged.as_ref().map(level_count),
    }
}

fn assurance(assurance: &Assurance) -> v1::Assurance {
    let (next, next_gain) = assurance.next.as_ref().map(|(point, gain)| (point.into(), *gain)).unzip();
    v1::Assurance {
        probability_best: assurance.probability_best,
        expected_regret: assurance.expected_regret,
        regret_bound: assurance.regret_bound,
        next,
        next_gain: next_gain.unwrap_or_default(),
    }
}

fn target_answer((answer, sure): (&Answer, &Option<Assurance>)) -> v1::TargetAnswer {
    let target = Some((&answer.target).into());
    let Some(BestPoint { id, point, domains, search, reported, judged, achieved }) = &answer.best else {
        return v1::TargetAnswer { target, ..v1::TargetAnswer::default() };
    };
    v1::TargetAnswer {
        target,
        point: Some(point.into()),
        point_id: id.0,
        domains: domains.iter().map(domain_answer).collect(),
        search_aggregate: *search,
        confirm_aggregate: *reported,
        judged_aggregate: *judged,
        achieved: *achieved,
        assurance: sure.as_ref().map(assurance),
    }
}

pub(super) fn best_points(answers: &Answers) -> v1::BestPointsResponse {
    v1::BestPointsResponse {
        answers: answers.answers.iter().zip(&answers.assurances).map(target_answer).collect(),
        reported_set: v1::QuerySet::from(answers.reported_set).into(),
        reading: v1::Reading::from(answers.reading).into(),
        points_measured: answers.points_measured,
    }
}

pub(super) fn convergence(steps: &[Convergence]) -> v1::ConvergenceResponse {
    let step = |step: &Convergence| v1::ConvergenceStep {
        evaluations: step.evaluations as u64,
        expected_worst: step.expected_worst,
        expected_mean: step.expected_mean,
        bound_worst: step.bound_worst,
        targets_certain: u32::try_from(step.certain).unwrap_or(u32::MAX),
    };
    v1::ConvergenceResponse {
        steps: steps.iter().map(step).collect(),
        targets: steps.last().map_or(0, |step| u32::try_from(step.targets).unwrap_or(u32::MAX)),
    }
}

pub(super) fn agreement(rungs: &Rungs) -> v1::AgreementResponse {
    let domain = |domain: &Agreement| v1::DomainAgreement {
        domain: domain.domain.clone(),
        points: domain.points as u64,
        rank_correlation: domain.rank_correlation,
    };
    let climb = |(climb, judged): &(Climb, u64)| v1::Climb {
        points: climb.points as u64,
        first: climb.first.len() as u64,
        correlation: climb.correlation,
        share: climb.share,
        per_target: climb.per_target as u64,
        wanted: climb.judged.len() as u64,
        judged: *judged,
        is_cut: climb.is_cut,
    };
    v1::AgreementResponse {
        domains: rungs.agreement.iter().map(domain).collect(),
        climb: rungs.climb.as_ref().map(climb),
    }
}

fn sampled_response(sampled: &SampledResponse) -> v1::SampledResponse {
    v1::SampledResponse {
        ordinal: sampled.ordinal,
        response: Some((&sampled.response).into()),
        verdict: sampled.verdict.as_ref().map(Into::into),
        score: sampled.score.as_ref().map(Into::into),
    }
}

pub(super) fn sample(sample: Sample) -> v1::RequestSampleResponse {
    v1::RequestSampleResponse {
        responses: sample.responses.iter().map(sampled_response).collect(),
        pending: sample.pending,
        failures: sample.failures,
    }
}

pub(super) fn job(record: JobRecord, now: Timestamp) -> v1::Job {
    let lease_left = record.expires.map(|expires| expires.0.saturating_sub(now.0));
    v1::Job {
        job: record.id.0,
        sweep: record.sweep.0,
        rung: v1::Rung::from(record.job.rung).into(),
        point: Some((&record.job.point).into()),
        queries: u32::try_from(record.job.slice.len()).unwrap_or(u32::MAX),
        state: v1::JobState::from(record.state).into(),
        attempt: record.attempt,
        worker: record.worker.map(|worker| worker.0),
        lease_millis_left: lease_left,
        lost: record.lost,
        errors: record.errors,
        last_error: record.last_error,
    }
}

fn worker_status(status: WorkerStatus) -> v1::WorkerStatus {
    let kind = match status.kind {
        WorkerKind::Worker => v1::WorkerKind::Worker,
        WorkerKind::Judge => v1::WorkerKind::Judge,
    };
    let state = match status.state {
        WorkerState::Idle => v1::WorkerState::Idle,
        WorkerState::Busy => v1::WorkerState::Busy,
        WorkerState::Draining => v1::WorkerState::Draining,
        WorkerState::Stopped => v1::WorkerState::Stopped,
    };
    v1::WorkerStatus {
        worker: status.worker.0,
        kind: kind.into(),
        state: state.into(),
        device: status.device,
        host: status.host,
        version: status.version,
        finished: status.finished,
        failed: status.failed,
        lost: status.lost,
        results: status.results,
        results_per_second: status.rate,
        problem: status.problem,
        // The process's own business.
        instance: 0,
    }
}

fn worker_job(job: &WorkerJob) -> v1::WorkerJob {
    v1::WorkerJob {
        job: job.id.0,
        sweep: job.sweep.0,
        rung: v1::Rung::from(job.rung).into(),
        point: Some((&job.point).into()),
    }
}

pub(super) fn worker(seen: SeenWorker) -> v1::Worker {
    let SeenWorker { record, ago, gone } = seen;
    v1::Worker {
        first_seen_at: record.first_seen.0.div_euclid(1000),
        seen_millis_ago: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX),
        gone,
        jobs: record.jobs.iter().map(worker_job).collect(),
        status: Some(worker_status(record.status)),
    }
}
