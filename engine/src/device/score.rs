//! Teacher-forced scoring on a device: the chunks of `run::score`, one packed pass each.

use super::forward::TensorDecoder;
use super::weights::device_error;
use crate::decoder::{Forest, TokenTarget};
use crate::run::{PreparedScores, ReferenceScore};
use crate::{EngineError, ItemError};
use candle_core::{D, Result, Tensor};

/// Scores every item at the decoder's point.
///
/// # Errors
/// [`EngineError::OutOfMemory`] or [`EngineError::Device`].
pub(crate) fn score(
    decoder: &TensorDecoder,
    prepared: &PreparedScores,
) -> std::result::Result<Vec<std::result::Result<Vec<ReferenceScore>, ItemError>>, EngineError> {
    let mut results = Vec::with_capacity(prepared.len());
    for chunk in prepared.chunks.iter() {
        let (forest, wanted, targets) = chunk.asked();
        let log_probs = if targets.is_empty() {
            Vec::new()
        } else {
            log_probabilities(decoder, forest, wanted, targets).map_err(device_error("scoring"))?
        };
        results.extend(chunk.results(&prepared.items, &log_probs));
    }
    Ok(results)
}

/// log softmax(logits of row)\[token\] for every target; targets are ordered by row of `wanted`. The output head takes
/// as many rows at a time as a bounded memory holds logits for.
fn log_probabilities(
    decoder: &TensorDecoder,
    forest: &Forest,
    wanted: &[u32],
    targets: &[TokenTarget],
) -> Result<Vec<f64>> {
    let hidden = decoder.run(forest, wanted, |_, _, _| Ok(()))?;
    let mut parts = Vec::new();
    let mut rest = targets;
    for start in (0..wanted.len()).step_by(decoder.head_rows()) {
        let count = decoder.head_rows().min(wanted.len() - start);
        let (own, later) =
            rest.split_at(rest.partition_point(|target| (target.row as usize) < start + count));
        rest = later;
        let logits = decoder.logits(&hidden.narrow(0, start, count)?)?;
        let totals = logits.log_sum_exp(D::Minus1)?;
        let device = &decoder.device;
        let width = logits.dim(1)?;
        let row = |target: &TokenTarget| target.row as usize - start;
        let rows: Vec<u32> = own.iter().map(|target| row(target) as u32).collect();
        let cells: Vec<u32> =
            own.iter().map(|target| (row(target) * width + target.token as usize) as u32).collect();
        let chosen = logits.flatten_all()?.index_select(&Tensor::new(cells, device)?, 0)?;
        parts.push((chosen - totals.index_select(&Tensor::new(rows, device)?, 0)?)?);
    }
    // One transfer for the whole chunk.
    let log_probs = Tensor::cat(&parts, 0)?.to_vec1::<f32>()?;
    Ok(log_probs.into_iter().map(f64::from).collect())
}
