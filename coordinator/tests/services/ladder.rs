//! Sweeps whose number of judged points follows from how well likelihoods predict the judge.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use avsweep_domain::{Ladder, Point, SequenceSettings, Strategy, SweepDefinition};
use avsweep_proto::v1;
use avsweep_store::{PointFilter, Store as _};

use crate::searched::{Search, judged_level, judged_otherwise, searched};
use crate::support::ALL_RUNGS;

fn definition(strategy: Strategy, most: u32) -> SweepDefinition {
    let mut definition = searched(strategy);
    definition.evaluation.ladder = Some(Ladder { confidence: 0.9, most });
    definition.check().expect("a valid definition");
    definition
}

/// What a target's weakest domain gets at a point on the search queries, by the judge.
fn judged_value(definition: &SweepDefinition, point: &Point, wanted: &[u8]) -> u32 {
    let hits = wanted.iter().enumerate().map(|(domain, level)| {
        let queries = definition
            .queries()
            .filter(|entry| entry.domain == domain && entry.set == avsweep_domain::QuerySet::Search);
        queries.filter(|entry| judged_level(point, domain, entry.ordinal) == *level).count() as u32
    });
    hits.min().unwrap_or(0)
}

impl Search {
    /// Plans, then does some jobs; `false` at the sweep's end.
    async fn climb_on(&self, jobs: u32) -> anyhow::Result<bool> {
        self.cluster.coordinator.plan_once().await?;
        let jobs = self.cluster.lease(&ALL_RUNGS, jobs).await?;
        for job in &jobs {
            self.cluster.jobs().report(judged_otherwise(&self.definition, job)?).await?;
        }
        let done = self.is_done().await?;
        ensure!(done || !jobs.is_empty(), "{:?}", self.progress().await?);
        Ok(!done)
    }

    async fn climb(&self) -> anyhow::Result<()> {
        while self.climb_on(8).await? {}
        Ok(())
    }

    /// The points with verdicts on the search queries, and those with verdicts on the confirm queries.
    async fn judged(&self) -> anyhow::Result<(BTreeSet<Point>, BTreeSet<Point>)> {
        let tallies = self.store.tallies(self.sweep, PointFilter::All).await?;
        let of = |search: bool| {
            let judged = tallies.iter().filter(|point| {
                let set = if search { &point.search } else { &point.confirm };
                set.judgement.is_some()
            });
            judged.map(|point| point.point.clone()).collect()
        };
        Ok((of(true), of(false)))
    }

    async fn agreement(&self) -> anyhow::Result<v1::AgreementResponse> {
        let request = v1::AgreementRequest { sweep: "tiny".to_owned() };
        Ok(self.cluster.sweeps().agreement(request).await?.into_inner())
    }
}

#[tokio::test]
async fn the_judge_chooses_among_as_many_points_as_likelihoods_predict_it_badly() -> anyhow::Result<()> {
    let definition = definition(Strategy::Grid, 400);
    let search = Search::in_memory(&definition).await?;
    search.climb().await?;
    let agreement = search.agreement().await?;
    let climb = agreement.climb.context("a ladder")?;
    ensure!(agreement.domains.len() == 2, "{agreement:?}");
    ensure!(
        agreement.domains.iter().all(|domain| domain.points == 24 && domain.rank_correlation > Some(0.7)),
        "{agreement:?}"
    );
    ensure!(climb.points == 441 && climb.share.is_some() && !climb.is_cut, "{climb:?}");
    let (chosen_among, reported) = search.judged().await?;
    assert_eq!((climb.wanted, climb.judged), (chosen_among.len() as u64, chosen_among.len() as u64));
    ensure!(climb.judged > climb.first && climb.judged < 441, "{climb:?}");

    // By its own choice the sweep is answered by the judge, and its choices are reported on the confirm queries.
    let best = search.cluster.best(&definition).await?;
    assert_eq!(best.reading(), v1::Reading::Judgement);
    let all: Vec<Point> = search
        .store
        .tallies(search.sweep, PointFilter::All)
        .await?
        .into_iter()
        .map(|tallies| tallies.point)
        .collect();
    let mut missed = 0;
    for (index, answer) in best.answers.iter().enumerate() {
        let wanted = [index as u8 / 3, index as u8 % 3];
        let point = Point::try_from(answer.point.clone().context("a point")?)?;
        let value = judged_value(&definition, &point, &wanted);
        let most = all.iter().map(|point| judged_value(&definition, point, &wanted)).max();
        assert_eq!(answer.search_aggregate, f64::from(value) / 6.0, "target {wanted:?}");
        // The best is among the judged ones with a probability of 0.9; the next best is a query away.
        ensure!(most <= Some(value + 1), "target {wanted:?}: {value} of {most:?}");
        missed += usize::from(most > Some(value));
        ensure!(answer.judged_aggregate.is_some() && reported.contains(&point), "{answer:?}");
    }
    ensure!(missed <= 2, "{missed} of 9 targets");
    // By likelihoods alone some target would have been answered worse.
    let cheap = search.cluster.best_by(&definition, v1::Aggregate::Min, v1::Reading::Mean).await?.answers;
    let mut worse = 0;
    for (index, (answer, better)) in cheap.iter().zip(&best.answers).enumerate() {
        let wanted = [index as u8 / 3, index as u8 % 3];
        let value = |answer: &v1::TargetAnswer| -> anyhow::Result<u32> {
            let point = Point::try_from(answer.point.clone().context("a point")?)?;
            Ok(judged_value(&definition, &point, &wanted))
        };
        worse += usize::from(value(answer)? < value(better)?);
    }
    ensure!(worse > 0, "the ladder is for nothing here");
    Ok(())
}

#[tokio::test]
async fn a_ladder_climbed_by_several_coordinators_in_turn_judges_the_same_points() -> anyhow::Result<()> {
    let definition = definition(Strategy::Sobol(SequenceSettings { budget: 50, seed: 2 }), 6);
    let folder = tempfile::tempdir()?;
    let whole = Search::open(&folder.path().join("whole.db"), &definition).await?;
    whole.climb().await?;
    let wanted = whole.judged().await?;
    let climb = whole.agreement().await?.climb.context("a ladder")?;
    ensure!(climb.is_cut && wanted.0.len() as u64 == climb.first + 6, "{climb:?}");

    // Each planner writes a few jobs and is gone, some with a job in a worker's hands.
    let file = folder.path().join("stopped.db");
    let mut steps = 0;
    loop {
        let search = Search::open(&file, &definition).await?;
        let goes_on = search.climb_on(2).await?;
        search.cluster.coordinator.plan_once().await?;
        search.cluster.lease(&ALL_RUNGS, 1).await?;
        steps += 1;
        ensure!(steps < 2000, "the sweep does not end");
        if !goes_on {
            assert_eq!(search.judged().await?, wanted);
            assert_eq!(search.agreement().await?.climb, Some(climb));
            return Ok(());
        }
    }
}

#[tokio::test]
async fn without_a_ladder_the_finalists_show_how_the_rungs_agree() -> anyhow::Result<()> {
    let mut definition = definition(Strategy::Grid, 400);
    definition.evaluation.ladder = None;
    let search = Search::in_memory(&definition).await?;
    search.climb().await?;
    let agreement = search.agreement().await?;
    ensure!(agreement.climb.is_none() && agreement.domains.len() == 2, "{agreement:?}");
    let (search_set, confirm_set) = search.judged().await?;
    ensure!(search_set.is_empty() && (1..=9).contains(&confirm_set.len()));
    ensure!(agreement.domains.iter().all(|domain| domain.points == confirm_set.len() as u64));
    Ok(())
}
