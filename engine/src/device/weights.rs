//! The weights of one point on a device, and where base and vectors are kept that they are merged from.

use super::merge::{MOST_TERMS, MergeInto, MergeTerm};
use crate::EngineError;
use crate::files::{StoredTensor, StoredType};
use crate::kernels::LowRank;
use crate::memory::Residency;
use crate::merge::MergingSource;
use crate::model::{LayerNames, ModelWeights, Rows};
use crate::run::WeightType;
use crate::vector::{AlignmentVector, Part as VectorPart};
use candle_core::{DType, Device, Result, Tensor};
use std::ops::Range;

/// Matrices with the same inputs, stacked: one product computes all their outputs.
pub(super) struct Matrix {
    /// `[outputs, inputs]`.
    pub(super) weight: Tensor,
    /// `[outputs]`.
    pub(super) bias: Option<Tensor>,
}

/// The weights of a normalisation.
pub(super) struct Norm {
    merged: Tensor,
    /// What multiplies: `merged`, or 1 + `merged` in f32.
    pub(super) weight: Tensor,
}

/// One decoder layer.
pub(super) struct LayerWeights {
    pub(super) input_norm: Norm,
    /// Queries, keys, values.
    pub(super) query_key_value: Matrix,
    /// Of each head's queries, and of its keys.
    pub(super) query_key_norms: Option<(Norm, Norm)>,
    pub(super) output: Matrix,
    pub(super) attention_norm: Option<Norm>,
    pub(super) feed_forward_norm: Norm,
    /// Gate, then up.
    pub(super) gate_up: Matrix,
    pub(super) down: Matrix,
    pub(super) down_norm: Option<Norm>,
}

/// All weights of the decoder. Buffers are allocated once and overwritten for every point.
pub(super) struct Weights {
    /// `[vocabulary, hidden]`.
    pub(super) embedding: Tensor,
    pub(super) layers: Vec<LayerWeights>,
    pub(super) final_norm: Norm,
    /// `[vocabulary, hidden]`; the embedding itself where the two are tied.
    pub(super) head: Tensor,
    parts: Vec<Part>,
    unit_offset_norms: bool,
}

/// Where a range of a layout tensor's elements goes.
struct Part {
    tensor: usize,
    elements: Range<usize>,
    /// One-dimensional view of a buffer.
    to: Tensor,
}

/// Allocates buffers and notes what goes where.
struct Builder<'a> {
    base: &'a ModelWeights,
    dtype: DType,
    device: &'a Device,
    parts: Vec<Part>,
}

impl Builder<'_> {
    /// A buffer for rows of tensors, from top to bottom.
    fn rows(&mut self, rows: &[(usize, Range<usize>)]) -> Result<Tensor> {
        let shape = &self.base.layout.tensors[rows[0].0].shape;
        let width: usize = shape[1..].iter().product();
        let outputs: usize = rows.iter().map(|(_, rows)| rows.len()).sum();
        let buffer = Tensor::zeros(outputs * width, self.dtype, self.device)?;
        let mut start = 0;
        // Adjacent rows of one tensor are one part: what is sent for every point is then sent once.
        for adjacent in rows.chunk_by(|one, next| one.0 == next.0 && one.1.end == next.1.start) {
            let (first, last) = (&adjacent[0], &adjacent[adjacent.len() - 1]);
            let elements = first.1.start * width..last.1.end * width;
            let to = buffer.narrow(0, start, elements.len())?;
            start += elements.len();
            self.parts.push(Part { tensor: first.0, elements, to });
        }
        if shape.len() == 1 { Ok(buffer) } else { buffer.reshape((outputs, width)) }
    }

    fn whole(&mut self, tensor: usize) -> Result<Tensor> {
        self.rows(&[(tensor, 0..self.base.layout.tensors[tensor].shape[0])])
    }

    fn matrix(&mut self, parts: &[&Rows]) -> Result<Matrix> {
        let rows: Vec<_> = parts.iter().map(|part| (part.tensor, part.rows.clone())).collect();
        let biases: Option<Vec<_>> = parts.iter().map(|part| Some((part.bias?, part.rows.clone()))).collect();
        let bias = biases.map(|rows| self.rows(&rows)).transpose()?;
        Ok(Matrix { weight: self.rows(&rows)?, bias })
    }

    fn norm(&mut self, tensor: usize) -> Result<Norm> {
        let merged = self.whole(tensor)?;
        Ok(Norm { weight: merged.clone(), merged })
    }

    fn layer(&mut self, names: &LayerNames) -> Result<LayerWeights> {
        Ok(LayerWeights {
            input_norm: self.norm(names.input_norm)?,
            query_key_value: self.matrix(&[&names.query, &names.key, &names.value])?,
            query_key_norms: match names.query_key_norms {
                Some((query, key)) => Some((self.norm(query)?, self.norm(key)?)),
                None => None,
            },
            output: self.matrix(&[&names.output])?,
            attention_norm: names.attention_norm.map(|norm| self.norm(norm)).transpose()?,
            feed_forward_norm: self.norm(names.feed_forward_norm)?,
            gate_up: self.matrix(&[&names.gate, &names.up])?,
            down: self.matrix(&[&names.down])?,
            down_norm: names.down_norm.map(|norm| self.norm(norm)).transpose()?,
        })
    }
}

impl Weights {
    /// Buffers for a model, all zero.
    pub(super) fn zeros(base: &ModelWeights, dtype: DType, device: &Device) -> Result<Self> {
        let layout = &base.layout;
        let mut builder = Builder { base, dtype, device, parts: Vec::new() };
        let embedding = builder.whole(layout.embedding)?;
        let layers = layout.layers.iter().map(|names| builder.layer(names)).collect::<Result<_>>()?;
        let final_norm = builder.norm(layout.final_norm)?;
        let head =
            if layout.head == layout.embedding { embedding.clone() } else { builder.whole(layout.head)? };
        Ok(Self {
            embedding,
            layers,
            final_norm,
            head,
            parts: builder.parts,
            unit_offset_norms: base.config.unit_offset_norms,
        })
    }

    /// Overwrites every buffer with a point's weights: one pass over memory per tensor.
    pub(super) fn fill(
        &mut self,
        source: &MergingSource<'_>,
        sources: &Sources,
    ) -> std::result::Result<(), FillError> {
        let most = self.parts.iter().map(|part| source.plan.terms(part.tensor).len()).max().unwrap_or(0);
        if most > MOST_TERMS {
            return Err(FillError::Terms(most));
        }
        for part in &self.parts {
            let Part { tensor, elements, to } = part;
            let part = |whole: Tensor| whole.narrow(0, elements.start, elements.len());
            let mut terms = Vec::new();
            for term in source.plan.terms(*tensor) {
                let factor = source.point[term.coefficient];
                // As the CPU's merge: a zero term leaves every sum as it is.
                if factor == 0.0 {
                    continue;
                }
                if let Some((weights, aligned)) = sources.vector(source, term.vector, *tensor)? {
                    terms.push(MergeTerm { factor, weights: part(weights)?, aligned });
                }
            }
            let base = part(sources.base(source, *tensor)?)?;
            to.inplace_op1(&MergeInto { base, terms, round: source.dtype })?;
        }
        if self.unit_offset_norms {
            for norm in self.norms() {
                norm.weight = (norm.merged.to_dtype(DType::F32)? + 1.0)?;
            }
        }
        Ok(())
    }

    fn norms(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.layers.iter_mut().flat_map(LayerWeights::norms).chain(std::iter::once(&mut self.final_norm))
    }
}

impl LayerWeights {
    fn norms(&mut self) -> impl Iterator<Item = &mut Norm> {
        let (query, key) = self.query_key_norms.as_mut().map(|(query, key)| (query, key)).unzip();
        let one = [Some(&mut self.input_norm), query, key, self.attention_norm.as_mut()];
        let other = [Some(&mut self.feed_forward_norm), self.down_norm.as_mut()];
        one.into_iter().chain(other).flatten()
    }
}

/// Why a point's weights could not be merged.
pub(super) enum FillError {
    /// Some tensor's sum has this many terms.
    Terms(usize),
    Device(candle_core::Error),
}

impl From<candle_core::Error> for FillError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device(error)
    }
}

/// Base and vectors as far as they stay in the device's memory; the rest comes from the host at every merge.
pub(super) struct Sources {
    device: Device,
    base: Vec<Option<Held>>,
    vectors: Vec<Vec<Option<Held>>>,
}

impl Sources {
    /// Sends what is to stay there.
    pub(super) fn load(
        base: &ModelWeights,
        vectors: &[AlignmentVector],
        device: &Device,
        residency: &Residency,
    ) -> Result<Self> {
        let whole = |stored: &StoredTensor| send(stored, device).map(|elements| Some(Held::Whole(elements)));
        let kept = base
            .tensors
            .iter()
            .enumerate()
            .map(|(tensor, stored)| if residency.keeps_base(tensor) { whole(stored) } else { Ok(None) })
            .collect::<Result<_>>()?;
        let vectors = vectors
            .iter()
            .enumerate()
            .map(|(index, vector)| {
                (0..base.tensors.len())
                    .map(|tensor| match vector.part(tensor) {
                        _ if !residency.keeps_vector(index, tensor) => Ok(None),
                        VectorPart::Unchanged => Ok(None),
                        VectorPart::Delta(stored) | VectorPart::Aligned(stored) => whole(stored),
                        VectorPart::LowRank(product) => send_factors(product, device).map(Some),
                    })
                    .collect::<Result<_>>()
            })
            .collect::<Result<_>>()?;
        Ok(Self { device: device.clone(), base: kept, vectors })
    }

    /// All elements of a base tensor.
    fn base(&self, source: &MergingSource<'_>, tensor: usize) -> Result<Tensor> {
        match &self.base[tensor] {
            Some(held) => held.elements(),
            None => send(&source.base.tensors[tensor], &self.device),
        }
    }

    /// All elements of a vector's tensor, and whether they are an aligned model's; `None` where nothing changed.
    fn vector(
        &self,
        source: &MergingSource<'_>,
        vector: usize,
        tensor: usize,
    ) -> Result<Option<(Tensor, bool)>> {
        let part = source.vectors[vector].part(tensor);
        let aligned = matches!(part, VectorPart::Aligned(_));
        if let Some(held) = &self.vectors[vector][tensor] {
            return Ok(Some((held.elements()?, aligned)));
        }
        let elements = match part {
            VectorPart::Unchanged => return Ok(None),
            VectorPart::Delta(stored) | VectorPart::Aligned(stored) => send(stored, &self.device)?,
            VectorPart::LowRank(product) => send_factors(product, &self.device)?.elements()?,
        };
        Ok(Some((elements, aligned)))
    }
}

/// What stays on the device.
enum Held {
    /// All elements, one-dimensional.
    Whole(Tensor),
    /// `scale · left · right`; multiplied out for the tensor that is being merged, and only then.
    Factors { left: Tensor, right: Tensor, scale: f64 },
}

impl Held {
    /// All elements, one-dimensional.
    fn elements(&self) -> Result<Tensor> {
        match self {
            Self::Whole(elements) => Ok(elements.clone()),
            Self::Factors { left, right, scale } => (left.matmul(right)? * *scale)?.flatten_all(),
        }
    }
}

fn send_factors(product: LowRank<'_>, device: &Device) -> Result<Held> {
    let LowRank { left, right, rank, columns, scale } = product;
    Ok(Held::Factors {
        left: Tensor::from_slice(left, (left.len() / rank, rank), device)?,
        right: Tensor::from_slice(right, (rank, columns), device)?,
        scale: f64::from(scale),
    })
}

/// A stored tensor's elements on the device, one-dimensional, in their own type.
fn send(stored: &StoredTensor, device: &Device) -> Result<Tensor> {
    let dtype = match stored.dtype {
        StoredType::F32 => DType::F32,
        StoredType::F16 => DType::F16,
        StoredType::BF16 => DType::BF16,
    };
    let sent = Tensor::from_raw_buffer(stored.bytes(), dtype, &[stored.len()], device);
    stored.release();
    sent
}

/// What merged weights are held in: their own type on an accelerator, f32 (rounded to that type) on the CPU, where
/// narrow types only cost time.
pub(crate) fn held_as(dtype: WeightType, device: &Device) -> DType {
    match dtype {
        _ if device.is_cpu() => DType::F32,
        WeightType::F32 => DType::F32,
        WeightType::Bf16 => DType::BF16,
        WeightType::F16 => DType::F16,
    }
}

/// The engine's error for a device's.
pub(crate) fn device_error(doing: &'static str) -> impl FnOnce(candle_core::Error) -> EngineError {
    move |source| {
        let text = source.to_string();
        let lower = text.to_lowercase();
        if lower.contains("out of memory")
            || lower.contains("out_of_memory")
            || lower.contains("alloc_failed")
        {
            return EngineError::OutOfMemory { doing, reason: text };
        }
        EngineError::Device { doing, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Stay, split};
    use crate::merge::{Coefficient, MergePlan, MergedModel, merge_to_folder};
    use crate::model::BaseModel;
    use std::path::Path;

    /// Every buffer of a device holds, to the last bit, what the CPU's merge gives: deltas and aligned models, in
    /// every type of weights, held in that type or in f32, resident or streamed.
    #[test]
    fn a_devices_merge_is_the_cpus_to_the_last_bit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/untied");
        let base = BaseModel::open(&folder).expect("the golden opens");
        let deltas = [0, 1].map(|index| folder.join(format!("vector{index}.safetensors")));
        let aligned = tempfile::tempdir().expect("a temporary folder");
        merge_to_folder(&MergedModel::weighted(&folder, &[(deltas[1].clone(), 0.7)]), aligned.path())
            .expect("the aligned model is written");
        let vectors: Vec<_> = [deltas[0].as_path(), aligned.path(), deltas[1].as_path()]
            .iter()
            .map(|path| AlignmentVector::open(path, &base).expect("a vector opens"))
            .collect();
        let coefficients = [0, 1, 2].map(|index| Coefficient::whole(format!("c{index}"), index));
        let plan = MergePlan::new(&coefficients, &base.weights.layout, 3).expect("the coefficients fit");
        for (dtype, held) in [
            (WeightType::F32, DType::F32),
            (WeightType::Bf16, DType::F32),
            (WeightType::Bf16, DType::BF16),
            (WeightType::F16, DType::F32),
            (WeightType::F16, DType::F16),
        ] {
            let mut weights = Weights::zeros(&base.weights, held, &Device::Cpu).expect("buffers");
            // Nothing, and everything, beside what a short query takes.
            for budget in [1, 1 << 40] {
                let (residency, memory) =
                    split(&base.weights, &vectors, (budget, 0, 1), Stay::All).expect("there is room");
                assert_eq!([memory.kept, memory.streamed].map(|bytes| bytes == 0), [budget == 1, budget > 1]);
                let sources = Sources::load(&base.weights, &vectors, &Device::Cpu, &residency)
                    .expect("sources are kept");
                for point in [[0.3, -1.1, 0.45], [0.0, 0.9, 0.0]] {
                    let source = MergingSource {
                        base: &base.weights,
                        vectors: &vectors,
                        plan: &plan,
                        point: &point,
                        dtype,
                    };
                    assert!(weights.fill(&source, &sources).is_ok());
                    for part in &weights.parts {
                        let mut expected = vec![0.0; part.elements.len()];
                        source.read(part.tensor, part.elements.start, &mut expected);
                        let found = part.to.to_dtype(DType::F32).and_then(|part| part.to_vec1::<f32>());
                        let found = found.expect("a buffer is read");
                        assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
                    }
                }
            }
        }
    }
}
