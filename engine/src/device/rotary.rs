//! Rotary embeddings on a device: tables that grow with the positions that are asked for.

use crate::model::Rotary;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::rotary_emb::rope_thd;
use std::sync::{Mutex, PoisonError};

/// Positions of the first table.
const FIRST: usize = 512;

/// cos and sin of position · frequency, `[positions, frequencies]` each.
pub(super) struct RotaryTable {
    rotary: Rotary,
    dtype: DType,
    device: Device,
    table: Mutex<Option<(Tensor, Tensor)>>,
}

/// The rows' cosines and sines, `[rows, frequencies]` each.
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryTable {
    pub(super) fn new(rotary: &Rotary, dtype: DType, device: &Device) -> Self {
        Self { rotary: rotary.clone(), dtype, device: device.clone(), table: Mutex::default() }
    }

    /// The rotation of rows at `positions` (u32, `[rows]`), all below `end`.
    pub(super) fn at(&self, positions: &Tensor, end: usize) -> Result<Rotation> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let (cos, sin) = match table.take() {
            Some(held) if held.0.dim(0)? >= end => held,
            _ => self.compute(end.next_power_of_two().max(FIRST))?,
        };
        let rotation =
            Rotation { cos: cos.index_select(positions, 0)?, sin: sin.index_select(positions, 0)? };
        *table = Some((cos, sin));
        Ok(rotation)
    }

    /// As the CPU decoder has it: angles in f32, their functions rounded to f32.
    fn compute(&self, positions: usize) -> Result<(Tensor, Tensor)> {
        let Rotary { frequencies, attention_factor, .. } = &self.rotary;
        let angles: Vec<f64> = (0..positions)
            .flat_map(|position| {
                frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency))
            })
            .collect();
        let tensor = |function: fn(f64) -> f64| {
            let values: Vec<f32> =
                angles.iter().map(|angle| function(*angle) as f32 * attention_factor).collect();
            Tensor::from_vec(values, (positions, frequencies.len()), &self.device)?.to_dtype(self.dtype)
        };
        Ok((tensor(f64::cos)?, tensor(f64::sin)?))
    }
}

impl Rotation {
    /// Turns heads, `[rows, heads, head_dim]`; elements beyond twice the frequencies stay as they are.
    pub(super) fn turn(&self, heads: &Tensor) -> Result<Tensor> {
        let (_, _, width) = heads.dims3()?;
        let turned = 2 * self.cos.dim(1)?;
        let heads = heads.unsqueeze(0)?;
        if turned == width {
            return rope_thd(&heads.contiguous()?, &self.cos, &self.sin)?.squeeze(0);
        }
        let front = rope_thd(&heads.narrow(3, 0, turned)?.contiguous()?, &self.cos, &self.sin)?;
        Tensor::cat(&[&front, &heads.narrow(3, turned, width - turned)?], 3)?.squeeze(0)?.contiguous()
    }
}
