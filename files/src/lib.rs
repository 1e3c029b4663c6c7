//! Model files by path or from object storage, with a local cache.
//!
//! A *location* is a path, which stays what it is, or a place in object storage: `s3://bucket/key` (also any
//! S3-compatible store), `gs://bucket/key` or `az://container/key`, where the key is one object (a vector) or a folder
//! (a model). [`ModelFiles::fetch`] turns either into a local path.
//!
//! What must hold: a path that was returned has complete files behind it, checked against the sizes and checksums
//! that were recorded when they came; one object is downloaded once, however many tasks and processes of a machine want
//! it at the same time; credentials come from the environment and go nowhere else.

mod cache;
mod download;
mod error;
mod files;
mod location;
mod storage;

pub use error::FilesError;
pub use files::ModelFiles;
pub use location::is_remote;
