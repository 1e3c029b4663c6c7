//! Model files from a real S3 server over HTTP.

mod faults;
mod fetching;
mod processes;
mod support;
