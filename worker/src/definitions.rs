//! Sweeps' definitions, fetched once, and leased jobs read with them.

use std::sync::Arc;

use avsweep_domain::{Fingerprint, Point, SweepDefinition, SweepId};
use avsweep_lease::CoordinatorClient;
use avsweep_proto::{ConvertError, WireEnum as _, v1};
use tonic::Status;

use crate::evaluate::Task;

/// Sweeps whose definitions are kept.
const KEPT: usize = 8;

#[derive(Debug, Clone)]
struct Known {
    sweep: SweepId,
    fingerprint: Fingerprint,
    recipe: Fingerprint,
    definition: Arc<SweepDefinition>,
}

/// Definitions by sweep; the oldest goes first.
#[derive(Debug, Default)]
pub(crate) struct Definitions(Vec<Known>);

/// Why a leased job could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It is no job that this version can do.
    Job(ConvertError),
    /// Its sweep's definition could not be fetched.
    Coordinator(Status),
}

impl From<ConvertError> for ReadError {
    fn from(error: ConvertError) -> Self {
        Self::Job(error)
    }
}

impl Definitions {
    /// The task that a leased job is.
    pub(crate) async fn read(
        &mut self,
        coordinator: &CoordinatorClient,
        wire: v1::LeasedJob,
    ) -> Result<Task, ReadError> {
        const MESSAGE: &str = "LeasedJob";
        let rung = v1::Rung::read(MESSAGE, "rung", wire.rung)?;
        let point = Point::try_from(avsweep_proto::required(MESSAGE, "point", wire.point)?)?;
        let sweep_fingerprint =
            avsweep_proto::fingerprint(MESSAGE, "sweep_fingerprint", &wire.sweep_fingerprint)?;
        let Known { definition, recipe, .. } =
            self.get(coordinator, SweepId(wire.sweep), sweep_fingerprint).await?;
        if point.dimensions() != definition.space.dimensions() {
            let wanted = "one value per coefficient";
            return Err(ConvertError::invalid(MESSAGE, "point", &point, wanted).into());
        }
        Ok(Task {
            sweep: SweepId(wire.sweep),
            definition,
            sweep_fingerprint,
            recipe,
            rung,
            point,
            ordinals: wire.ordinals,
            together: None,
        })
    }

    async fn get(
        &mut self,
        coordinator: &CoordinatorClient,
        sweep: SweepId,
        wanted: Fingerprint,
    ) -> Result<Known, ReadError> {
        const MESSAGE: &str = "GetDefinitionResponse";
        if let Some(known) = self.0.iter().find(|known| known.sweep == sweep && known.fingerprint == wanted) {
            return Ok(known.clone());
        }
        let answer = coordinator
            .call("GetDefinition", |mut client| async move {
                client.get_definition(v1::GetDefinitionRequest { sweep: sweep.0 }).await
            })
            .await
            .map_err(ReadError::Coordinator)?;
        let wire = avsweep_proto::required(MESSAGE, "definition", answer.definition)?;
        let definition = SweepDefinition::try_from(wire)?;
        // Computed and not only read: what is evaluated is then what the results are filed under.
        let found = definition.fingerprint();
        if found != wanted {
            return Err(ConvertError::invalid(MESSAGE, "definition", found, "the job's definition").into());
        }
        let recipe = definition.recipe_fingerprint();
        let known = Known { sweep, fingerprint: wanted, recipe, definition: Arc::new(definition) };
        if self.0.len() >= KEPT {
            self.0.remove(0);
        }
        self.0.push(known.clone());
        Ok(known)
    }
}
