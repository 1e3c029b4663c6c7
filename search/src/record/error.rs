//! Why there is no recorded grid.

use std::path::PathBuf;

use avsweep_domain::{Point, SpaceError};

/// What is wrong with a recorded grid, or with its file.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read.
    #[error("cannot read the recorded grid {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the recorded grid {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file's content is wrong.
    #[error("recorded grid {}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: FileProblem,
    },
    /// There is no grid to record.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// Nothing is measured.
    #[error("a recorded grid needs at least one domain, each with at least one search query{}", domain(.0))]
    NothingMeasured(Option<String>),
    /// A point that is not one of the grid's.
    #[error("point {point} is not on the grid of coefficients {names}")]
    NotOnGrid {
        /// The point.
        point: Point,
        /// The coefficients' names.
        names: String,
    },
    /// A point stands twice.
    #[error("point {0} stands twice")]
    DuplicatePoint(Point),
    /// Points that the grid has and the record has not.
    #[error(
        "{missing} of the grid's {wanted} points are missing, the first of them {examples}: measure the whole grid first"
    )]
    MissingPoints {
        /// How many are missing.
        missing: u64,
        /// How many there are.
        wanted: u64,
        /// The first few, joined.
        examples: String,
    },
    /// Too many or too few numbers at a point.
    #[error("point {point} has {found} {what}; {wanted} are wanted")]
    WrongCount {
        /// The point.
        point: Point,
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// Some points have judged levels, this one differs.
    #[error(
        "point {0} differs from those before it in whether it has judged levels: give every point some, or none"
    )]
    JudgedHereAndThere(Point),
    /// A judged level that does not exist.
    #[error(
        "point {point}, query number {query}: judged level {found}; 0 to {highest}, or 255 for unclear, is wanted"
    )]
    UnknownLevel {
        /// The point.
        point: Point,
        /// The query, counted from 0 over all domains.
        query: usize,
        /// What was found.
        found: u8,
        /// The highest level.
        highest: usize,
    },
    /// A log-probability that is none, or too far out to be written.
    #[error(
        "point {point}, log-probability number {index}: {value} is found; a number from -1000 to 0 is wanted"
    )]
    BadLogProb {
        /// The point.
        point: Point,
        /// Its place among the point's log-probabilities.
        index: usize,
        /// What was found.
        value: f32,
    },
    /// A quantum that cannot be written.
    #[error("a quantum of {0} nats is asked for; 0.0001 to 1 is wanted")]
    BadQuantum(f64),
}

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// Not such a file at all.
    #[error("the first 8 bytes are not 'avgrid' and a version: this is no recorded grid")]
    NotAGrid,
    /// Another version.
    #[error("format version {found} is found; this program reads version {wanted}")]
    Version {
        /// The version found, as it is written.
        found: String,
        /// The version that can be read.
        wanted: &'static str,
    },
    /// The file ends too early.
    #[error("the file ends after {found} bytes, within its {part}: it is cut off")]
    Truncated {
        /// The file's length.
        found: usize,
        /// The part that is incomplete.
        part: &'static str,
    },
    /// More than there should be.
    #[error("{0} bytes follow after the end")]
    TrailingBytes(usize),
    /// The content was changed.
    #[error("the checksum does not match the content: the file is damaged")]
    Checksum,
    /// The header cannot be read.
    #[error("the header is wrong: {0}")]
    Header(String),
    /// The numbers cannot be unpacked.
    #[error("the {part} cannot be unpacked: {reason}")]
    Packed {
        /// Which part.
        part: &'static str,
        /// Why.
        reason: String,
    },
    /// Too many or too few numbers.
    #[error("{found} {what} are found; {wanted} are wanted by the header")]
    WrongCount {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many there should be.
        wanted: u64,
    },
}

fn domain(name: &Option<String>) -> String {
    name.as_ref().map(|name| format!("; domain '{name}' has none")).unwrap_or_default()
}
