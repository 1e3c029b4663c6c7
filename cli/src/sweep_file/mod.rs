//! Sweep files: a YAML text becomes a checked [`SweepDefinition`](avsweep_domain::SweepDefinition).
//!
//! `raw` is the file's form and the source of the published JSON schema; `check` holds a text against that schema and
//! says what is wrong in the file's own words; `load` reads queries and model files and builds the definition.

mod check;
mod load;
mod queries;
mod raw;
mod strategy;

pub(crate) use load::{load, name_in};
pub(crate) use raw::schema;
pub(crate) use strategy::read_strategy;
