//! A safetensors file written tensor by tensor: the header first, the data in one pass, renamed when whole.

use super::tensor::StoredType;
use crate::EngineError;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Name, type and shape of a tensor about to be written.
pub(crate) struct TensorHeader {
    pub(crate) name: String,
    pub(crate) dtype: StoredType,
    pub(crate) shape: Vec<usize>,
}

impl TensorHeader {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The JSON header, padded so that the data begins at a multiple of 8 bytes as the format wants it.
fn header(metadata: &[(&str, &str)], tensors: &[TensorHeader]) -> String {
    let mut fields = Map::new();
    let metadata: Map<String, Value> =
        metadata.iter().map(|&(key, value)| (key.to_owned(), Value::from(value))).collect();
    fields.insert("__metadata__".to_owned(), Value::Object(metadata));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.len() * tensor.dtype.size();
        let field =
            json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        fields.insert(tensor.name.clone(), field);
        offset = end;
    }
    let mut header = Value::Object(fields).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    header
}

/// Writes tensors in the order of their headers, piece by piece; memory stays at one piece.
///
/// The data goes to a temporary file in the target's folder, which [`TensorWriter::finish`] renames: readers
/// never see half a file. Same tensors, same bytes: the header's order is the given one.
pub(crate) struct TensorWriter {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    /// Type and elements left of the tensors that are not complete, the next one first.
    pending: VecDeque<(StoredType, usize)>,
    scratch: Vec<u8>,
}

impl TensorWriter {
    /// Writes the header for `tensors` and `metadata`.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub(crate) fn create(
        path: &Path,
        metadata: &[(&str, &str)],
        tensors: &[TensorHeader],
    ) -> Result<Self, EngineError> {
        let header = header(metadata, tensors);
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = temporary_in(folder).map_err(EngineError::io("create a file in", folder))?;
        let mut file = BufWriter::with_capacity(1 << 20, temporary);
        file.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| file.write_all(header.as_bytes()))
            .map_err(EngineError::io("write", path))?;
        let pending = tensors.iter().map(|tensor| (tensor.dtype, tensor.len())).collect();
        Ok(Self { path: path.to_path_buf(), file, pending, scratch: Vec::new() })
    }

    /// Appends the next elements, all of one tensor, rounding to its type.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    ///
    /// # Panics
    /// When more elements are appended than were announced: a mistake of this crate, not of its input.
    pub(crate) fn append(&mut self, values: &[f32]) -> Result<(), EngineError> {
        let dtype = self.advance(values.len());
        self.scratch.resize(values.len() * dtype.size(), 0);
        dtype.encode(values, &mut self.scratch);
        self.file.write_all(&self.scratch).map_err(EngineError::io("write", &self.path))
    }

    /// As [`append`](Self::append), for elements that are encoded in the tensor's type already.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    ///
    /// # Panics
    /// When more elements are appended than were announced: a mistake of this crate, not of its input.
    pub(crate) fn append_encoded(&mut self, bytes: &[u8], elements: usize) -> Result<(), EngineError> {
        let dtype = self.advance(elements);
        debug_assert_eq!(bytes.len(), elements * dtype.size());
        self.file.write_all(bytes).map_err(EngineError::io("write", &self.path))
    }

    /// Counts elements of the next tensor that is not complete; its type.
    fn advance(&mut self, elements: usize) -> StoredType {
        while self.pending.front().is_some_and(|(_, left)| *left == 0) {
            self.pending.pop_front();
        }
        let (dtype, left) =
            self.pending.front_mut().expect("no more tensors are appended than were announced");
        *left = left.checked_sub(elements).expect("a piece belongs to one tensor");
        *dtype
    }

    /// Flushes, syncs and renames into place.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub(crate) fn finish(self) -> Result<(), EngineError> {
        debug_assert!(self.pending.iter().all(|(_, left)| *left == 0), "every announced tensor was appended");
        let path = self.path;
        let temporary =
            self.file.into_inner().map_err(|error| EngineError::io("write", &path)(error.into_error()))?;
        temporary.as_file().sync_all().map_err(EngineError::io("write", &path))?;
        temporary.persist(&path).map_err(|error| EngineError::io("rename a file to", &path)(error.error))?;
        Ok(())
    }
}

/// A temporary file with the permissions of any new file: the default, its owner alone, would make models unreadable.
fn temporary_in(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".avsweep-").suffix(".partial");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}
