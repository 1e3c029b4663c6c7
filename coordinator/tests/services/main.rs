//! The services over gRPC in process, with a store in memory.

mod bad_requests;
mod leasing;
mod support;
mod sweeps;
