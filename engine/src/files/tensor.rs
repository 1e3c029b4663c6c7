//! One memory-mapped safetensors file, and the tensors in it as f32 readers.

use crate::kernels::Stored;
use crate::{EngineError, kernels};
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Elements that one parallel task scans or converts at a time.
const BLOCK: usize = 1 << 16;

/// Tensors of at least this many bytes are let go of after a pass over them.
#[cfg(unix)]
const LARGE: usize = 64 << 10;

/// The floating-point types that weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StoredType {
    F32,
    F16,
    BF16,
}

impl StoredType {
    /// Bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The name that safetensors headers use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// Reads little-endian elements into `out`; `bytes` holds exactly `out.len()` of them.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(bytes.len(), out.len() * self.size());
        match self {
            Self::F32 => kernels::decode_f32(bytes, out),
            Self::BF16 => kernels::decode_bf16(bytes, out),
            Self::F16 => kernels::decode_f16(bytes, out),
        }
    }

    /// `sums += factor · x` for the little-endian elements in `bytes`, exactly `sums.len()` of them.
    fn add_scaled(self, bytes: &[u8], factor: f32, sums: &mut [f32]) {
        debug_assert_eq!(bytes.len(), sums.len() * self.size());
        match self {
            Self::F32 => kernels::add_scaled_f32(bytes, factor, sums),
            Self::BF16 => kernels::add_scaled_bf16(bytes, factor, sums),
            Self::F16 => kernels::add_scaled_f16(bytes, factor, sums),
        }
    }

    /// Writes `values` as little-endian elements, each rounded to nearest, ties to even; `bytes` has room for exactly
    /// them.
    pub(crate) fn encode(self, values: &[f32], bytes: &mut [u8]) {
        debug_assert_eq!(bytes.len(), values.len() * self.size());
        match self {
            Self::F32 => kernels::encode_f32(values, bytes),
            Self::BF16 => kernels::encode_bf16(values, bytes),
            Self::F16 => kernels::encode_f16(values, bytes),
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One tensor inside a memory-mapped file. Cloning shares the mapping.
#[derive(Clone)]
pub(crate) struct StoredTensor {
    pub(crate) path: Arc<Path>,
    pub(crate) name: Arc<str>,
    pub(crate) dtype: StoredType,
    pub(crate) shape: Vec<usize>,
    map: Arc<Mmap>,
    bytes: Range<usize>,
}

impl StoredTensor {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// The raw little-endian bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[self.bytes.clone()]
    }

    /// `length` elements from element `start` on, for the kernels.
    pub(crate) fn stored(&self, start: usize, length: usize) -> Stored<'_> {
        let size = self.dtype.size();
        let bytes = &self.bytes()[start * size..(start + length) * size];
        match self.dtype {
            StoredType::F32 => Stored::F32(bytes),
            StoredType::F16 => Stored::F16,
            StoredType::BF16 => Stored::Bf16(bytes),
        }
    }

    /// Reads `out.len()` elements from element `start` on, as f32.
    pub(crate) fn read(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        self.dtype.decode(&self.bytes()[start * size..(start + out.len()) * size], out);
    }

    /// `sums += factor · x` for `sums.len()` elements from element `start` on.
    pub(crate) fn add_scaled(&self, start: usize, factor: f32, sums: &mut [f32]) {
        let size = self.dtype.size();
        self.dtype.add_scaled(&self.bytes()[start * size..(start + sums.len()) * size], factor, sums);
    }

    /// Lets the pages of a large tensor go, so that passing over a model once does not keep it in memory. They come
    /// back from the file when they are read again.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if self.bytes.len() >= LARGE {
            // SAFETY: the mapping is shared, read-only and backed by a file, so dropped pages are read again
            // from it with the same content.
            let advised = unsafe {
                self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.bytes.start, self.bytes.len())
            };
            // Advice only: a system that does not take it keeps the pages.
            drop(advised);
        }
    }

    /// Checks that every element is a finite number.
    ///
    /// # Errors
    /// [`EngineError::NonFinite`] naming the first offending element.
    pub(crate) fn check_finite(&self) -> Result<(), EngineError> {
        let blocks = self.len().div_ceil(BLOCK);
        let offending = (0..blocks).into_par_iter().find_map_first(|block| {
            let start = block * BLOCK;
            let mut values = vec![0.0; BLOCK.min(self.len() - start)];
            self.read(start, &mut values);
            // The sum of x·0 is 0 only if all are finite: it vectorises, unlike an early exit.
            if values.iter().map(|value| value * 0.0).sum::<f32>() == 0.0 {
                return None;
            }
            values.iter().position(|value| !value.is_finite()).map(|at| (start + at, values[at]))
        });
        self.release();
        match offending {
            None => Ok(()),
            Some((index, value)) => Err(EngineError::NonFinite {
                path: self.path.to_path_buf(),
                tensor: self.name.to_string(),
                index,
                value,
            }),
        }
    }

    /// Whether both hold the same numbers, whatever types they are stored in.
    pub(crate) fn has_the_numbers_of(&self, other: &Self) -> bool {
        let blocks = self.len().div_ceil(BLOCK);
        let alike = |block: usize| {
            let start = block * BLOCK;
            let mut values = [vec![0.0; BLOCK.min(self.len() - start)], Vec::new()];
            values[1].resize(values[0].len(), 0.0);
            self.read(start, &mut values[0]);
            other.read(start, &mut values[1]);
            values[0] == values[1]
        };
        self.len() == other.len() && (0..blocks).into_par_iter().all(alike)
    }

    /// Hash over type, shape and bytes (the name belongs to whoever lists the tensors).
    pub(crate) fn content_hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.dtype.name().as_bytes());
        hasher.update(&(self.shape.len() as u64).to_le_bytes());
        for &dimension in &self.shape {
            hasher.update(&(dimension as u64).to_le_bytes());
        }
        if self.bytes.len() > 1 << 20 {
            hasher.update_rayon(self.bytes());
        } else {
            hasher.update(self.bytes());
        }
        self.release();
        hasher.finalize()
    }

    /// Checks the shape against the model's.
    ///
    /// # Errors
    /// [`EngineError::Shape`].
    pub(crate) fn check_shape(&self, wanted: &[usize]) -> Result<(), EngineError> {
        if self.shape == wanted {
            return Ok(());
        }
        Err(EngineError::Shape {
            path: self.path.to_path_buf(),
            tensor: self.name.to_string(),
            found: self.shape.clone(),
            wanted: wanted.to_vec(),
        })
    }
}

impl fmt::Debug for StoredTensor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}{:?} in {}", self.name, self.dtype, self.shape, self.path.display())
    }
}

/// A safetensors file whose header has been checked against its length.
pub(crate) struct TensorFile {
    pub(crate) path: PathBuf,
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
    pub(crate) metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Maps the file and checks its header: sound JSON, offsets that cover the file exactly, weight types.
    ///
    /// # Errors
    /// [`EngineError::Io`], [`EngineError::Length`], [`EngineError::Safetensors`] or [`EngineError::Dtype`].
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let file = std::fs::File::open(path).map_err(EngineError::io("open", path))?;
        let length = file.metadata().map_err(EngineError::io("read", path))?.len();
        if length == 0 {
            return Err(EngineError::Length { path: path.to_path_buf(), found: 0, wanted: 8 });
        }
        // SAFETY: the mapping is read-only and private to this process; as everywhere that weights are mapped,
        // nobody may truncate the file while a sweep runs on it.
        let map = unsafe { Mmap::map(&file) }.map_err(EngineError::io("map", path))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|source| match described_length(&map) {
                Some(wanted) if wanted != length => {
                    EngineError::Length { path: path.to_path_buf(), found: length, wanted }
                }
                _ => EngineError::Safetensors { path: path.to_path_buf(), source },
            })?;
        let data_start = 8 + header;
        let map = Arc::new(map);
        let shared: Arc<Path> = Arc::from(path);
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let Some(dtype) = StoredType::of(info.dtype) else {
                return Err(EngineError::Dtype {
                    path: path.to_path_buf(),
                    tensor: name,
                    found: format!("{:?}", info.dtype),
                });
            };
            let tensor = StoredTensor {
                path: Arc::clone(&shared),
                name: Arc::from(name.as_str()),
                dtype,
                shape: info.shape.clone(),
                map: Arc::clone(&map),
                bytes: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
            };
            tensors.insert(name, tensor);
        }
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Ok(Self { path: path.to_path_buf(), tensors, metadata })
    }
}

/// The file length that a safetensors header describes, as far as it can be made out.
fn described_length(map: &[u8]) -> Option<u64> {
    let (prefix, rest) = map.split_first_chunk::<8>()?;
    let header = u64::from_le_bytes(*prefix);
    let header_end = header.checked_add(8)?;
    let Some(text) = usize::try_from(header).ok().and_then(|length| rest.get(..length)) else {
        // A header of at most the format's 100 MB that the file does not even hold.
        return (header <= 100_000_000).then_some(header_end);
    };
    let parsed: serde_json::Value = serde_json::from_slice(text).ok()?;
    let last = parsed
        .as_object()?
        .iter()
        .filter(|(name, _)| name.as_str() != "__metadata__")
        .filter_map(|(_, entry)| entry.get("data_offsets")?.get(1)?.as_u64())
        .max()
        .unwrap_or(0);
    header_end.checked_add(last)
}
