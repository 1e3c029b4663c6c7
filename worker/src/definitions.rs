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
    /// The task that a leased job is, and the blocks of its queries, one after another; one where none is waited for.
    pub(crate) async fn read(
        &mut self,
        coordinator: &CoordinatorClient,
        wire: v1::LeasedJob,
    ) -> Result<(Task, Vec<Vec<u32>>), ReadError> {
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
        let blocks = blocks(&wire.ordinals, &wire.blocks)?;
        let mut ordinals = wire.ordinals;
        ordinals.sort_unstable();
        let task = Task {
            sweep: SweepId(wire.sweep),
            definition,
            sweep_fingerprint,
            recipe,
            rung,
            point,
            ordinals,
            together: None,
        };
        Ok((task, blocks))
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

/// The ordinals in blocks of these lengths, each ascending.
fn blocks(ordinals: &[u32], lengths: &[u32]) -> Result<Vec<Vec<u32>>, ConvertError> {
    let sum: u64 = lengths.iter().copied().map(u64::from).sum();
    if !lengths.is_empty() && sum != ordinals.len() as u64 {
        let wanted = "lengths that add up to the number of ordinals";
        return Err(ConvertError::invalid("LeasedJob", "blocks", sum, wanted));
    }
    let mut left = ordinals;
    let mut blocks = Vec::with_capacity(lengths.len() + 1);
    for length in lengths {
        let (block, rest) = left.split_at(*length as usize);
        blocks.push(block.to_vec());
        left = rest;
    }
    blocks.push(left.to_vec());
    blocks.retain(|block| !block.is_empty());
    blocks.iter_mut().for_each(|block| block.sort_unstable());
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_cut_into_the_blocks_that_the_job_names() {
        let cut = |lengths: &[u32]| blocks(&[4, 1, 7, 2], lengths).ok();
        assert_eq!(cut(&[]), Some(vec![vec![1, 2, 4, 7]]));
        assert_eq!(cut(&[3, 1]), Some(vec![vec![1, 4, 7], vec![2]]));
        assert_eq!(cut(&[2, 0, 2]), Some(vec![vec![1, 4], vec![2, 7]]));
        assert_eq!((cut(&[3]), cut(&[3, 2]), cut(&[u32::MAX, u32::MAX])), (None, None, None));
    }
}
