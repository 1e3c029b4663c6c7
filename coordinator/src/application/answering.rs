//! The best points of targets.

use std::sync::Arc;

use avsweep_domain::{
    Aggregate, Coverage, PointTallies, QuerySet, Reading, SweepDefinition, SweepId, Target,
};
use avsweep_search::honesty::{Assurance, assurances};
use avsweep_search::strategy::Problem;
use avsweep_search::{Answer, MAX_TARGETS, Ranking, SearchRung, all_targets};
use avsweep_store::{PointFilter, SearchPoint};

use super::convergence::measured;
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
    /// Whether it is also to be said how far the answers can be trusted.
    pub(crate) assured: bool,
}

/// The answers, and how they were come by.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    pub(crate) answers: Vec<Answer>,
    /// Of each answer in turn, where a model can say how far it can be trusted.
    pub(crate) assurances: Vec<Option<Assurance>>,
    pub(crate) reported_set: QuerySet,
    pub(crate) reading: Reading,
    pub(crate) points_measured: u64,
}

/// A model of more measured points takes longer than anybody waits for an answer.
pub const MOST_MODELLED: usize = 1000;

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
        let history = Arc::new(self.tallies(record.id).await?);
        let aggregate = question.aggregate;
        let problem = Problem::of(&definition);
        let modelled = question.assured
            && reading == definition.search_reading()
            && aggregate == problem.aggregate()
            && self.can_model(&definition, &history).await;
        let searched =
            if modelled { self.store.search_points(record.id, PointFilter::All).await? } else { Vec::new() };
        let answers = self.compute(move || {
            let ranking = Ranking::new(&definition, &history, reading);
            if ranking.measured() == 0
                && reading == Reading::Judgement
                && let Some(judged) = judged_elsewhere(&definition)
            {
                return Err(CoordinatorError::NotJudged { sweep: definition.name.clone(), judged });
            }
            let mut answers: Vec<Answer> =
                targets.iter().map(|target| ranking.answer(target, aggregate)).collect::<Result<_, _>>()?;
            let assurances = assure(&answers, &problem, &searched);
            if problem.rung() == SearchRung::Judgement {
                for (answer, known) in answers.iter_mut().zip(&assurances) {
                    if let Some(known) = known {
                        *answer = ranking.answer_at(&answer.target, aggregate, &known.chosen)?;
                    }
                }
            }
            Ok(Answers {
                assurances,
                answers,
                reported_set: definition.reported_set(),
                reading,
                points_measured: ranking.measured() as u64,
            })
        });
        answers.await
    }

    /// Whether a model can say something of what a sweep has not measured: where every point of the grid is, the best of
    /// them is the best.
    pub(super) async fn can_model(
        &self,
        definition: &Arc<SweepDefinition>,
        history: &Arc<Vec<PointTallies>>,
    ) -> bool {
        let (definition, history) = (Arc::clone(definition), Arc::clone(history));
        let can_model = self.compute(move || {
            let measured = Ranking::new(&definition, &history, definition.search_reading()).measured();
            let is_complete = definition.space.grid_size().is_ok_and(|size| measured as u64 >= size);
            measured <= MOST_MODELLED && !is_complete
        });
        can_model.await
    }
}

/// How far answers can be trusted. Where likelihoods are searched and another point than the model's is chosen (it knows the
/// search queries' levels alone, and not how ties are broken) its value is the same.
fn assure(answers: &[Answer], problem: &Problem, searched: &[SearchPoint]) -> Vec<Option<Assurance>> {
    let known = assurances(problem, &measured(searched)).unwrap_or_default();
    let of = |answer: &Answer| known.iter().find(|known| known.target == answer.target).cloned();
    answers.iter().map(of).collect()
}

/// What a sweep judges, where it will never judge the search queries of the points it looks at.
fn judged_elsewhere(definition: &SweepDefinition) -> Option<&'static str> {
    match (definition.evaluation.generation, definition.judged_set()) {
        (Coverage::All, _) | (Coverage::Finalists, QuerySet::Search) => None,
        (Coverage::Finalists, QuerySet::Confirm) => {
            Some("the finalists' responses to the confirm queries only")
        }
        (Coverage::None, _) => Some("nothing"),
    }
}
