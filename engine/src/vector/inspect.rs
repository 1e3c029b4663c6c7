//! What alignment vectors look like: norms, directions, how much of the model they touch.

use super::open::AlignmentVector;
use crate::EngineError;
use crate::files::{StoredTensor, TensorFile};
use crate::model::ModelWeights;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Elements that are read together.
const PIECE: usize = 1 << 16;

/// One tensor of a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorNorm {
    /// The tensor.
    pub name: String,
    /// Euclidean norm of its delta.
    pub norm: f64,
    /// That norm over the base tensor's, where a base was given.
    pub relative_norm: Option<f64>,
    /// Elements whose delta is not zero.
    pub changed_elements: u64,
    /// All elements.
    pub elements: u64,
}

/// All tensors of one layer (`model.layers.3`), or a tensor outside the layers.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// The layer's or tensor's name.
    pub name: String,
    /// Euclidean norm of its deltas together.
    pub norm: f64,
    /// That norm over the base layer's, where a base was given.
    pub relative_norm: Option<f64>,
}

/// One vector.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorReport {
    /// Where it lies.
    pub path: PathBuf,
    /// Euclidean norm of the whole delta.
    pub norm: f64,
    /// That norm over the whole base's, where a base was given.
    pub relative_norm: Option<f64>,
    /// Tensors with a delta that is not zero.
    pub changed_tensors: usize,
    /// All tensors: the base's where one was given, else those in any of the files.
    pub tensors_total: usize,
    /// Elements whose delta is not zero.
    pub changed_elements: u64,
    /// All elements of those tensors.
    pub elements: u64,
    /// By layer, in the model's order.
    pub layers: Vec<LayerNorm>,
    /// By tensor, in the model's order.
    pub tensors: Vec<TensorNorm>,
}

/// Several vectors side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct InspectReport {
    /// One report per vector, in the given order.
    pub vectors: Vec<VectorReport>,
    /// Cosine between each two vectors' whole deltas; 0 where one of them is zero.
    pub cosine: Vec<Vec<f64>>,
}

/// A tensor's delta in one vector.
enum Delta {
    Unchanged,
    Stored(StoredTensor),
    /// A layout tensor of a vector that was opened against the base.
    Opened(AlignmentVector, usize),
}

impl Delta {
    /// Elements `start..start + out.len()`.
    fn read(&self, start: usize, out: &mut [f32]) {
        match self {
            Self::Unchanged => out.fill(0.0),
            Self::Stored(tensor) => tensor.read(start, out),
            Self::Opened(vector, tensor) => vector.read(*tensor, start, out),
        }
    }

    fn release(&self) {
        match self {
            Self::Unchanged => {}
            Self::Stored(tensor) => tensor.release(),
            Self::Opened(vector, tensor) => vector.release(*tensor),
        }
    }
}

/// A tensor across the base and all vectors.
struct Column {
    name: String,
    elements: usize,
    base: Option<StoredTensor>,
    deltas: Vec<Delta>,
}

/// Sums over one tensor.
struct Sums {
    base_squares: f64,
    changed: Vec<u64>,
    /// Row-major, vectors × vectors.
    products: Vec<f64>,
}

/// Reads vectors (delta files, or aligned folders and LoRA adapters where a base is given) and compares them.
///
/// With a base, everything is checked against it and norms are also given relative to it; without one, only delta
/// files can be read, and an absent tensor counts as unchanged.
///
/// # Errors
/// Those of opening the base and the vectors; [`EngineError::MissingFile`] for a folder without a base;
/// [`EngineError::Shape`] when two delta files disagree about a tensor.
pub fn inspect(base: Option<&Path>, vectors: &[PathBuf]) -> Result<InspectReport, EngineError> {
    let columns = match base {
        Some(folder) => against_base(&Arc::new(ModelWeights::open(folder)?), vectors)?,
        None => deltas_alone(vectors)?,
    };
    let sums: Vec<Sums> = columns.par_iter().map(|column| column.sums(vectors.len())).collect();
    let reports =
        (0..vectors.len()).map(|vector| report(&vectors[vector], vector, vectors.len(), &columns, &sums));
    let vectors_count = vectors.len();
    let product =
        |a: usize, b: usize| sums.iter().map(|sums| sums.products[a * vectors_count + b]).sum::<f64>();
    let cosine = |a: usize, b: usize| {
        let norms = (product(a, a) * product(b, b)).sqrt();
        if norms == 0.0 { 0.0 } else { product(a, b) / norms }
    };
    Ok(InspectReport {
        vectors: reports.collect(),
        cosine: (0..vectors_count).map(|a| (0..vectors_count).map(|b| cosine(a, b)).collect()).collect(),
    })
}

fn against_base(base: &Arc<ModelWeights>, vectors: &[PathBuf]) -> Result<Vec<Column>, EngineError> {
    let mut columns: Vec<Column> = base
        .tensors
        .iter()
        .map(|tensor| Column {
            name: tensor.name.to_string(),
            elements: tensor.len(),
            base: Some(tensor.clone()),
            deltas: Vec::new(),
        })
        .collect();
    for path in vectors {
        let vector = AlignmentVector::open_against(path, base)?;
        for (index, column) in columns.iter_mut().enumerate() {
            column.deltas.push(Delta::Opened(vector.clone(), index));
        }
    }
    Ok(columns)
}

fn deltas_alone(vectors: &[PathBuf]) -> Result<Vec<Column>, EngineError> {
    let mut columns: BTreeMap<String, Column> = BTreeMap::new();
    for (index, path) in vectors.iter().enumerate() {
        if path.is_dir() {
            return Err(EngineError::MissingFile {
                path: path.clone(),
                wanted: "delta file (folders can only be inspected against their base)".to_owned(),
            });
        }
        for (name, tensor) in TensorFile::open(path)?.tensors {
            let column = columns.entry(name.clone()).or_insert_with(|| Column {
                name,
                elements: tensor.len(),
                base: None,
                deltas: Vec::new(),
            });
            if let Some(Delta::Stored(earlier)) =
                column.deltas.iter().find(|delta| matches!(delta, Delta::Stored(_)))
            {
                tensor.check_shape(&earlier.shape)?;
            }
            column.deltas.resize_with(index, || Delta::Unchanged);
            column.deltas.push(Delta::Stored(tensor));
        }
    }
    let mut columns: Vec<Column> = columns.into_values().collect();
    columns.iter_mut().for_each(|column| column.deltas.resize_with(vectors.len(), || Delta::Unchanged));
    columns.sort_by_cached_key(|column| model_order(&column.name));
    for column in &columns {
        for delta in &column.deltas {
            if let Delta::Stored(tensor) = delta {
                tensor.check_finite()?;
            }
        }
    }
    Ok(columns)
}

/// Names sorted with numbers as numbers: layer 10 after layer 9.
fn model_order(name: &str) -> Vec<(u64, String)> {
    name.split('.').map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
}

impl Column {
    fn sums(&self, vectors: usize) -> Sums {
        let mut sums =
            Sums { base_squares: 0.0, changed: vec![0; vectors], products: vec![0.0; vectors * vectors] };
        let mut base = Vec::new();
        let mut deltas = vec![Vec::new(); vectors];
        for start in (0..self.elements).step_by(PIECE) {
            let length = PIECE.min(self.elements - start);
            if let Some(tensor) = &self.base {
                base.resize(length, 0.0);
                tensor.read(start, &mut base);
                sums.base_squares += dot(&base, &base);
            }
            for (values, delta) in deltas.iter_mut().zip(&self.deltas) {
                values.resize(length, 0.0);
                delta.read(start, values);
            }
            for a in 0..vectors {
                sums.changed[a] += deltas[a].iter().filter(|&&value| value != 0.0).count() as u64;
                for b in 0..vectors {
                    sums.products[a * vectors + b] += dot(&deltas[a], &deltas[b]);
                }
            }
        }
        self.base.iter().for_each(StoredTensor::release);
        self.deltas.iter().for_each(Delta::release);
        sums
    }

    /// `model.layers.3` for a tensor of layer 3, otherwise the tensor's name without `.weight`.
    fn layer(&self) -> &str {
        let end = self.name.strip_prefix("model.layers.").and_then(|rest| rest.find('.'));
        match end {
            Some(end) => &self.name[.."model.layers.".len() + end],
            None => self.name.strip_suffix(".weight").unwrap_or(&self.name),
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn report(path: &Path, vector: usize, vectors: usize, columns: &[Column], sums: &[Sums]) -> VectorReport {
    let relative =
        |squares: f64, base_squares: f64| (base_squares > 0.0).then(|| (squares / base_squares).sqrt());
    let mut layers: Vec<(String, f64, f64)> = Vec::new();
    let mut tensors = Vec::with_capacity(columns.len());
    let (mut total, mut base_total) = (0.0, 0.0);
    for (column, sums) in columns.iter().zip(sums) {
        let squares = sums.products[vector * vectors + vector];
        total += squares;
        base_total += sums.base_squares;
        match layers.last_mut().filter(|(name, ..)| name == column.layer()) {
            Some((_, layer, base)) => {
                *layer += squares;
                *base += sums.base_squares;
            }
            None => layers.push((column.layer().to_owned(), squares, sums.base_squares)),
        }
        tensors.push(TensorNorm {
            name: column.name.clone(),
            norm: squares.sqrt(),
            relative_norm: relative(squares, sums.base_squares),
            changed_elements: sums.changed[vector],
            elements: column.elements as u64,
        });
    }
    VectorReport {
        path: path.to_path_buf(),
        norm: total.sqrt(),
        relative_norm: relative(total, base_total),
        changed_tensors: tensors.iter().filter(|tensor| tensor.changed_elements > 0).count(),
        tensors_total: tensors.len(),
        changed_elements: tensors.iter().map(|tensor| tensor.changed_elements).sum(),
        elements: tensors.iter().map(|tensor| tensor.elements).sum(),
        layers: layers
            .into_iter()
            .map(|(name, squares, base)| LayerNorm {
                name,
                norm: squares.sqrt(),
                relative_norm: relative(squares, base),
            })
            .collect(),
        tensors,
    }
}
