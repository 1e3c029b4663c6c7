//! JSON configuration files whose complaints name file, field, value found and value wanted.

use crate::EngineError;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Reads a UTF-8 text file.
///
/// # Errors
/// [`EngineError::Io`] when it cannot be read or is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, EngineError> {
    std::fs::read_to_string(path).map_err(EngineError::io("read", path))
}

/// Reads a JSON file whole.
///
/// # Errors
/// [`EngineError::Io`] or [`EngineError::Json`].
pub(crate) fn read_json(path: &Path) -> Result<Value, EngineError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|source| EngineError::Json { path: path.to_path_buf(), source })
}

/// A parsed JSON file together with its path, for typed access to its fields.
pub(crate) struct JsonFile {
    path: PathBuf,
    root: Value,
}

impl JsonFile {
    /// Reads and parses `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        Ok(Self { path: path.to_path_buf(), root: read_json(path)? })
    }

    /// The file's fields; none where it is not an object.
    pub(crate) fn object(&self) -> serde_json::Map<String, Value> {
        self.root.as_object().cloned().unwrap_or_default()
    }

    /// The value at a dotted field name; JSON `null` counts as absent.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        field.split('.').try_fold(&self.root, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// Every field of the object, in the file's order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.root.as_object().into_iter().flatten().map(|(field, value)| (field.as_str(), value))
    }

    /// A positive integer that must be there.
    pub(crate) fn size(&self, field: &str) -> Result<usize, EngineError> {
        self.optional_size(field)?.ok_or_else(|| self.wrong(field, "a positive integer"))
    }

    /// A positive integer that may be absent.
    pub(crate) fn optional_size(&self, field: &str) -> Result<Option<usize>, EngineError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                // No model's size is larger; products of two of them fit a usize.
                .filter(|&number| (1..=i32::MAX as usize).contains(&number))
                .map(Some)
                .ok_or_else(|| self.wrong(field, "a positive integer below 2³¹")),
        }
    }

    /// A positive finite number that may be absent.
    pub(crate) fn optional_number(&self, field: &str) -> Result<Option<f64>, EngineError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0)
                .map(Some)
                .ok_or_else(|| self.wrong(field, "a positive number")),
        }
    }

    /// A boolean that may be absent.
    pub(crate) fn flag(&self, field: &str) -> Result<Option<bool>, EngineError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| self.wrong(field, "true or false")),
        }
    }

    /// A string that may be absent.
    pub(crate) fn optional_text(&self, field: &str) -> Result<Option<&str>, EngineError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.wrong(field, "a string")),
        }
    }

    /// A list of strings that may be absent.
    pub(crate) fn texts(&self, field: &str) -> Result<Option<Vec<&str>>, EngineError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let texts = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        texts.map(Some).ok_or_else(|| self.wrong(field, "a list of strings"))
    }

    /// A list of positive finite numbers that may be absent.
    pub(crate) fn numbers(&self, field: &str) -> Result<Option<Vec<f64>>, EngineError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let numbers = value.as_array().and_then(|list| list.iter().map(number).collect());
        numbers.map(Some).ok_or_else(|| self.wrong(field, "a list of positive numbers"))
    }

    /// Whether a top-level field is there, if only as `null`.
    pub(crate) fn names(&self, field: &str) -> bool {
        self.root.get(field).is_some()
    }

    /// A token id or a list of them; empty when absent.
    pub(crate) fn token_ids(&self, field: &str) -> Result<Vec<u32>, EngineError> {
        let id = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let ids = match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|one| vec![one]),
        };
        ids.ok_or_else(|| self.wrong(field, "a token id or a list of token ids"))
    }

    /// The error for a field that has not what was wanted.
    pub(crate) fn wrong(&self, field: &str, wanted: &str) -> EngineError {
        EngineError::Field {
            path: self.path.clone(),
            field: field.to_owned(),
            found: self.shown(field),
            wanted: wanted.to_owned(),
        }
    }

    /// The error for fields that a reader of the whole file refuses, in its words.
    pub(crate) fn refused(&self, reason: &str) -> EngineError {
        EngineError::Field {
            path: self.path.clone(),
            field: "(the whole file)".to_owned(),
            found: format!("refused: {reason}"),
            wanted: "the fields of its architecture".to_owned(),
        }
    }

    /// The error for a field that asks for what the engine does not do.
    pub(crate) fn unsupported(&self, field: &str, supported: &str) -> EngineError {
        EngineError::Unsupported {
            path: self.path.clone(),
            field: field.to_owned(),
            found: self.shown(field),
            supported: supported.to_owned(),
        }
    }

    fn shown(&self, field: &str) -> String {
        self.get(field).map_or_else(|| "absent".to_owned(), Value::to_string)
    }
}
