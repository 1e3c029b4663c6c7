//! Opening an alignment vector, in whichever form it comes.

use super::aligned::open_aligned;
use super::delta::open_delta;
use super::lora::{self, Lora, LoraDelta};
use crate::EngineError;
use crate::files::StoredTensor;
use crate::kernels::{LowRank, Stored, add_scaled_difference};
use crate::model::{BaseModel, ModelWeights, hash_tensors};
use rayon::prelude::*;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// An opened, checked alignment vector of one base model. Cloning is cheap.
#[derive(Clone)]
pub struct AlignmentVector {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    base: Arc<ModelWeights>,
    form: Form,
    fingerprint: OnceLock<String>,
}

/// How the difference is stored.
enum Form {
    /// aligned − base per layout tensor; `None` where nothing changed.
    Delta(Vec<Option<StoredTensor>>),
    /// The aligned weights per layout tensor.
    Aligned(Vec<StoredTensor>),
    /// Low-rank products, and weights saved whole.
    Lora(Lora),
}

/// A tensor's part of a vector.
pub(crate) enum Part<'a> {
    Unchanged,
    Delta(&'a StoredTensor),
    /// To be taken minus the base's.
    Aligned(&'a StoredTensor),
    LowRank(LowRank<'a>),
}

/// Elements that are compared at a time.
const PIECE: usize = 1 << 18;

/// Elements of an aligned tensor and of the base's that are there at a time.
const DIFFERENCE: usize = 256;

impl AlignmentVector {
    /// Opens a delta safetensors file, an aligned model's folder (whose difference is taken while merging), or a PEFT
    /// LoRA adapter's folder (whose factors stay factors).
    ///
    /// In a delta file every tensor of the model must be there, unless the file's metadata says that unchanged
    /// ones are left out, as [`extract`](crate::extract) writes it. An adapter must hold exactly the tensors that its
    /// configuration asks for in this base.
    ///
    /// # Errors
    /// [`EngineError`] naming file and tensor: cut short, missing, unknown, misshapen, non-finite, or extracted
    /// from another base; naming file and field for what an adapter's configuration asks for and is not merged here.
    pub fn open(path: &Path, base: &BaseModel) -> Result<Self, EngineError> {
        Self::open_against(path, &base.weights)
    }

    /// As [`open`](Self::open), for a base of which only the weights are at hand.
    pub(crate) fn open_against(path: &Path, base: &Arc<ModelWeights>) -> Result<Self, EngineError> {
        let form = if path.join(lora::CONFIG).is_file() {
            Form::Lora(Lora::open(path, base)?)
        } else if path.is_dir() {
            Form::Aligned(open_aligned(path, base)?)
        } else {
            Form::Delta(open_delta(path, base)?)
        };
        let vector = Self {
            inner: Arc::new(Inner {
                path: path.to_path_buf(),
                base: Arc::clone(base),
                form,
                fingerprint: OnceLock::new(),
            }),
        };
        vector.stored().par_iter().try_for_each(StoredTensor::check_finite)?;
        Ok(vector)
    }

    /// Where the vector was opened from.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// blake3 over the form, and names, shapes, types and bytes of the tensors (of an adapter also the scales); 64
    /// hexadecimal digits. Computed on first use.
    pub fn fingerprint(&self) -> &str {
        self.inner.fingerprint.get_or_init(|| match &self.inner.form {
            Form::Delta(_) => hash_tensors(b"avsweep delta 1\0", &self.stored()),
            Form::Aligned(_) => hash_tensors(b"avsweep aligned 1\0", &self.stored()),
            Form::Lora(lora) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(hash_tensors(b"avsweep lora 1\0", &lora.stored).as_bytes());
                for (tensor, scale) in lora.scales() {
                    hasher.update(&(tensor as u64).to_le_bytes());
                    hasher.update(&scale.to_le_bytes());
                }
                hasher.finalize().to_hex().to_string()
            }
        })
    }

    /// The base that the vector was opened against.
    pub(crate) fn base(&self) -> &Arc<ModelWeights> {
        &self.inner.base
    }

    /// Whether the vector has anything to add to a layout tensor.
    pub(crate) fn acts_on(&self, tensor: usize) -> bool {
        !matches!(self.part(tensor), Part::Unchanged)
    }

    /// Whether a layout tensor's delta is a product, of which whole rows are best computed together.
    pub(crate) fn is_low_rank(&self, tensor: usize) -> bool {
        matches!(self.part(tensor), Part::LowRank(_))
    }

    /// Bytes of low-rank factors, which are always in memory.
    pub(crate) fn factor_bytes(&self) -> u64 {
        (0..self.inner.base.tensors.len())
            .map(|tensor| match self.part(tensor) {
                Part::LowRank(product) => product.bytes(),
                _ => 0,
            })
            .sum()
    }

    /// Stored elements `start..start + length` of a layout tensor's delta, and whether the base's are to be taken from them;
    /// `None` where they are not stored.
    pub(crate) fn stored_part(
        &self,
        tensor: usize,
        start: usize,
        length: usize,
    ) -> Option<(Stored<'_>, bool)> {
        match self.part(tensor) {
            Part::Unchanged | Part::LowRank(_) => None,
            Part::Delta(delta) => Some((delta.stored(start, length), false)),
            Part::Aligned(aligned) => Some((aligned.stored(start, length), true)),
        }
    }

    /// Adds `factor · delta` to `sums`, for elements `start..start + sums.len()` of a layout tensor.
    pub(crate) fn add_scaled(&self, tensor: usize, start: usize, factor: f32, sums: &mut [f32]) {
        match self.part(tensor) {
            Part::Unchanged => {}
            Part::Delta(delta) => delta.add_scaled(start, factor, sums),
            Part::LowRank(product) => product.add_scaled(start, factor, sums),
            Part::Aligned(aligned) => {
                let base = &self.inner.base.tensors[tensor];
                let (mut ours, mut theirs) = ([0.0; DIFFERENCE], [0.0; DIFFERENCE]);
                for (index, sums) in sums.chunks_mut(DIFFERENCE).enumerate() {
                    let first = start + index * DIFFERENCE;
                    let (ours, theirs) = (&mut ours[..sums.len()], &mut theirs[..sums.len()]);
                    aligned.read(first, ours);
                    base.read(first, theirs);
                    add_scaled_difference(ours, theirs, factor, sums);
                }
            }
        }
    }

    /// Whether a layout tensor's delta may have elements that are not zero. Reads an aligned tensor whole.
    pub(crate) fn is_changed(&self, tensor: usize) -> bool {
        match self.part(tensor) {
            Part::Unchanged => false,
            Part::Delta(_) | Part::LowRank(_) => true,
            Part::Aligned(aligned) => {
                let base = &self.inner.base.tensors[tensor];
                let changed = if aligned.dtype == base.dtype {
                    aligned.bytes() != base.bytes()
                } else {
                    let mut delta = vec![0.0; PIECE.min(aligned.len())];
                    (0..aligned.len()).step_by(PIECE).any(|start| {
                        let delta = &mut delta[..PIECE.min(aligned.len() - start)];
                        self.read(tensor, start, delta);
                        delta.iter().any(|value| *value != 0.0)
                    })
                };
                aligned.release();
                base.release();
                changed
            }
        }
    }

    /// Whether the vector adds nothing to any tensor. Reads up to the first element that is not zero; of a product whose
    /// factors are not zero it is not asked whether it cancels out.
    pub fn is_zero(&self) -> bool {
        (0..self.inner.base.tensors.len()).all(|tensor| match self.part(tensor) {
            Part::Unchanged => true,
            Part::LowRank(product) => {
                let zero = |factor: &[f32]| factor.iter().all(|value| *value == 0.0);
                product.scale == 0.0 || zero(product.left) || zero(product.right)
            }
            Part::Aligned(_) => !self.is_changed(tensor),
            Part::Delta(delta) => {
                let mut piece = vec![0.0; PIECE.min(delta.len())];
                let zero = (0..delta.len()).step_by(PIECE).all(|start| {
                    let piece = &mut piece[..PIECE.min(delta.len() - start)];
                    delta.read(start, piece);
                    piece.iter().all(|value| *value == 0.0)
                });
                delta.release();
                zero
            }
        })
    }

    /// Elements `start..start + out.len()` of a layout tensor's delta.
    pub(crate) fn read(&self, tensor: usize, start: usize, out: &mut [f32]) {
        out.fill(0.0);
        self.add_scaled(tensor, start, 1.0, out);
    }

    /// Lets go of the memory of one layout tensor after a pass over it.
    pub(crate) fn release(&self, tensor: usize) {
        if let Part::Delta(stored) | Part::Aligned(stored) = self.part(tensor) {
            stored.release();
        }
    }

    /// A layout tensor's part.
    pub(crate) fn part(&self, tensor: usize) -> Part<'_> {
        match &self.inner.form {
            Form::Delta(deltas) => deltas[tensor].as_ref().map_or(Part::Unchanged, Part::Delta),
            Form::Aligned(aligned) => Part::Aligned(&aligned[tensor]),
            Form::Lora(lora) => match &lora.deltas[tensor] {
                None => Part::Unchanged,
                Some(LoraDelta::Saved(saved)) => Part::Aligned(saved),
                Some(LoraDelta::Product(factors)) => Part::LowRank(factors.product()),
            },
        }
    }

    fn stored(&self) -> Vec<StoredTensor> {
        match &self.inner.form {
            Form::Delta(deltas) => deltas.iter().flatten().cloned().collect(),
            Form::Aligned(aligned) => aligned.clone(),
            // Factors are in memory, and were checked on the way there.
            Form::Lora(_) => Vec::new(),
        }
    }
}

impl fmt::Debug for AlignmentVector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AlignmentVector").field("path", &self.inner.path).finish_non_exhaustive()
    }
}
