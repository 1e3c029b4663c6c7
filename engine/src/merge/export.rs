//! A merged model as a Hugging Face folder.

use super::coefficient::{Coefficient, MergePlan};
use super::source::MergingSource;
use crate::EngineError;
use crate::files::{TensorHeader, TensorWriter};
use crate::model::ModelWeights;
use crate::run::WeightType;
use crate::vector::AlignmentVector;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Elements that are merged and written together.
const PIECE: usize = 1 << 20;
/// Elements of a piece that one task merges.
const PART: usize = 1 << 16;

/// A point of a model, to be written as a model of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct MergedModel {
    /// The base model's folder.
    pub base: PathBuf,
    /// Delta files, aligned folders or LoRA adapters.
    pub vectors: Vec<PathBuf>,
    /// The knobs.
    pub coefficients: Vec<Coefficient>,
    /// One value per coefficient.
    pub point: Vec<f64>,
}

impl MergedModel {
    /// Whole vectors, each with its weight: `base + Σ weight · vector`.
    pub fn weighted(base: &Path, vectors: &[(PathBuf, f64)]) -> Self {
        Self {
            base: base.to_path_buf(),
            vectors: vectors.iter().map(|(path, _)| path.clone()).collect(),
            coefficients: vectors
                .iter()
                .enumerate()
                .map(|(index, (path, _))| Coefficient::whole(path.display().to_string(), index))
                .collect(),
            point: vectors.iter().map(|(_, weight)| *weight).collect(),
        }
    }
}

/// Writes a merged model to a new or empty folder: one `model.safetensors` with the base's types, next to copies
/// of the base's configuration, tokenizer, template and licence files. transformers loads it.
///
/// A tied output head stays tied. Memory stays at a few megabytes. The weights appear under their name when they
/// are whole.
///
/// # Errors
/// [`EngineError::NotEmpty`] when `out` holds something; those of opening base and vectors, and of coefficients.
pub fn merge_to_folder(model: &MergedModel, out: &Path) -> Result<(), EngineError> {
    let occupied = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(EngineError::io("read", out)(error)),
    };
    if occupied {
        return Err(EngineError::NotEmpty { path: out.to_path_buf() });
    }
    let base = Arc::new(ModelWeights::open(&model.base)?);
    let vectors = model
        .vectors
        .iter()
        .map(|path| AlignmentVector::open_against(path, &base))
        .collect::<Result<Vec<_>, _>>()?;
    let plan = MergePlan::new(&model.coefficients, &base.layout, vectors.len())?;
    let point = plan.checked_point(&model.point)?;
    // Rounded once, to each tensor's own type, when it is encoded.
    let source =
        MergingSource { base: &base, vectors: &vectors, plan: &plan, point: &point, dtype: WeightType::F32 };

    std::fs::create_dir_all(out).map_err(EngineError::io("create", out))?;
    copy_companions(&model.base, out)?;
    let headers: Vec<TensorHeader> = base
        .tensors
        .iter()
        .map(|tensor| TensorHeader {
            name: tensor.name.to_string(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        })
        .collect();
    let mut writer = TensorWriter::create(&out.join("model.safetensors"), &[("format", "pt")], &headers)?;
    let mut piece = Vec::new();
    for (index, tensor) in base.tensors.iter().enumerate() {
        let size = tensor.dtype.size();
        for start in (0..tensor.len()).step_by(PIECE) {
            let elements = PIECE.min(tensor.len() - start);
            piece.resize(elements * size, 0);
            piece.par_chunks_mut(PART * size).enumerate().for_each(|(part, bytes)| {
                source.write(index, start + part * PART, tensor.dtype, bytes);
            });
            writer.append_encoded(&piece, elements)?;
        }
        tensor.release();
        vectors.iter().for_each(|vector| vector.release(index));
    }
    writer.finish()
}

/// Copies what belongs to a model besides its weights. The base's model card stays behind: it describes another
/// model.
fn copy_companions(base: &Path, out: &Path) -> Result<(), EngineError> {
    let entries = std::fs::read_dir(base).map_err(EngineError::io("read", base))?;
    for entry in entries {
        let path = entry.map_err(EngineError::io("read", base))?.path();
        let Some(name) = path.file_name() else { continue };
        let lower = name.to_string_lossy().to_ascii_lowercase();
        let extension = Path::new(&lower).extension().and_then(|extension| extension.to_str());
        let companion = match extension {
            Some("json") => !lower.ends_with(".index.json"),
            Some("jinja" | "txt" | "model" | "tiktoken") => true,
            _ => lower.starts_with("licen") || lower.starts_with("notice"),
        };
        if companion && path.is_file() {
            std::fs::copy(&path, out.join(name)).map_err(EngineError::io("copy", &path))?;
        }
    }
    Ok(())
}
