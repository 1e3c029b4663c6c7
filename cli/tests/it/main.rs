//! The `avsweep` command as a user runs it: real processes on real files.

mod bad_input;
#[cfg(unix)]
mod cluster;
#[cfg(unix)]
mod interruption;
#[cfg(unix)]
mod judging;
mod ladder;
#[cfg(unix)]
mod objects;
#[cfg(unix)]
mod processes;
mod replay;
#[cfg(unix)]
mod steering;
#[cfg(unix)]
mod strategies;
mod support;
#[cfg(unix)]
mod tracing;
mod verbs;
