//! The `.avgrid` file.
//!
//! Layout, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `avgrid` and the version, `01` |
//! | 4 | length of the header |
//! | … | the header, JSON: coefficients, levels, domains, quantum, points, whether judged |
//! | 8 | length of the packed log-probabilities |
//! | … | zstd: per domain, query and level the grid's integers, differenced along all axes, zigzag LEB128 |
//! | 8 | length of the packed judged levels, 0 where there are none |
//! | … | zstd: per query the judged level of every point, a byte each |
//! | 32 | BLAKE3 of everything before it |
//!
//! A log-probability is its integer times the quantum. Every query's level is exactly the recorded one.

use std::fs;
use std::path::Path;

use avsweep_domain::{Levels, Space};
use serde::{Deserialize, Serialize};

use super::codec::{difference, quantise, read_integer, sum_up, write_integer};
use super::error::{FileProblem, RecordError};
use super::grid::RecordedGrid;
use crate::problem::DomainShape;

/// How a file begins.
pub const MAGIC: &[u8; 8] = b"avgrid01";

/// Steps that log-probabilities are rounded to unless asked otherwise, in nats.
pub const DEFAULT_QUANTUM: f64 = 1e-4;

/// Level of compression: files are written once and read often.
const ZSTD_LEVEL: i32 = 19;

const CHECKSUM: usize = 32;

/// More numbers than this in one file are refused (4 GiB in memory).
const MOST_NUMBERS: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    coefficients: Space,
    levels: Levels,
    domains: Vec<DomainShape>,
    /// Nats per unit of the stored integers.
    quantum: f64,
    points: u64,
    judged: bool,
}

impl RecordedGrid {
    /// Writes the file; log-probabilities are rounded to `quantum` nats.
    ///
    /// # Errors
    /// When the quantum is out of range or the file cannot be written.
    pub fn write(&self, path: &Path, quantum: f64) -> Result<(), RecordError> {
        let bytes = self.to_bytes(quantum)?;
        fs::write(path, bytes).map_err(|source| RecordError::Write { path: path.to_owned(), source })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is cut off, damaged, of another version, or its numbers do not fit its header.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let bytes = fs::read(path).map_err(|source| RecordError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes).map_err(|problem| RecordError::File { path: path.to_owned(), problem })
    }

    fn counts(&self) -> Vec<usize> {
        self.space().coefficients().iter().map(|coefficient| coefficient.range.count() as usize).collect()
    }

    /// The file's content.
    ///
    /// # Errors
    /// When the quantum is out of range.
    pub fn to_bytes(&self, quantum: f64) -> Result<Vec<u8>, RecordError> {
        if !(1e-4..=1.0).contains(&quantum) {
            return Err(RecordError::BadQuantum(quantum));
        }
        let (points, outputs, levels) = (self.points(), self.outputs(), self.levels().len());
        let mut columns = vec![0i32; points * outputs];
        let mut quantised = vec![0i32; levels];
        for point in 0..points {
            for (query, scores) in self.log_probs(point).chunks_exact(levels).enumerate() {
                quantise(scores, quantum, &mut quantised);
                for (level, value) in quantised.iter().enumerate() {
                    columns[(query * levels + level) * points + point] = *value;
                }
            }
        }
        let counts = self.counts();
        let mut integers = Vec::with_capacity(columns.len() * 2);
        for column in columns.chunks_exact_mut(points) {
            difference(column, &counts);
            column.iter().for_each(|value| write_integer(*value, &mut integers));
        }
        let mut judged = Vec::new();
        if self.is_judged() {
            for query in 0..self.queries() {
                judged.extend((0..points).filter_map(|point| self.judged(point).map(|judged| judged[query])));
            }
        }
        let header = Header {
            coefficients: self.space().clone(),
            levels: self.levels().clone(),
            domains: self.domains().to_vec(),
            quantum,
            points: points as u64,
            judged: self.is_judged(),
        };
        let header = serde_json::to_vec(&header).expect("strings and finite numbers are JSON");
        let mut bytes = MAGIC.to_vec();
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        for part in [integers, judged] {
            let packed = if part.is_empty() {
                Vec::new()
            } else {
                zstd::bulk::compress(&part, ZSTD_LEVEL).expect("compressing in memory does not fail")
            };
            bytes.extend((packed.len() as u64).to_le_bytes());
            bytes.extend(packed);
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes());
        Ok(bytes)
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// As [`RecordedGrid::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FileProblem> {
        let mut rest = Reader { rest: bytes, length: bytes.len() };
        let magic = rest.take(MAGIC.len(), "first 8 bytes")?;
        if magic[..6] != MAGIC[..6] {
            return Err(FileProblem::NotAGrid);
        }
        if magic != MAGIC {
            return Err(FileProblem::Version {
                found: String::from_utf8_lossy(&magic[6..]).into_owned(),
                wanted: "01",
            });
        }
        let header_length = rest.number(4, "header's length")?;
        let header = rest.take(header_length, "header")?;
        let packed_length = rest.number(8, "log-probabilities' length")?;
        let packed = rest.take(packed_length, "log-probabilities")?;
        let judged_length = rest.number(8, "judged levels' length")?;
        let packed_judged = rest.take(judged_length, "judged levels")?;
        let content = &bytes[..bytes.len() - rest.rest.len()];
        let checksum = rest.take(CHECKSUM, "checksum")?;
        if !rest.rest.is_empty() {
            return Err(FileProblem::TrailingBytes(rest.rest.len()));
        }
        if blake3::hash(content).as_bytes() != checksum {
            return Err(FileProblem::Checksum);
        }
        let header: Header =
            serde_json::from_slice(header).map_err(|error| FileProblem::Header(error.to_string()))?;
        let size = Size::of(&header)?;
        let log_probs = size.log_probs(&header, packed)?;
        let judged = size.judged(&header, packed_judged)?;
        Self::of_parts(header.coefficients, header.levels, header.domains, log_probs, judged)
            .map_err(|error| FileProblem::Header(error.to_string()))
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, part: &'static str) -> Result<&'a [u8], FileProblem> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(FileProblem::Truncated { found: self.length, part });
        };
        self.rest = rest;
        Ok(taken)
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, bytes: usize, part: &'static str) -> Result<usize, FileProblem> {
        let taken = self.take(bytes, part)?;
        let number = taken.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        Ok(usize::try_from(number).unwrap_or(usize::MAX))
    }
}

/// The numbers that a header asks for.
struct Size {
    points: usize,
    queries: usize,
    outputs: usize,
}

impl Size {
    fn of(header: &Header) -> Result<Self, FileProblem> {
        let wrong = |reason: String| FileProblem::Header(reason);
        let points = header.coefficients.grid_size().map_err(|error| wrong(error.to_string()))?;
        if points != header.points {
            let what = "points";
            return Err(FileProblem::WrongCount { what, found: header.points, wanted: points });
        }
        if !(1e-4..=1.0).contains(&header.quantum) {
            return Err(wrong(format!("quantum is {}; 0.0001 to 1 is wanted", header.quantum)));
        }
        let queries =
            header.domains.iter().try_fold(0u64, |sum, domain| sum.checked_add(domain.queries as u64));
        let outputs = queries.and_then(|queries| queries.checked_mul(header.levels.len() as u64));
        let numbers = outputs
            .and_then(|outputs| outputs.checked_mul(points))
            .filter(|numbers| *numbers <= MOST_NUMBERS);
        let (Some(queries), Some(outputs), Some(_)) = (queries, outputs, numbers) else {
            return Err(wrong(format!("more than {MOST_NUMBERS} log-probabilities")));
        };
        Ok(Self { points: points as usize, queries: queries as usize, outputs: outputs as usize })
    }

    fn log_probs(&self, header: &Header, packed: &[u8]) -> Result<Vec<f32>, FileProblem> {
        let (part, wanted) = ("log-probabilities", self.points * self.outputs);
        // An integer takes at most 5 bytes.
        let integers = unpacked(packed, part, wanted * 5)?;
        let counts: Vec<usize> = header
            .coefficients
            .coefficients()
            .iter()
            .map(|coefficient| coefficient.range.count() as usize)
            .collect();
        let mut rest = integers.as_slice();
        let mut log_probs = vec![0.0f32; wanted];
        let mut column = Vec::with_capacity(self.points);
        for output in 0..self.outputs {
            column.clear();
            while column.len() < self.points {
                let Some(value) = read_integer(&mut rest) else {
                    let found = (output * self.points + column.len()) as u64;
                    return Err(FileProblem::WrongCount { what: part, found, wanted: wanted as u64 });
                };
                column.push(value);
            }
            sum_up(&mut column, &counts);
            for (point, value) in column.iter().enumerate() {
                log_probs[point * self.outputs + output] = (f64::from(*value) * header.quantum) as f32;
            }
        }
        if !rest.is_empty() {
            return Err(FileProblem::Packed { part, reason: format!("{} bytes are left over", rest.len()) });
        }
        Ok(log_probs)
    }

    fn judged(&self, header: &Header, packed: &[u8]) -> Result<Vec<u8>, FileProblem> {
        let (part, wanted) = ("judged levels", if header.judged { self.points * self.queries } else { 0 });
        let columns = if packed.is_empty() { Vec::new() } else { unpacked(packed, part, wanted)? };
        if columns.len() != wanted {
            return Err(FileProblem::WrongCount {
                what: part,
                found: columns.len() as u64,
                wanted: wanted as u64,
            });
        }
        let known = |level: &u8| usize::from(*level) < header.levels.len() || *level == super::UNCLEAR;
        if let Some(unknown) = columns.iter().find(|level| !known(level)) {
            return Err(FileProblem::Packed {
                part,
                reason: format!("level number {unknown} is none of the header's"),
            });
        }
        let mut judged = vec![0; wanted];
        for (query, column) in columns.chunks_exact(self.points).enumerate() {
            for (point, level) in column.iter().enumerate() {
                judged[point * self.queries + query] = *level;
            }
        }
        Ok(judged)
    }
}

fn unpacked(packed: &[u8], part: &'static str, most: usize) -> Result<Vec<u8>, FileProblem> {
    // The frame states its length: no more memory than that is taken, and no more than could be needed.
    let stated = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten().unwrap_or(u64::MAX);
    if stated > most as u64 {
        let reason = format!("{stated} bytes are stated, at most {most} are possible");
        return Err(FileProblem::Packed { part, reason });
    }
    zstd::bulk::decompress(packed, stated as usize)
        .map_err(|error| FileProblem::Packed { part, reason: error.to_string() })
}

#[cfg(test)]
mod tests;
