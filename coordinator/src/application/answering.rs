//! The best points of targets.

use avsweep_domain::{Aggregate, QuerySet, Reading, SweepDefinition, Target};
use avsweep_search::{Answer, Ranking};

use crate::coordinator::compute;
use crate::{Coordinator, CoordinatorError};

/// The most targets that "all targets" stands for.
const MAX_TARGETS: usize = 10_000;

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
    /// The best point of each target.
    pub(crate) async fn best_points(&self, question: Question) -> Result<Answers, CoordinatorError> {
        let record = self.store.find_sweep(&question.sweep).await?;
        let definition = record.definition;
        let targets = if question.targets.is_empty() { all_targets(&definition)? } else { question.targets };
        let reading = question.reading.unwrap_or_else(|| definition.default_reading());
        let history = self.history(record.id).await?;
        let aggregate = question.aggregate;
        let answers = compute(move || {
            let ranking = Ranking::new(&definition, &history, reading);
            let answers = targets.iter().map(|target| ranking.answer(target, aggregate));
            Ok::<_, avsweep_search::SearchError>(Answers {
                answers: answers.collect::<Result<_, _>>()?,
                reported_set: definition.reported_set(),
                reading,
                points_measured: ranking.measured() as u64,
            })
        });
        Ok(answers.await?)
    }
}

fn all_targets(definition: &SweepDefinition) -> Result<Vec<Target>, CoordinatorError> {
    let (domains, levels) = (definition.domains.len(), definition.levels.len());
    let count = u32::try_from(domains).ok().and_then(|domains| levels.checked_pow(domains));
    match count {
        Some(count) if count <= MAX_TARGETS => Ok(definition.all_targets()),
        _ => Err(CoordinatorError::TooManyTargets {
            sweep: definition.name.clone(),
            domains,
            levels,
            limit: MAX_TARGETS,
        }),
    }
}
