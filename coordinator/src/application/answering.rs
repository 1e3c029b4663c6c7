//! The best points of targets.

use avsweep_domain::{
    Aggregate, Coverage, PointTallies, QuerySet, Reading, SweepDefinition, SweepId, Target,
};
use avsweep_search::{Answer, MAX_TARGETS, Ranking, all_targets};
use avsweep_store::PointFilter;

use crate::{Coordinator, CoordinatorError};

/// A question for the best points.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) sweep: String,
    /// Empty: every target.
    pub(crate) targets: Vec<Target>,
    pub(crate) aggregate: Aggregate,
    /// `None`: the sweep's own.
    pub(crate) reading: Option<Reading>,
}

/// The answers, and how they were come by.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    pub(crate) answers: Vec<Answer>,
    pub(crate) reported_set: QuerySet,
    pub(crate) reading: Reading,
    pub(crate) points_measured: u64,
}

impl Coordinator {
    /// Every point of a sweep with its tallies, as they are now: another sweep's report at a shared point counts too.
    pub(crate) async fn tallies(&self, sweep: SweepId) -> Result<Vec<PointTallies>, CoordinatorError> {
        Ok(self.store.tallies(sweep, PointFilter::All).await?)
    }

    /// The best point of each target.
    pub(crate) async fn best_points(&self, question: Question) -> Result<Answers, CoordinatorError> {
        let record = self.store.find_sweep(&question.sweep).await?;
        let definition = record.definition;
        let targets = if question.targets.is_empty() {
            all_targets(&definition).ok_or_else(|| CoordinatorError::TooManyTargets {
                sweep: definition.name.clone(),
                domains: definition.domains.len(),
                levels: definition.levels.len(),
                limit: MAX_TARGETS,
            })?
        } else {
            question.targets
        };
        let reading = question.reading.unwrap_or_else(|| definition.default_reading());
        let history = self.tallies(record.id).await?;
        let aggregate = question.aggregate;
        let answers = self.compute(move || {
            let ranking = Ranking::new(&definition, &history, reading);
            if ranking.measured() == 0
                && reading == Reading::Judgement
                && let Some(judged) = judged_elsewhere(&definition)
            {
                return Err(CoordinatorError::NotJudged { sweep: definition.name.clone(), judged });
            }
            let answers = targets.iter().map(|target| ranking.answer(target, aggregate));
            Ok(Answers {
                answers: answers.collect::<Result<_, _>>()?,
                reported_set: definition.reported_set(),
                reading,
                points_measured: ranking.measured() as u64,
            })
        });
        answers.await
    }
}

/// What a sweep judges, where it will never judge the search queries of the points it looks at.
fn judged_elsewhere(definition: &SweepDefinition) -> Option<&'static str> {
    match (definition.evaluation.generation, definition.reported_set()) {
        (Coverage::All, _) | (Coverage::Finalists, QuerySet::Search) => None,
        (Coverage::Finalists, QuerySet::Confirm) => {
            Some("the finalists' responses to the confirm queries only")
        }
        (Coverage::None, _) => Some("nothing"),
    }
}
