//! What can go wrong while the family is made.

use std::path::PathBuf;

/// An operation on the pocket family that failed.
#[derive(Debug, thiserror::Error)]
pub enum PocketError {
    /// A topic file of the crate does not follow its own format.
    #[error("topic file {file}, line {line}: {problem}")]
    Topics {
        /// The topic file's name.
        file: &'static str,
        /// One-based line number.
        line: usize,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A tensor operation failed.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// The tokenizer could not be trained, saved or applied.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A file could not be read or written.
    #[error("{action} {path}")]
    File {
        /// `reading` or `writing`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why the system refused.
        #[source]
        source: std::io::Error,
    },
    /// A JSON document could not be read or written.
    #[error("JSON document {path}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why the parser refused.
        #[source]
        source: serde_json::Error,
    },
    /// A set of weights lacks a tensor.
    #[error("tensor {0} is missing from the weights")]
    MissingTensor(String),
    /// Training left the finite numbers.
    #[error("training diverged at step {step}: loss is {loss}")]
    Diverged {
        /// Optimiser step.
        step: usize,
        /// The loss found there.
        loss: f32,
    },
    /// The inference engine refused the products.
    #[error("engine")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Result of the crate's operations.
pub type Result<T, E = PocketError> = std::result::Result<T, E>;

/// Reads a whole text file.
///
/// # Errors
/// When the file cannot be read; the error names it.
pub fn read_text(path: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| PocketError::File {
        action: "reading",
        path: path.to_owned(),
        source,
    })
}

/// Writes a whole text file, and the folder it lies in.
///
/// # Errors
/// When the file cannot be written; the error names it.
pub fn write_text(path: &std::path::Path, text: &str) -> Result<()> {
    let written = match path.parent() {
        Some(folder) => std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text)),
        None => std::fs::write(path, text),
    };
    written.map_err(|source| PocketError::File { action: "writing", path: path.to_owned(), source })
}
