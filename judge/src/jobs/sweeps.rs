//! The sweeps that jobs belong to: each definition fetched once, each judge made once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use avsweep_domain::{Fingerprint, JudgeProvider, JudgeSettings, Levels, Query, SweepDefinition, SweepId};
use avsweep_lease::CoordinatorClient;
use avsweep_proto::{ConvertError, v1};
use tokio::sync::OnceCell;
use tonic::Status;

use crate::error::JudgeError;
use crate::judge::{Judge, JudgeOptions};
use crate::keys::KeyPolicy;
use crate::meter::Meter;
use crate::rate::Rate;

/// Sweeps and judges that are kept; the oldest goes first.
const KEPT: usize = 16;

/// What judging a sweep's jobs takes.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// By ordinal.
    pub(crate) queries: Vec<Query>,
    pub(crate) judge: Judge,
}

/// Why a sweep's jobs cannot be judged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    #[error("definition of sweep {0} could not be fetched")]
    Fetch(SweepId, #[source] Status),
    #[error("definition of sweep {0} cannot be read")]
    Convert(SweepId, #[source] ConvertError),
    #[error("definition of sweep {sweep} has fingerprint {found}; the job's is {wanted}")]
    OtherDefinition { sweep: SweepId, found: Fingerprint, wanted: Fingerprint },
    #[error("the judge of sweep {0} cannot be set up")]
    Judge(SweepId, #[source] JudgeError),
}

type Cell = Arc<OnceCell<Arc<Sweep>>>;

/// Definitions and judges by sweep, bounded.
#[derive(Debug)]
pub(crate) struct Sweeps {
    coordinator: CoordinatorClient,
    options: JudgeOptions,
    keys: KeyPolicy,
    /// In place of what the sweeps name.
    provider: Option<Arc<dyn Rate>>,
    meter: Arc<Meter>,
    cells: Mutex<VecDeque<((SweepId, Fingerprint), Cell)>>,
    /// Sweeps with the same settings and levels share a judge: its limits are those of the process, and its cache
    /// serves them all.
    judges: Mutex<VecDeque<(JudgeSettings, Levels, Judge)>>,
}

impl Sweeps {
    pub(crate) fn new(
        coordinator: CoordinatorClient,
        options: JudgeOptions,
        keys: KeyPolicy,
        provider: Option<Arc<dyn Rate>>,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            coordinator,
            options,
            keys,
            provider,
            meter,
            cells: Mutex::default(),
            judges: Mutex::default(),
        }
    }

    /// The sweep with this definition; fetched when it is not known yet, by one caller for all that wait.
    pub(crate) async fn get(
        &self,
        sweep: SweepId,
        fingerprint: Fingerprint,
    ) -> Result<Arc<Sweep>, SweepError> {
        let cell = self.cell((sweep, fingerprint));
        cell.get_or_try_init(|| self.fetch(sweep, fingerprint)).await.cloned()
    }

    /// Responses that needed no asking, over all judges kept.
    pub(crate) fn cache_hits(&self) -> u64 {
        let judges = self.judges.lock().unwrap_or_else(PoisonError::into_inner);
        judges.iter().map(|(_, _, judge)| judge.cache_hits()).sum()
    }

    fn cell(&self, key: (SweepId, Fingerprint)) -> Cell {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cell)) = cells.iter().find(|(known, _)| *known == key) {
            return Arc::clone(cell);
        }
        if cells.len() >= KEPT {
            cells.pop_front();
        }
        let cell = Cell::default();
        cells.push_back((key, Arc::clone(&cell)));
        cell
    }

    async fn fetch(&self, sweep: SweepId, wanted: Fingerprint) -> Result<Arc<Sweep>, SweepError> {
        let answer = self
            .coordinator
            .call("GetDefinition", |mut client| async move {
                client.get_definition(v1::GetDefinitionRequest { sweep: sweep.0 }).await
            })
            .await
            .map_err(|status| SweepError::Fetch(sweep, status))?;
        let convert = |error| SweepError::Convert(sweep, error);
        let definition = avsweep_proto::required("GetDefinitionResponse", "definition", answer.definition)
            .map_err(convert)?;
        let definition = SweepDefinition::try_from(definition).map_err(convert)?;
        // Computed and not only read: what is judged is then what the results are filed under.
        let found = definition.fingerprint();
        if found != wanted {
            return Err(SweepError::OtherDefinition { sweep, found, wanted });
        }
        let judge = self
            .judge(&definition.judge, &definition.levels)
            .map_err(|error| SweepError::Judge(sweep, error))?;
        let queries = definition.queries().map(|entry| entry.query.clone()).collect();
        Ok(Arc::new(Sweep { queries, judge }))
    }

    fn judge(&self, settings: &JudgeSettings, levels: &Levels) -> Result<Judge, JudgeError> {
        let mut judges = self.judges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, judge)) =
            judges.iter().find(|(known, known_levels, _)| known == settings && known_levels == levels)
        {
            return Ok(judge.clone());
        }
        let judge = match &self.provider {
            Some(provider) => Judge::made_up(Arc::clone(provider), levels, &self.options),
            None => {
                if let JudgeProvider::Openai { base_url, api_key_env: Some(variable), .. } =
                    &settings.provider
                {
                    self.keys.check(variable, base_url)?;
                }
                Judge::with_options(settings, levels, &self.options, |name| std::env::var(name))?
            }
        };
        let judge = judge.metered(Arc::clone(&self.meter));
        if judges.len() >= KEPT {
            judges.pop_front();
        }
        judges.push_back((settings.clone(), levels.clone(), judge.clone()));
        Ok(judge)
    }
}
