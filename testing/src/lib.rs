//! Real parts for tests.
//!
//! [`postgres::Cluster`] is a private PostgreSQL server that goes away with the test process, however that ends.

pub mod postgres;
