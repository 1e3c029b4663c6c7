//! Why model files could not be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a location could not be fetched. The texts name the location, what was tried and what to do; they hold no
/// credentials.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilesError {
    /// Not a location.
    #[error("{location}: {problem}; wanted a path, s3://bucket/key, gs://bucket/key or az://container/key")]
    Location {
        /// The text given; empty of anything before an `@`.
        location: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The store cannot be set up from the environment.
    #[error("{location}: object storage cannot be set up from the environment ({variables})")]
    Setup {
        /// The location asked for.
        location: String,
        /// The variables that matter.
        variables: &'static str,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },

    /// There is nothing at the location.
    #[error("{location}: no object and no folder there; check the bucket and the key")]
    Missing {
        /// The location asked for.
        location: String,
    },

    /// The store refused, or could not be reached.
    #[error("{location}: cannot {operation} {object}: {hint}")]
    Storage {
        /// The location asked for.
        location: String,
        /// What was tried: "look up", "list" or "download".
        operation: &'static str,
        /// The object or folder.
        object: String,
        /// What to do about it.
        hint: &'static str,
        /// Whether it may pass by itself.
        transient: bool,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },

    /// The objects changed again and again while they were downloaded.
    #[error("{location}: {object} changes while it is downloaded; try again when nobody writes there")]
    Changing {
        /// The location asked for.
        location: String,
        /// The object.
        object: String,
    },

    /// The store sent another number of bytes than it had announced.
    #[error("{location}: {object} is {wanted} bytes, but {got} bytes came")]
    Size {
        /// The location asked for.
        location: String,
        /// The object.
        object: String,
        /// Bytes announced.
        wanted: u64,
        /// Bytes received.
        got: u64,
    },

    /// The cache cannot be written or read.
    #[error("{}: cannot {operation} in the cache of model files", path.display())]
    Cache {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FilesError {
    /// Whether the same fetch may succeed later without anybody doing something: the store or the network was away.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage { transient, .. } => *transient,
            Self::Changing { .. } | Self::Size { .. } => true,
            Self::Location { .. } | Self::Setup { .. } | Self::Missing { .. } | Self::Cache { .. } => false,
        }
    }
}
