//! How well a sweep's likelihoods predict its judge.

use avsweep_domain::{Coverage, QuerySet, Reading};
use avsweep_search::Ranking;
use avsweep_search::ladder::{Agreement, Climb, agreement, climb};

use crate::{Coordinator, CoordinatorError};

/// How the rungs agree, and what a ladder makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Rungs {
    /// Per domain; empty where nothing is judged.
    pub(crate) agreement: Vec<Agreement>,
    /// With a ladder, how far it judges, and the points judged in full.
    pub(crate) climb: Option<(Climb, u64)>,
}

impl Coordinator {
    /// How a sweep's rungs agree: with a ladder at the points that it goes by, else at all points that have both.
    pub(crate) async fn agreement(&self, sweep: &str) -> Result<Rungs, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        let definition = record.definition;
        let evaluation = &definition.evaluation;
        if evaluation.likelihood == Coverage::None || evaluation.generation == Coverage::None {
            return Ok(Rungs { agreement: Vec::new(), climb: None });
        }
        let history = self.tallies(record.id).await?;
        let rungs = self.compute(move || match climb(&definition, &history) {
            Some(climb) => {
                let judged = Ranking::new(&definition, &history, Reading::Judgement).measured() as u64;
                Rungs { agreement: climb.agreement.clone(), climb: Some((climb, judged)) }
            }
            None => {
                let set: QuerySet = definition.judged_set();
                Rungs { agreement: agreement(&definition, &history, set), climb: None }
            }
        });
        Ok(rungs.await)
    }
}
