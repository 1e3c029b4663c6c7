//! `avsweep run --check`: how much there is to do.

use std::io::Write;

use anyhow::Result;
use avsweep_domain::{Coverage, QuerySet, Strategy, SweepDefinition};
use serde::Serialize;

/// What a sweep will do, as far as that is known before it starts.
#[derive(Serialize)]
pub(super) struct Counts {
    sweep: String,
    /// Points that the strategy visits.
    points: u64,
    /// Whether it may stop before.
    may_stop_early: bool,
    /// Jobs at those points; finalists get more.
    jobs: u64,
    /// Queries that every one of those points is measured on.
    queries_per_point: u64,
    /// Queries scored or answered at those points in all; with racing the most of them.
    evaluations: u64,
    /// Points that are out of reach are given up early: how many of each domain's queries are asked between two looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    racing_block: Option<u32>,
    search_queries: usize,
    confirm_queries: usize,
    targets: usize,
}

impl Counts {
    /// Counts a definition.
    ///
    /// # Errors
    /// When the grid is too large to be counted.
    pub(super) fn of(definition: &SweepDefinition) -> Result<Self> {
        let (points, may_stop_early) = match &definition.strategy {
            Strategy::Grid => (definition.space.grid_size()?, false),
            Strategy::Random(settings) | Strategy::Sobol(settings) => {
                (u64::from(settings.budget).min(definition.space.grid_size().unwrap_or(u64::MAX)), false)
            }
            Strategy::Bayesian(settings) => (u64::from(settings.budget), true),
            Strategy::Hierarchical(settings) => match settings.budget {
                Some(budget) => (u64::from(budget), true),
                None => (definition.space.grid_size()?, true),
            },
        };
        let most = avsweep_coordinator::Settings::default().max_queries_per_job;
        let mut sets = Vec::new();
        if definition.evaluation.likelihood == Coverage::All {
            sets.push(QuerySet::Search);
        }
        if definition.evaluation.generation == Coverage::All {
            sets.extend([QuerySet::Search, QuerySet::Confirm]);
        }
        let slices: Vec<_> = sets.into_iter().map(|set| definition.slice(set)).collect();
        let racing = definition.evaluation.racing;
        let pieces = |(index, slice): (usize, &avsweep_domain::QuerySlice)| {
            // A race goes over a point's search queries in one job.
            if racing.is_some() && index == 0 { 1 } else { slice.pieces(most).count() as u64 }
        };
        let jobs: u64 = slices.iter().enumerate().map(pieces).sum();
        let queries_per_point: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        Ok(Self {
            sweep: definition.name.clone(),
            points,
            may_stop_early,
            jobs: points.saturating_mul(jobs),
            queries_per_point,
            evaluations: points.saturating_mul(queries_per_point),
            racing_block: racing.map(|racing| racing.block),
            search_queries: definition.slice(QuerySet::Search).len(),
            confirm_queries: definition.slice(QuerySet::Confirm).len(),
            targets: definition.levels.len().saturating_pow(u32::try_from(definition.domains.len())?),
        })
    }

    /// In words.
    pub(super) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let racing = self.racing_block.map_or_else(String::new, |block| {
            format!(": points out of reach are given up early, by looks every {block} queries of each domain")
        });
        writeln!(
            out,
            "{}: {}{} points, {} jobs, {} queries at each point ({}{} evaluations{}); then the finalists of {} targets \
             ({} search and {} confirm queries in all)",
            self.sweep,
            if self.may_stop_early { "at most " } else { "" },
            self.points,
            self.jobs,
            self.queries_per_point,
            if self.racing_block.is_some() { "at most " } else { "" },
            self.evaluations,
            racing,
            self.targets,
            self.search_queries,
            self.confirm_queries
        )
    }
}
