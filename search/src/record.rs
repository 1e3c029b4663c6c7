//! Recorded grids: what a full grid measured, to replay searches against.

mod codec;
mod error;
mod file;
mod grid;

pub use error::{FileProblem, RecordError};
pub use file::{DEFAULT_QUANTUM, MAGIC};
pub use grid::{GridBuilder, RecordedGrid, UNCLEAR};
