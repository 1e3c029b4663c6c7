//! The judge against a real HTTP server that plays an API, and against an in-memory gRPC server that plays the
//! coordinator.

#![expect(clippy::unwrap_used, reason = "a broken test set-up may panic")]

mod api;
mod coordinator;
mod identity;
mod jobs;
mod lease;
mod openai;
