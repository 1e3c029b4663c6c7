//! Where a SQLite store lies and how it is opened.

use std::path::PathBuf;

/// Where a store lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqliteLocation {
    /// In this file. A write-ahead log (`-wal`, `-shm`) lies beside it while it is open.
    File(PathBuf),
    /// In memory: gone when the store is dropped.
    Memory,
}

/// How to open a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteStoreOptions {
    /// Where it lies.
    pub location: SqliteLocation,
    /// Holds the file `<store>.lock` for as long as the store is open, so that one process alone works on it.
    /// Others may still open it without asking for the same, to read.
    pub exclusive: bool,
    /// Neither makes a store nor changes one.
    pub read_only: bool,
}

impl SqliteStoreOptions {
    /// A store in a file, which is made if it is not there (its folder must be).
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { location: SqliteLocation::File(path.into()), exclusive: false, read_only: false }
    }

    /// A new store in memory.
    pub fn memory() -> Self {
        Self { location: SqliteLocation::Memory, exclusive: false, read_only: false }
    }

    /// The same, for this process alone.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// The same, for reading alone.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}
