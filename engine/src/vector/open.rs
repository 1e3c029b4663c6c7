//! Opening an alignment vector, in whichever form it comes.

use super::aligned::open_aligned;
use super::delta::open_delta;
use crate::EngineError;
use crate::files::StoredTensor;
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

/// How the difference is stored. A low-rank form will be a third variant.
enum Form {
    /// aligned − base per layout tensor; `None` where nothing changed.
    Delta(Vec<Option<StoredTensor>>),
    /// The aligned weights per layout tensor.
    Aligned(Vec<StoredTensor>),
}

impl AlignmentVector {
    /// Opens a delta safetensors file, or an aligned model's folder (whose difference is taken while merging).
    ///
    /// In a delta file every tensor of the model must be there, unless the file's metadata says that unchanged
    /// ones are left out, as [`extract`](crate::extract) writes it.
    ///
    /// # Errors
    /// [`EngineError`] naming file and tensor: cut short, missing, unknown, misshapen, non-finite, or extracted
    /// from another base.
    pub fn open(path: &Path, base: &BaseModel) -> Result<Self, EngineError> {
        Self::open_against(path, &base.weights)
    }

    /// As [`open`](Self::open), for a base of which only the weights are at hand.
    pub(crate) fn open_against(path: &Path, base: &Arc<ModelWeights>) -> Result<Self, EngineError> {
        let form = if path.is_dir() {
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

    /// blake3 over the form, and names, shapes, types and bytes of the tensors; 64 hexadecimal digits. Computed
    /// on first use.
    pub fn fingerprint(&self) -> &str {
        self.inner.fingerprint.get_or_init(|| {
            let purpose: &[u8] = match &self.inner.form {
                Form::Delta(_) => b"avsweep delta 1\0",
                Form::Aligned(_) => b"avsweep aligned 1\0",
            };
            hash_tensors(purpose, &self.stored())
        })
    }

    /// The base that the vector was opened against.
    pub(crate) fn base(&self) -> &Arc<ModelWeights> {
        &self.inner.base
    }

    /// Adds `factor · delta` to `out`, for elements `start..start + out.len()` of a layout tensor.
    pub(crate) fn add_scaled(
        &self,
        tensor: usize,
        start: usize,
        factor: f32,
        out: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        if self.read(tensor, start, out.len(), scratch) {
            for (sum, delta) in out.iter_mut().zip(scratch.iter()) {
                *sum += factor * delta;
            }
        }
    }

    /// Reads `length` elements of a tensor's delta into `values`; false, with nothing read, where the whole
    /// tensor is unchanged.
    pub(crate) fn read(&self, tensor: usize, start: usize, length: usize, values: &mut Vec<f32>) -> bool {
        match &self.inner.form {
            Form::Delta(deltas) => {
                let Some(delta) = &deltas[tensor] else { return false };
                values.resize(length, 0.0);
                delta.read(start, values);
            }
            Form::Aligned(aligned) => {
                // Both halves in one scratch: aligned in front, base behind.
                values.resize(2 * length, 0.0);
                let (difference, base) = values.split_at_mut(length);
                aligned[tensor].read(start, difference);
                self.inner.base.tensors[tensor].read(start, base);
                difference.iter_mut().zip(base).for_each(|(aligned, base)| *aligned -= *base);
                values.truncate(length);
            }
        }
        true
    }

    /// Lets go of the memory of one layout tensor after a pass over it.
    pub(crate) fn release(&self, tensor: usize) {
        let stored = match &self.inner.form {
            Form::Delta(deltas) => deltas[tensor].as_ref(),
            Form::Aligned(aligned) => Some(&aligned[tensor]),
        };
        stored.iter().for_each(|stored| stored.release());
    }

    fn stored(&self) -> Vec<StoredTensor> {
        match &self.inner.form {
            Form::Delta(deltas) => deltas.iter().flatten().cloned().collect(),
            Form::Aligned(aligned) => aligned.clone(),
        }
    }
}

impl fmt::Debug for AlignmentVector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AlignmentVector").field("path", &self.inner.path).finish_non_exhaustive()
    }
}
