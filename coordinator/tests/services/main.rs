//! The services over gRPC in process, with a store in memory.

mod assuring;
mod bad_requests;
mod choosing;
mod export;
mod ladder;
mod leasing;
mod observing;
mod ports;
mod racing;
mod refusals;
mod searched;
mod several;
mod support;
mod sweeps;
mod workers;
