//! Real parts for tests.
//!
//! [`postgres::Cluster`] is a private PostgreSQL server that goes away with the test process, however that ends;
//! `s3::Server` (feature `s3`) is object storage in a temporary folder.

pub mod postgres;
#[cfg(feature = "s3")]
pub mod s3;
