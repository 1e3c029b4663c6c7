//! Merged weights as a source for candle: any decoder that candle builds from a `VarBuilder` becomes mergeable.

use super::coefficient::MergePlan;
use super::source::MergingSource;
use crate::memory::Residency;
use crate::model::ModelWeights;
use crate::run::WeightType;
use crate::vector::AlignmentVector;
use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use rayon::prelude::*;
use std::sync::Arc;

/// A point's weights, merged when a tensor is asked for.
pub(crate) struct CandleSource {
    pub(crate) base: Arc<ModelWeights>,
    pub(crate) vectors: Vec<AlignmentVector>,
    pub(crate) plan: Arc<MergePlan>,
    pub(crate) point: Vec<f32>,
    pub(crate) dtype: WeightType,
    pub(crate) residency: Arc<Residency>,
}

/// Elements of a tensor that one task merges: whole rows of low-rank terms are computed together.
const PART: usize = 1 << 18;

impl SimpleBackend for CandleSource {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            return Err(Error::UnexpectedShape {
                msg: format!("shape of {name}"),
                expected: shape,
                got: tensor.shape().clone(),
            });
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(index) = self.base.layout.position(name) else {
            return Err(Error::CannotFindTensor { path: name.to_owned() });
        };
        let mut values = vec![0.0; self.base.tensors[index].len()];
        let source = MergingSource {
            base: &self.base,
            vectors: &self.vectors,
            plan: &self.plan,
            point: &self.point,
            dtype: self.dtype,
        };
        values
            .par_chunks_mut(PART)
            .enumerate()
            .for_each(|(part, values)| source.read(index, part * PART, values));
        self.residency.release(&self.base, &self.vectors, index);
        Tensor::from_vec(values, self.base.layout.tensors[index].shape.as_slice(), device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.base.layout.position(name).is_some()
    }
}
