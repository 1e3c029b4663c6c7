//! Strategies that decide from results, in sweeps.

use anyhow::{Context as _, bail, ensure};
use avsweep_coordinator::{Clock as _, Settings};
use avsweep_domain::{
    BayesianSettings, Coverage, FailureLimits, HierarchicalSettings, Point, SequenceSettings, Strategy,
    WorkerId,
};
use avsweep_proto::v1;
use avsweep_search::strategy::{Decision, History, Measured, Problem, next_points};
use avsweep_search::{SearchRung, finalists};
use avsweep_store::{
    Choice, PointFilter, SearchState, SqliteStore, SqliteStoreOptions, Store as _, WorkerKind, WorkerState,
    WorkerStatus,
};

use crate::searched::{Search, judged_otherwise, one_job_a_point, searched, smooth};
use crate::support::{ALL_RUNGS, lease_request};

fn bayesian(budget: u32) -> Strategy {
    Strategy::Bayesian(BayesianSettings {
        budget,
        initial: Some(8),
        min_gain: 0.0,
        ..BayesianSettings::default()
    })
}

fn hierarchical() -> Strategy {
    Strategy::Hierarchical(HierarchicalSettings { budget: Some(60), ..HierarchicalSettings::default() })
}

impl Search {
    /// Plans, then does one job; `false` at the sweep's end.
    async fn step(&self) -> anyhow::Result<bool> {
        self.cluster.coordinator.plan_once().await?;
        if let Some(job) = self.cluster.lease(&ALL_RUNGS, 1).await?.pop() {
            self.cluster.jobs().report(smooth(&self.definition, &job)?).await?;
            return Ok(true);
        }
        ensure!(self.is_done().await?, "{:?}", self.progress().await?);
        Ok(false)
    }

    async fn choices(&self) -> anyhow::Result<Vec<Choice>> {
        Ok(self.store.choices(self.sweep).await?)
    }

    /// Takes these choices, all of a sweep's, again from their records and what was measured by the end.
    async fn take_again(&self, choices: Vec<Choice>) -> anyhow::Result<()> {
        let problem = Problem::of(&self.definition);
        let by_verdicts = problem.rung() == SearchRung::Judgement;
        let points = self.store.search_points(self.sweep, PointFilter::All).await?;
        let measurement = |wanted: &Point| {
            let found = points.iter().find(|found| found.point == *wanted).context("a proposed point")?;
            let SearchState::Measured { log_probs, judged } = &found.state else {
                bail!("{wanted} is not measured");
            };
            let judged = judged.as_deref().filter(|_| by_verdicts);
            anyhow::Ok(Measured { point: &found.point, log_probs, judged })
        };
        let mut before: Vec<Point> = Vec::new();
        for choice in choices {
            assert_eq!(choice.proposed, before.len() as u64);
            let measured = before
                .iter()
                .filter(|point| !choice.pending.contains(point) && !choice.given_up.contains(point))
                .map(measurement)
                .collect::<anyhow::Result<Vec<_>>>()?;
            let history = History {
                proposed: choice.proposed,
                measured: &measured,
                pending: &choice.pending,
                given_up: &choice.given_up,
            };
            let again = next_points(&problem, &history, choice.asked as usize);
            assert_eq!(again, Decision::Propose(choice.points.clone()));
            before.extend(choice.points);
        }
        Ok(())
    }

    /// Makes it known that there are so many workers.
    async fn note_workers(&self, count: usize) -> anyhow::Result<()> {
        self.cluster.coordinator.plan_once().await?;
        for number in 0..count {
            let status = WorkerStatus {
                worker: WorkerId(format!("worker-{number}")),
                kind: WorkerKind::Worker,
                state: WorkerState::Busy,
                device: String::new(),
                host: String::new(),
                version: String::new(),
                finished: 0,
                failed: 0,
                lost: 0,
                results: 0,
                rate: 0.0,
                problem: None,
            };
            self.store.note_worker(&status, self.cluster.clock.now()).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_search_stopped_at_any_step_goes_on_with_the_same_points() -> anyhow::Result<()> {
    for strategy in [bayesian(16), hierarchical()] {
        let definition = searched(strategy);
        let folder = tempfile::tempdir()?;
        let undisturbed = Search::open(&folder.path().join("whole.db"), &definition).await?;
        let mut steps = 0;
        while undisturbed.step().await? {
            steps += 1;
        }
        let wanted = undisturbed.choices().await?;
        ensure!(wanted.len() > 10 && wanted.iter().all(|choice| choice.points.len() == 1), "{wanted:?}");
        ensure!(wanted.iter().all(|choice| choice.pending.is_empty()), "one evaluation in flight");

        // Stopped after every step, each time with the next job in a worker's hands.
        let file = folder.path().join("stopped.db");
        for _ in 0..=steps {
            let search = Search::open(&file, &definition).await?;
            search.step().await?;
            search.cluster.coordinator.plan_once().await?;
            search.cluster.lease(&ALL_RUNGS, 1).await?;
        }
        let search = Search::open(&file, &definition).await?;
        while search.step().await? {}
        assert_eq!(search.choices().await?, wanted);
    }
    Ok(())
}

#[tokio::test]
async fn every_choice_with_several_in_flight_is_taken_again_from_its_record() -> anyhow::Result<()> {
    for strategy in [bayesian(24), hierarchical()] {
        let definition = searched(strategy);
        let search = Search::in_memory(&definition).await?;
        search.note_workers(3).await?;
        let mut held = Vec::new();
        let mut turn = 0usize;
        while !search.is_done().await? {
            search.cluster.coordinator.plan_once().await?;
            held.extend(search.cluster.lease(&ALL_RUNGS, 1).await?);
            turn += 1;
            // Out of order, and sometimes none: what is in flight changes from choice to choice.
            if !held.is_empty() && (held.len() >= 3 || turn.is_multiple_of(4)) {
                let job = held.remove(turn * 7 % held.len());
                search.cluster.jobs().report(smooth(&definition, &job)?).await?;
            }
            ensure!(turn < 10_000, "the sweep does not end");
        }
        let choices = search.choices().await?;
        ensure!(
            choices.iter().any(|choice| choice.pending.len() >= 2),
            "several were in flight: {choices:?}"
        );
        search.take_again(choices).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_point_whose_jobs_are_parked_holds_nothing_up() -> anyhow::Result<()> {
    for strategy in [bayesian(14), hierarchical(), Strategy::Sobol(SequenceSettings { budget: 12, seed: 3 })]
    {
        let definition = searched(strategy);
        let settings = Settings { failure_limits: FailureLimits { lost: 1, errors: 1 }, ..one_job_a_point() };
        let store = SqliteStore::open(&SqliteStoreOptions::memory()).await?;
        let search = Search::over(store, &definition, settings).await?;
        let mut jobs = 0;
        while !search.is_done().await? {
            search.cluster.coordinator.plan_once().await?;
            for job in search.cluster.lease(&ALL_RUNGS, 1).await? {
                jobs += 1;
                if jobs % 5 == 2 && job.rung() == v1::Rung::Likelihood {
                    let lease = job.lease.clone();
                    let worker = "tester".to_owned();
                    let request =
                        v1::FailRequest { worker, lease, error: "broken".to_owned(), ..Default::default() };
                    search.cluster.jobs().fail(request).await?;
                } else {
                    search.cluster.jobs().report(smooth(&definition, &job)?).await?;
                }
            }
            ensure!(jobs < 1000, "the sweep does not end");
        }
        let points = search.store.search_points(search.sweep, PointFilter::All).await?;
        let given_up = points.iter().filter(|point| point.state == SearchState::GivenUp).count();
        ensure!(given_up >= 2, "{given_up} points given up");
        ensure!(points.iter().all(|point| point.state != SearchState::Pending));
        let best = search.cluster.best(&definition).await?;
        assert_eq!(best.points_measured, (points.len() - given_up) as u64);
    }
    Ok(())
}

#[tokio::test]
async fn without_likelihoods_points_are_chosen_by_verdicts() -> anyhow::Result<()> {
    let mut definition = searched(hierarchical());
    (definition.evaluation.likelihood, definition.evaluation.generation) = (Coverage::None, Coverage::All);
    let search = Search::in_memory(&definition).await?;
    while search.step().await? {}
    let best = search.cluster.best(&definition).await?;
    ensure!(best.answers.iter().all(|answer| answer.search_aggregate == 1.0), "{best:?}");
    Ok(())
}

#[tokio::test]
async fn where_every_point_is_judged_a_point_is_pending_until_its_verdicts_are_there() -> anyhow::Result<()> {
    let mut definition = searched(bayesian(20));
    definition.evaluation.generation = Coverage::All;
    let search = Search::in_memory(&definition).await?;
    while search.step().await? {}
    let choices = search.choices().await?;
    ensure!(choices.len() > 12, "{} choices", choices.len());
    // The next point is chosen while the judge is at the last one.
    let pending: Vec<usize> = choices.iter().map(|choice| choice.pending.len()).collect();
    assert_eq!(pending, Vec::from_iter((0..choices.len()).map(|before| before.min(1))));
    search.take_again(choices).await
}

#[tokio::test]
async fn finalists_are_chosen_by_every_verdict_however_late_the_judge_is() -> anyhow::Result<()> {
    let mut definition = searched(bayesian(40));
    definition.evaluation.generation = Coverage::All;
    let search = Search::in_memory(&definition).await?;
    let mut turns = 0;
    while !search.is_done().await? {
        turns += 1;
        ensure!(turns < 1000, "the sweep does not end");
        search.cluster.coordinator.plan_once().await?;
        let mut jobs = search.cluster.lease(&[v1::Rung::Likelihood, v1::Rung::Generation], 1).await?;
        if jobs.is_empty() {
            jobs = search.cluster.lease(&[v1::Rung::Judgement], 1).await?;
        }
        for job in jobs {
            search.cluster.jobs().report(judged_otherwise(&definition, &job)?).await?;
        }
    }
    let history = search.store.tallies(search.sweep, PointFilter::All).await?;
    let chosen = finalists(&definition, &history, 1).confirmed;
    let confirmed = history.iter().filter(|tallies| tallies.confirm.likelihood.is_some());
    assert_eq!(confirmed.map(|tallies| tallies.point.clone()).collect::<Vec<_>>(), chosen);
    Ok(())
}

#[tokio::test]
async fn a_worker_with_work_leaves_the_next_point_to_a_free_one() -> anyhow::Result<()> {
    let definition = searched(bayesian(20));
    let search = Search::in_memory(&definition).await?;
    search.note_workers(2).await?;
    search.cluster.coordinator.plan_once().await?;
    let lease = async |number: usize| {
        let request =
            v1::LeaseRequest { worker: format!("worker-{number}"), ..lease_request(&ALL_RUNGS, 4, 0) };
        anyhow::Ok(search.cluster.jobs().lease(request).await?.into_inner().jobs)
    };
    let first = lease(0).await?;
    assert_eq!((first.len(), lease(0).await?.len()), (1, 0), "two points for two workers");
    let second = lease(1).await?;
    assert_eq!(second.len(), 1);
    ensure!(first[0].point != second[0].point);
    // Both are busy: nothing is chosen ahead.
    search.cluster.coordinator.plan_once().await?;
    assert_eq!(search.store.totals(search.sweep).await?.likelihood.open(), 2);
    let report = v1::ReportRequest { worker: "worker-0".to_owned(), ..smooth(&definition, &first[0])? };
    search.cluster.jobs().report(report).await?;
    search.cluster.coordinator.plan_once().await?;
    assert_eq!((lease(1).await?.len(), lease(0).await?.len()), (0, 1));
    Ok(())
}
