//! The `avsweep` command as a user runs it: real processes on real files.

mod bad_input;
#[cfg(unix)]
mod interruption;
mod support;
mod verbs;
