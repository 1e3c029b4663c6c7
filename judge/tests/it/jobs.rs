//! The judge's loop against an in-memory coordinator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::{
    JudgeProvider, JudgeSettings, Label, Level, Levels, Query, Response, Verdict, WorkerId,
};
use avsweep_judge::{
    Ended, Jitter, JudgeError, LoopError, LoopOptions, LoopSummary, Meter, OnCoordinatorLost, Prices, Rate,
    run,
};
use avsweep_lease::Backoff;
use avsweep_proto::v1;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::api::{Api, Reply};
use crate::coordinator::{Coordinator, Event};

const EXPERT: &str = "Titrate to 2.5 mg every 6 hours.";

fn reference() -> JudgeSettings {
    JudgeSettings { provider: JudgeProvider::Reference { threshold: 0.35 }, rubric: String::new() }
}

fn options() -> LoopOptions {
    let mut options = LoopOptions::new(WorkerId("judge-1".to_owned()));
    let quick = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(10) };
    options.max_jobs = 2;
    options.lease_wait = Duration::from_millis(200);
    options.batch_age = Duration::from_millis(20);
    options.drain = Duration::from_secs(60);
    options.reconnect = quick;
    options.outage = quick;
    options.judge.backoff = quick;
    options
}

struct Running {
    shutdown: CancellationToken,
    task: AbortOnDropHandle<Result<LoopSummary, LoopError>>,
}

fn start(coordinator: &Coordinator, options: LoopOptions) -> Running {
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(coordinator.transport(), options, shutdown.clone()));
    Running { shutdown, task: AbortOnDropHandle::new(task) }
}

impl Running {
    async fn ended(self) -> Result<LoopSummary, LoopError> {
        tokio::time::timeout(Duration::from_secs(600), self.task).await.expect("the loop ends").unwrap()
    }

    async fn stop(self) -> LoopSummary {
        self.shutdown.cancel();
        self.ended().await.unwrap()
    }
}

#[tokio::test]
async fn every_item_is_reported_once_in_bounded_batches_and_only_the_last_finishes_the_job() {
    let coordinator = Coordinator::start();
    coordinator.set_sweep(reference(), 50);
    coordinator.add_job(1, 0..50, |ordinal| {
        if ordinal == 7 { "??".to_owned() } else { format!("{EXPERT}{}", " ".repeat(ordinal as usize)) }
    });
    let running = start(&coordinator, options());
    coordinator.wait_for("the job's end", |state| state.finished(1)).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.verdicts, summary.failed, summary.lost), (1, 50, 0, 0));
    let state = coordinator.state();
    let reports = state.reports(1);
    assert!(reports.iter().all(|(ordinals, _)| (1..=16).contains(&ordinals.len())), "{reports:?}");
    let (last, earlier) = reports.split_last().unwrap();
    assert!(last.1 && earlier.iter().all(|(_, finished)| !finished));
    assert_eq!(state.verdicts.len(), 50);
    for ((_, ordinal), (verdict, written)) in &state.verdicts {
        let wanted = if *ordinal == 7 { Label::Unclear } else { Label::Level(Level(2)) };
        assert_eq!((verdict.label, *written), (wanted, 1));
    }
    let timed =
        |event: &Event| matches!(event, Event::Report { evaluate_micros, .. } if *evaluate_micros > 0);
    assert!(state.count(timed) > 0);
}

#[tokio::test]
async fn a_definition_is_fetched_once_for_all_jobs_of_its_sweep() {
    let coordinator = Coordinator::start();
    coordinator.set_sweep(reference(), 4);
    for job in 1..=6 {
        coordinator.add_job(job, [0, 3], |_| EXPERT.to_owned());
    }
    let running = start(&coordinator, options());
    coordinator.wait_for("all jobs' ends", |state| (1..=6).all(|job| state.finished(job))).await;
    let summary = running.stop().await;
    assert_eq!(summary.finished, 6);
    // The same answer to two queries that differ: two verdicts asked for, the rest known.
    assert_eq!(summary.cache_hits, 10);
    let state = coordinator.state();
    assert_eq!(state.count(|event| matches!(event, Event::GetDefinition)), 1);
    assert!(state.count(|event| matches!(event, Event::Lease { max_jobs } if *max_jobs > 2)) == 0);
}

#[tokio::test]
async fn leases_are_renewed_while_a_judge_is_slow_and_verdicts_do_not_wait_for_it() {
    let api = Api::start_with([], |request| {
        request.response().starts_with("slow").then_some(Reply::Held("generic"))
    })
    .await;
    let coordinator = Coordinator::start();
    coordinator.state().lease_millis = 300;
    coordinator.set_sweep(api.settings(None), 3);
    coordinator.add_job(1, 0..3, |ordinal| if ordinal == 1 { "slow".to_owned() } else { "fast".to_owned() });
    let running = start(&coordinator, options());
    coordinator
        .wait_for("renewals and an early report", |state| {
            let renewals = state.count(|event| matches!(event, Event::Renew { jobs } if jobs == &[1]));
            renewals >= 3 && state.verdicts.len() == 2
        })
        .await;
    assert!(!coordinator.state().finished(1));
    api.release();
    coordinator.wait_for("the job's end", |state| state.finished(1)).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.verdicts, summary.lost), (1, 3, 0));
}

#[tokio::test]
async fn work_under_a_lost_lease_is_dropped_and_the_slot_goes_to_the_next_job() {
    let api =
        Api::start_with([], |request| request.response().starts_with("slow").then_some(Reply::Hang)).await;
    let coordinator = Coordinator::start();
    coordinator.state().lease_millis = 300;
    coordinator.set_sweep(api.settings(None), 2);
    coordinator.add_job(1, [0, 1], |ordinal| format!("slow {ordinal}"));
    coordinator.add_job(2, [0, 1], |ordinal| format!("fast {ordinal}"));
    let mut options = options();
    options.max_jobs = 1;
    let running = start(&coordinator, options);
    api.wait_for_requests(2).await;
    coordinator.state().lost.insert(1);
    coordinator.wait_for("the next job's end", |state| state.finished(2)).await;
    let summary = running.stop().await;
    assert_eq!((summary.lost, summary.finished, summary.released), (1, 1, 0));
    let state = coordinator.state();
    assert!(state.reports(1).is_empty() && state.failure(1).is_none() && !state.released(1));
}

#[tokio::test]
async fn a_report_answered_by_lost_ends_the_job_without_another_word() {
    let coordinator = Coordinator::start();
    coordinator.set_sweep(reference(), 40);
    coordinator.add_job(1, 0..40, |ordinal| format!("{EXPERT} {ordinal}"));
    coordinator.state().lost.insert(1);
    let running = start(&coordinator, options());
    coordinator.wait_for("a report", |state| !state.reports(1).is_empty()).await;
    let summary = running.stop().await;
    assert_eq!((summary.lost, summary.finished, summary.verdicts), (1, 0, 0));
    let state = coordinator.state();
    assert_eq!(state.reports(1).len(), 1);
    assert!(state.failure(1).is_none() && !state.released(1));
}

#[tokio::test]
async fn at_shutdown_a_job_that_ends_within_the_drain_time_is_finished() {
    let api = Api::start_with([], |_| Some(Reply::Held("generic"))).await;
    let coordinator = Coordinator::start();
    coordinator.set_sweep(api.settings(None), 2);
    coordinator.add_job(1, 0..2, |ordinal| format!("text {ordinal}"));
    let running = start(&coordinator, options());
    api.wait_for_requests(2).await;
    running.shutdown.cancel();
    api.release();
    let summary = running.ended().await.unwrap();
    assert_eq!((summary.finished, summary.released, summary.verdicts), (1, 0, 2));
}

#[tokio::test]
async fn at_the_end_of_the_drain_time_verdicts_are_reported_and_the_rest_is_given_back() {
    let api =
        Api::start_with([], |request| request.response().starts_with("slow").then_some(Reply::Hang)).await;
    let coordinator = Coordinator::start();
    coordinator.set_sweep(api.settings(None), 4);
    coordinator.add_job(
        1,
        0..4,
        |ordinal| {
            if ordinal == 2 { "slow".to_owned() } else { format!("fast {ordinal}") }
        },
    );
    let mut options = options();
    // The three quick verdicts come well within it, the hanging one never.
    options.drain = Duration::from_secs(2);
    // Longer than the test: only the shutdown sends them.
    options.batch_age = Duration::from_secs(3600);
    let running = start(&coordinator, options);
    api.wait_for_requests(4).await;
    let summary = running.stop().await;
    assert_eq!((summary.released, summary.finished, summary.verdicts), (1, 0, 3));
    let state = coordinator.state();
    assert!(state.released(1) && !state.finished(1));
    assert_eq!(state.verdicts.keys().map(|(_, ordinal)| *ordinal).collect::<Vec<_>>(), [0, 1, 3]);
}

#[tokio::test]
async fn one_response_that_cannot_be_judged_costs_no_other_its_verdict() {
    let api = Api::start_with([], |request| {
        request.response().contains("poison").then_some(Reply::content("no JSON"))
    })
    .await;
    let coordinator = Coordinator::start();
    coordinator.set_sweep(api.settings(None), 30);
    coordinator.add_job(
        1,
        0..30,
        |ordinal| {
            if ordinal == 0 { "poison".to_owned() } else { format!("text {ordinal}") }
        },
    );
    let running = start(&coordinator, options());
    coordinator.wait_for("the failure", |state| state.failure(1).is_some()).await;
    let summary = running.stop().await;
    assert_eq!((summary.failed, summary.finished, summary.verdicts), (1, 0, 29));
    let state = coordinator.state();
    let error = state.failure(1).unwrap();
    assert!(error.contains("query 'q0'") && error.contains("does not follow the schema"), "{error}");
    assert!(
        matches!(
            state.events.iter().rfind(|(_, event)| !matches!(event, Event::Lease { .. })),
            Some((_, Event::Fail { .. }))
        ),
        "verdicts first"
    );
    let judged: BTreeSet<u32> = state.verdicts.keys().map(|(_, ordinal)| *ordinal).collect();
    assert_eq!(judged, (1..30).collect());
}

#[tokio::test]
async fn an_outage_of_the_endpoint_is_waited_out_and_no_job_fails() {
    // More than 30 responses can take without one of them using up its 3 attempts.
    let away = std::iter::repeat_n(Reply::status(503, "down"), 80).chain(std::iter::repeat_n(Reply::Cut, 20));
    let api = Api::start(away).await;
    let coordinator = Coordinator::start();
    coordinator.set_sweep(api.settings(None), 10);
    for job in 1..=3 {
        coordinator.add_job(job, 0..10, |ordinal| format!("text {job} {ordinal}"));
    }
    let running = start(&coordinator, options());
    coordinator.wait_for("all jobs' ends", |state| (1..=3).all(|job| state.finished(job))).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.failed), (3, 0));
    assert!(summary.released >= 1, "{summary:?}");
    let state = coordinator.state();
    assert_eq!(state.verdicts.len(), 30);
    assert_eq!(state.count(|event| matches!(event, Event::Fail { .. })), 0);
}

#[tokio::test]
async fn leasing_pauses_while_the_endpoint_is_away() {
    let api = Api::start_with([], |_| Some(Reply::status(503, "down"))).await;
    let coordinator = Coordinator::start();
    coordinator.set_sweep(api.settings(None), 1);
    coordinator.add_job(1, [0], |_| "text".to_owned());
    let mut options = options();
    options.max_jobs = 1;
    // Longer than the test, but for one draw in thousands.
    options.outage = Backoff { base: Duration::from_secs(1 << 20), cap: Duration::from_secs(1 << 20) };
    let running = start(&coordinator, options);
    coordinator.wait_for("the job to be given back", |state| state.released(1)).await;
    let summary = running.stop().await;
    assert_eq!((summary.released, summary.failed), (1, 0));
    assert_eq!(coordinator.state().count(|event| matches!(event, Event::Lease { .. })), 1);
    assert_eq!(api.requests().len(), 3, "the attempts on one response");
}

#[tokio::test]
async fn an_endpoint_that_rejects_everything_ends_the_loop_and_fails_no_job() {
    let api =
        Api::start_with([], |_| Some(Reply::status(401, r#"{"error": {"message": "who are you?"}}"#))).await;
    let coordinator = Coordinator::start();
    coordinator.set_sweep(api.settings(None), 500);
    coordinator.add_job(1, 0..500, |ordinal| format!("text {ordinal}"));
    let running = start(&coordinator, options());
    let error = running.ended().await.expect_err("the loop cannot go on");
    assert!(matches!(error, LoopError::Judge(_)), "{error:?}");
    let error = avsweep_lease::error_chain(&error);
    assert!(error.contains("HTTP status 401: who are you?") && error.contains(&api.base_url), "{error}");
    let state = coordinator.state();
    assert!(state.released(1) && state.failure(1).is_none());
    assert!(api.requests().len() <= 64 + 4, "not asked for every item: {}", api.requests().len());
}

#[tokio::test]
async fn an_absent_key_ends_the_loop_with_the_variables_name() {
    let api = Api::start([]).await;
    let coordinator = Coordinator::start();
    coordinator.set_sweep(api.settings(Some("AVSWEEP_TEST_KEY_THAT_NOBODY_SETS")), 1);
    coordinator.add_job(1, [0], |_| "text".to_owned());
    let running = start(&coordinator, options());
    let error = running.ended().await.expect_err("the loop cannot go on");
    let error = avsweep_lease::error_chain(&error);
    assert!(error.contains("'AVSWEEP_TEST_KEY_THAT_NOBODY_SETS', which is not set"), "{error}");
    let state = coordinator.state();
    assert!(state.released(1) && state.failure(1).is_none());
    assert!(api.requests().is_empty());
}

#[tokio::test]
async fn a_job_that_makes_no_sense_fails_and_says_what_was_wanted() {
    let coordinator = Coordinator::start();
    coordinator.set_sweep(reference(), 3);
    let job = |number| coordinator.add_job(number, [0, 1], |_| EXPERT.to_owned());
    job(1);
    coordinator.spoil(|job| _ = job.responses.pop());
    job(2);
    coordinator.spoil(|job| job.ordinals = vec![1, 0]);
    job(3);
    coordinator.spoil(|job| job.ordinals = vec![1, 3]);
    job(4);
    coordinator.spoil(|job| job.sweep_fingerprint = vec![7; 32]);
    job(5);
    coordinator.spoil(|job| job.rung = 1);
    job(6);
    coordinator.spoil(|job| job.responses[0].finish = 0);
    job(7);
    let running = start(&coordinator, options());
    coordinator
        .wait_for("all ends", |state| (1..=6).all(|job| state.failure(job).is_some()) && state.finished(7))
        .await;
    let summary = running.stop().await;
    assert_eq!((summary.failed, summary.finished), (6, 1));
    let state = coordinator.state();
    for (job, text) in [
        (1, "LeasedJob.responses is 1 long; one response per ordinal is wanted"),
        (2, "LeasedJob.ordinals is not ascending"),
        (3, "query 3; the sweep has 3"),
        (4, "the job's is 0707"),
        (5, "LeasedJob.rung is likelihood; judgement is wanted"),
        (6, "Response.finish is 0"),
    ] {
        let error = state.failure(job).unwrap();
        assert!(error.contains(text), "{job}: {error}");
    }
}

#[tokio::test]
async fn a_coordinator_that_is_away_is_waited_for_and_every_verdict_arrives() {
    let coordinator = Coordinator::start();
    coordinator.set_sweep(reference(), 40);
    coordinator.add_job(1, 0..40, |ordinal| format!("{EXPERT} {ordinal}"));
    coordinator.state().refusals = ["lease", "lease", "get_definition", "report", "report", "report"]
        .into_iter()
        .map(|operation| (operation, Status::unavailable("away")))
        .collect();
    let running = start(&coordinator, options());
    coordinator.wait_for("the job's end", |state| state.finished(1) && state.refusals.is_empty()).await;
    coordinator.wait_for("every verdict", |state| state.verdicts.len() == 40).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.verdicts), (1, 40));
    assert!(coordinator.state().verdicts.values().all(|(_, written)| *written == 1));
}

#[tokio::test]
async fn a_coordinator_that_refuses_this_process_ends_the_loop() {
    let coordinator = Coordinator::start();
    coordinator.state().refusals = vec![("lease", Status::unauthenticated("no token"))];
    let running = start(&coordinator, options());
    let error = running.ended().await.expect_err("the loop cannot go on");
    assert!(matches!(&error, LoopError::Access(_)), "{error:?}");
    assert!(error.to_string().contains("no token") && error.to_string().contains("judge token"), "{error}");
}

#[tokio::test]
async fn a_coordinator_that_answers_only_with_internal_errors_ends_the_loop() {
    let coordinator = Coordinator::start();
    coordinator.state().refusals = vec![("lease", Status::internal("the store is broken")); 20];
    let running = start(&coordinator, options());
    let error = running.ended().await.expect_err("the loop cannot go on");
    assert!(matches!(&error, LoopError::Refused(status) if status.message().contains("broken")), "{error:?}");
}

#[tokio::test]
async fn a_response_that_never_gets_an_answer_fails_its_job_while_the_endpoint_answers_others() {
    let api =
        Api::start_with([], |request| request.response().starts_with("slow").then_some(Reply::Hang)).await;
    let mut settings = api.settings(None);
    if let JudgeProvider::Openai { timeout_seconds, max_attempts, .. } = &mut settings.provider {
        (*timeout_seconds, *max_attempts) = (1, 2);
    }
    let coordinator = Coordinator::start();
    coordinator.set_sweep(settings, 3);
    // The only one left: no other request shows that the endpoint is there.
    coordinator.add_job(1, [0], |_| "slow".to_owned());
    let running = start(&coordinator, options());
    coordinator.wait_for("the failure", |state| state.failure(1).is_some()).await;
    let summary = running.stop().await;
    assert_eq!((summary.failed, summary.released), (1, 0));
    let error = coordinator.state().failure(1).unwrap();
    assert!(error.contains("answers other requests") && error.contains("no reply within 1 s"), "{error}");
    assert_eq!(api.requests().len(), 4, "two attempts, one question whether it is there, one more attempt");
}

#[tokio::test]
async fn an_endpoint_that_answers_nothing_fails_no_job() {
    let api = Api::start_with([], |_| Some(Reply::Cut)).await;
    let coordinator = Coordinator::start();
    coordinator.set_sweep(api.settings(None), 1);
    coordinator.add_job(1, [0], |_| "text".to_owned());
    let running = start(&coordinator, options());
    coordinator.wait_for("the job to be given back", |state| state.released(1)).await;
    assert_eq!(running.stop().await.failed, 0);
    assert!(coordinator.state().failure(1).is_none());
}

/// Says the same of everything, after a while.
#[derive(Debug)]
struct MadeUp;

#[async_trait::async_trait]
impl Rate for MadeUp {
    async fn rate(
        &self,
        _levels: &Levels,
        _query: &Query,
        _response: &Response,
        meter: &Meter,
    ) -> Result<Verdict, JudgeError> {
        meter.add_call();
        meter.add_tokens(100, 10);
        tokio::time::sleep(Duration::from_secs(30)).await;
        Ok(Verdict { label: Label::Level(Level(1)), confidence: None, reason: None })
    }
}

fn made_up() -> LoopOptions {
    LoopOptions {
        provider: Some(Arc::new(MadeUp)),
        prices: Prices { input: 2.0, output: 10.0 },
        jitter: Jitter::seeded(1),
        ..LoopOptions::new(WorkerId("judge-1".to_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_made_up_provider_judges_in_paused_time_and_what_it_took_is_reported_once() {
    let coordinator = Coordinator::start();
    coordinator.set_sweep(reference(), 10);
    coordinator.add_job(1, 0..10, |ordinal| format!("text {ordinal}"));
    let mut options = made_up();
    options.idle_timeout = Some(Duration::from_secs(60));
    let began = tokio::time::Instant::now();
    let summary = start(&coordinator, options).ended().await.unwrap();
    assert_eq!((summary.finished, summary.verdicts, summary.ended), (1, 10, Ended::Idle));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(90) && took < Duration::from_secs(95), "{took:?}");
    let state = coordinator.state();
    let sum = |of: fn(&v1::Usage) -> u64| state.usages.iter().map(of).sum::<u64>();
    assert_eq!(sum(|usage| u64::from(usage.judge_calls)), 10);
    assert_eq!((sum(|usage| usage.judge_input_tokens), sum(|usage| usage.judge_output_tokens)), (1000, 100));
    assert_eq!(sum(|usage| usage.judge_spend_microdollars), 3000);
    let mut states: Vec<_> = state.statuses.iter().map(v1::WorkerStatus::state).collect();
    states.dedup();
    assert_eq!(states.last(), Some(&v1::WorkerState::Stopped));
    assert!(states.contains(&v1::WorkerState::Busy), "{states:?}");
    assert!(state.statuses.iter().all(|status| status.kind() == v1::WorkerKind::Judge));
}

#[tokio::test(start_paused = true)]
async fn a_lost_coordinator_ends_the_loop_after_its_patience_where_it_shall() {
    let coordinator = Coordinator::start();
    coordinator.state().away = true;
    let patience = Duration::from_secs(60);
    let mut options = made_up();
    options.on_coordinator_lost = OnCoordinatorLost::Stop { patience };
    let began = tokio::time::Instant::now();
    let error = start(&coordinator, options).ended().await.expect_err("it is lost");
    assert!(matches!(error, LoopError::CoordinatorLost { .. }), "{error:?}");
    let took = began.elapsed();
    assert!(took >= patience && took < patience + Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_spent_on_jobs_that_are_given_back_is_told_at_the_end() {
    let coordinator = Coordinator::start();
    coordinator.set_sweep(reference(), 10);
    coordinator.add_job(1, 0..10, |ordinal| format!("text {ordinal}"));
    let mut options = made_up();
    options.drain = Duration::from_secs(1);
    let running = start(&coordinator, options);
    // All are asked for, and no answer has come.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.released, summary.verdicts), (0, 1, 0));
    let state = coordinator.state();
    let sum = |of: fn(&v1::Usage) -> u64| state.usages.iter().map(of).sum::<u64>();
    assert_eq!(sum(|usage| u64::from(usage.judge_calls)), 10);
    assert_eq!(sum(|usage| usage.judge_input_tokens), 1000);
    assert_eq!(sum(|usage| usage.judge_spend_microdollars), 3000);
}

#[tokio::test(start_paused = true)]
async fn what_was_spent_on_a_lost_job_is_told_once() {
    let coordinator = Coordinator::start();
    coordinator.set_sweep(reference(), 10);
    coordinator.add_job(1, 0..10, |ordinal| format!("text {ordinal}"));
    let running = start(&coordinator, made_up());
    // All are asked for, and no answer has come.
    tokio::time::sleep(Duration::from_secs(10)).await;
    coordinator.state().lost.insert(1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let summary = running.stop().await;
    assert_eq!((summary.lost, summary.failed, summary.released), (1, 0, 0));
    let state = coordinator.state();
    assert_eq!(state.usages.iter().map(|usage| usage.judge_calls).sum::<u32>(), 10);
}
