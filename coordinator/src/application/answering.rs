//! The best points of targets.

use avsweep_domain::{
    Aggregate, Coverage, Normalisation, PointTallies, QuerySet, Reading, SweepDefinition, SweepId, Target,
};
use avsweep_search::honesty::{Assurance, assurances};
use avsweep_search::strategy::{Measured, Problem};
use avsweep_search::{Answer, MAX_TARGETS, Ranking, all_targets};
use avsweep_store::{PointFilter, SearchPoint, SearchState};

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
const MOST_MODELLED: usize = 1000;

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
        let problem = Problem::of(&definition);
        let modelled = question.assured
            && reading == Reading::Likelihood(Normalisation::Mean)
            && aggregate == problem.aggregate()
            && history.len() <= MOST_MODELLED
            // Where every point is measured, the best of them is the best.
            && definition.space.grid_size().is_ok_and(|size| (history.len() as u64) < size);
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
            let answers: Vec<Answer> =
                targets.iter().map(|target| ranking.answer(target, aggregate)).collect::<Result<_, _>>()?;
            Ok(Answers {
                assurances: assure(&answers, &problem, &searched),
                answers,
                reported_set: definition.reported_set(),
                reading,
                points_measured: ranking.measured() as u64,
            })
        });
        answers.await
    }
}

/// How far answers can be trusted. Where another point than the model's is chosen (it knows the search queries' levels
/// alone, and not how ties are broken) its value is the same.
fn assure(answers: &[Answer], problem: &Problem, searched: &[SearchPoint]) -> Vec<Option<Assurance>> {
    let measured: Vec<Measured<'_>> = searched
        .iter()
        .filter_map(|searched| match &searched.state {
            SearchState::Measured { log_probs, judged } => {
                Some(Measured { point: &searched.point, log_probs, judged: judged.as_deref() })
            }
            SearchState::Pending | SearchState::GivenUp | SearchState::Raced => None,
        })
        .collect();
    let known = assurances(problem, &measured).unwrap_or_default();
    let of = |answer: &Answer| known.iter().find(|known| known.target == answer.target).cloned();
    answers.iter().map(of).collect()
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
