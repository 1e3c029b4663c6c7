//! Sweeps whose points are raced.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use avsweep_domain::{Coverage, Message, Query, Racing, Role, Strategy, SweepDefinition};
use avsweep_proto::v1;
use avsweep_store::{PointFilter, SearchState, Store as _};

use crate::searched::{Search, searched, smooth};
use crate::support::ALL_RUNGS;

const CERTAIN: Racing = Racing { block: 4, error: 0.0, seed: 3 };

/// 441 points, 20 search queries in each of two domains; nothing is generated.
fn definition(strategy: Strategy, racing: Option<Racing>) -> SweepDefinition {
    let mut definition = searched(strategy);
    for domain in &mut definition.domains {
        let query = |index: usize| Query {
            id: format!("{}-s{index}", domain.name),
            messages: vec![Message { role: Role::User, content: format!("{} {index}?", domain.name) }],
            references: ["no", "well", "yes"].map(str::to_owned).to_vec(),
        };
        domain.search = (0..20).map(query).collect();
        domain.confirm.clear();
    }
    definition.evaluation.generation = Coverage::None;
    definition.evaluation.racing = racing;
    definition.check().expect("a valid definition");
    definition
}

impl Search {
    /// Evaluates a job block by block for as long as it is wanted, at most so many blocks. Returns the evaluations.
    async fn race_on(&self, job: &v1::LeasedJob, blocks: usize) -> anyhow::Result<u64> {
        let whole = smooth(&self.definition, job)?;
        let Some(v1::report_request::Results::Scores(scores)) = &whole.results else {
            ensure!(self.cluster.work(&self.definition, job).await?, "the lease was lost");
            return Ok(job.ordinals.len() as u64);
        };
        let lengths =
            if job.blocks.is_empty() { vec![job.ordinals.len() as u32] } else { job.blocks.clone() };
        ensure!(lengths.iter().sum::<u32>() as usize == job.ordinals.len(), "{job:?}");
        let mut done = 0;
        for length in lengths.into_iter().take(blocks) {
            let results = scores.results[done..done + length as usize].to_vec();
            done += length as usize;
            let report = v1::ReportRequest {
                results: Some(v1::report_request::Results::Scores(v1::ScoreResults { results })),
                finished: done == job.ordinals.len(),
                block_done: true,
                ..whole.clone()
            };
            let answer = self.cluster.jobs().report(report).await?.into_inner();
            ensure!(answer.status() == v1::LeaseStatus::Held, "the lease was lost");
            if answer.rest_unwanted {
                break;
            }
        }
        Ok(done as u64)
    }

    /// One worker, to the sweep's end. Returns the evaluations.
    async fn race(&self) -> anyhow::Result<u64> {
        let mut evaluations = 0;
        for _ in 0..2000 {
            self.cluster.coordinator.plan_once().await?;
            match self.cluster.lease(&ALL_RUNGS, 1).await?.pop() {
                Some(job) => evaluations += self.race_on(&job, usize::MAX).await?,
                None if self.is_done().await? => return Ok(evaluations),
                None => {}
            }
        }
        anyhow::bail!("the sweep is not done: {:?}", self.progress().await?)
    }

    async fn raced_points(&self) -> anyhow::Result<BTreeSet<String>> {
        let points = self.store.search_points(self.sweep, PointFilter::All).await?;
        let raced = points.into_iter().filter(|point| point.state == SearchState::Raced);
        Ok(raced.map(|point| point.point.to_string()).collect())
    }
}

#[tokio::test]
async fn a_raced_grid_has_the_same_answers_for_fewer_evaluations() -> anyhow::Result<()> {
    let whole = Search::in_memory(&definition(Strategy::Grid, None)).await?;
    let all = whole.race().await?;
    assert_eq!(all, 441 * 40);
    let answers = |best: v1::BestPointsResponse| -> Vec<_> {
        best.answers.into_iter().map(|answer| (answer.target, answer.point, answer.domains)).collect()
    };
    let wanted = answers(whole.cluster.best(&whole.definition).await?);

    for error in [0.0, 0.05] {
        let raced = definition(Strategy::Grid, Some(Racing { error, ..CERTAIN }));
        let raced = Search::in_memory(&raced).await?;
        let evaluations = raced.race().await?;
        let progress = raced.progress().await?;
        assert_eq!(answers(raced.cluster.best(&raced.definition).await?), wanted, "error {error}");
        assert!(evaluations < all * 3 / 4, "{evaluations} of {all} at error {error}");
        assert_eq!(progress.points_done + progress.points_raced, 441);
        assert_eq!(evaluations + progress.evaluations_saved, all);
        assert_eq!((progress.results, progress.duplicate_results), (evaluations, 0));
        assert_eq!(raced.raced_points().await?.len() as u64, progress.points_raced);
        let parked: u64 = progress.rungs.iter().map(|rung| rung.parked).sum();
        assert_eq!((parked, progress.failures), (0, 0), "a raced point has not failed");
    }
    Ok(())
}

#[tokio::test]
async fn with_one_worker_a_race_is_repeated_exactly() -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let definition = definition(Strategy::Grid, Some(CERTAIN));
        let raced = Search::in_memory(&definition).await?;
        raced.race().await?;
        seen.push((raced.raced_points().await?, raced.cluster.results("tiny").await?));
    }
    assert!(!seen[0].0.is_empty() && seen[0] == seen[1]);
    Ok(())
}

#[tokio::test]
async fn a_race_goes_on_after_a_restart_and_loses_no_result() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("store.db");
    let definition = definition(Strategy::Grid, Some(CERTAIN));
    let mut evaluations = 0;
    // Restarted again and again with a block of some job done.
    for _ in 0..20 {
        let raced = Search::open(&file, &definition).await?;
        for blocks in [usize::MAX, usize::MAX, usize::MAX, 2] {
            raced.cluster.coordinator.plan_once().await?;
            let job = raced.cluster.lease(&ALL_RUNGS, 1).await?.pop().context("a job")?;
            evaluations += raced.race_on(&job, blocks).await?;
        }
    }
    let raced = Search::open(&file, &definition).await?;
    evaluations += raced.race().await?;
    let progress = raced.progress().await?;
    assert_eq!((progress.results, progress.duplicate_results), (evaluations, 0));
    assert_eq!(progress.points_done + progress.points_raced, 441);
    let evaluation = avsweep_domain::Evaluation { racing: None, ..definition.evaluation.clone() };
    let perfect = Search::in_memory(&SweepDefinition { evaluation, ..definition.clone() }).await?;
    perfect.race().await?;
    let points = |best: v1::BestPointsResponse| -> Vec<_> {
        best.answers.into_iter().map(|answer| answer.point).collect()
    };
    assert_eq!(
        points(raced.cluster.best(&definition).await?),
        points(perfect.cluster.best(&perfect.definition).await?)
    );
    Ok(())
}

#[tokio::test]
async fn a_raced_point_is_no_answer() -> anyhow::Result<()> {
    let definition = definition(Strategy::Grid, Some(CERTAIN));
    let raced = Search::in_memory(&definition).await?;
    raced.race().await?;
    let points = raced.raced_points().await?;
    assert!(!points.is_empty());
    for answer in raced.cluster.best(&definition).await?.answers {
        let point = avsweep_domain::Point::try_from(answer.point.context("an answer")?)?;
        assert!(!points.contains(&point.to_string()), "{point} is an answer");
    }
    Ok(())
}

/// What was to be generated at a raced point is not, but for those who ask.
#[tokio::test]
async fn a_raced_point_gets_no_texts_unless_somebody_samples_it() -> anyhow::Result<()> {
    let mut definition = definition(Strategy::Grid, Some(CERTAIN));
    definition.evaluation.generation = Coverage::All;
    let raced = Search::in_memory(&definition).await?;
    raced.race().await?;
    let progress = raced.progress().await?;
    let counts = |rung: v1::Rung| progress.rungs.iter().find(|counts| counts.rung() == rung).copied();
    let likelihood = counts(v1::Rung::Likelihood).context("counts")?;
    let generation = counts(v1::Rung::Generation).context("counts")?;
    assert!(likelihood.raced > 100);
    assert_eq!((generation.raced, generation.done), (likelihood.raced, likelihood.done));
    let judged = counts(v1::Rung::Judgement).context("counts")?;
    assert_eq!(judged.done, generation.done);

    let points = raced.store.search_points(raced.sweep, PointFilter::All).await?;
    let point = points.iter().find(|point| point.state == SearchState::Raced).context("a raced point")?;
    let request = v1::RequestSampleRequest {
        sweep: "tiny".to_owned(),
        point: Some((&point.point).into()),
        ordinals: vec![1, 2],
        ..Default::default()
    };
    let first = raced.cluster.sweeps().request_sample(request.clone()).await?.into_inner();
    assert_eq!((first.pending, first.responses.len(), first.failures.len()), (2, 0, 0));
    raced.race().await?;
    let then = raced.cluster.sweeps().request_sample(request).await?.into_inner();
    assert_eq!((then.pending, then.responses.len()), (0, 2));
    Ok(())
}
