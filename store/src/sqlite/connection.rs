//! Opening a store, its one writing connection and its reading ones.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use avsweep_domain::SweepId;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, Transaction};
use tokio::sync::{MutexGuard, Semaphore, SemaphorePermit};

use super::options::{SqliteLocation, SqliteStoreOptions};
use super::{migration, sweeps};
use crate::StoreError;
use crate::error::During;

/// How long a transaction waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);
/// Readers at once; more wait for one of these.
const READERS: usize = 4;

/// A store in one SQLite file or in memory.
#[derive(Debug)]
pub struct SqliteStore {
    writer: tokio::sync::Mutex<SqliteConnection>,
    /// How the writer is opened anew; `None` in memory, where a new connection would be a new store.
    reopen: Option<SqliteConnectOptions>,
    /// `None` in memory, where the one connection does everything.
    readers: Option<Readers>,
    read_only: bool,
    pub(super) known: Mutex<HashMap<SweepId, sweeps::Known>>,
    /// Dropped last: who gets the lock next finds everything closed.
    _lock: Option<File>,
}

/// Connections that read, opened as they are needed.
#[derive(Debug)]
pub(super) struct Readers {
    options: SqliteConnectOptions,
    permits: Semaphore,
    idle: Mutex<Vec<SqliteConnection>>,
}

impl SqliteStore {
    /// Opens a store; makes it, or brings its schema up to date, unless it is only to be read.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a store of a later version, [`StoreError::InUse`] when another process holds it
    /// exclusively and this one wants to, [`StoreError::Missing`] when there is none to read,
    /// [`StoreError::NotAStore`] for anything else in its place.
    pub async fn open(options: &SqliteStoreOptions) -> Result<Self, StoreError> {
        let (connect, path, lock) = match &options.location {
            SqliteLocation::Memory => (SqliteConnectOptions::new(), PathBuf::from(":memory:"), None),
            SqliteLocation::File(path) => {
                if options.read_only && !path.exists() {
                    return Err(StoreError::Missing { path: path.clone() });
                }
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                if let Some(folder) = folder {
                    std::fs::metadata(folder).map_err(|source| StoreError::Io {
                        operation: "open the folder of the store",
                        path: folder.to_owned(),
                        source,
                    })?;
                }
                let lock = options.exclusive.then(|| lock(path)).transpose()?;
                let connect =
                    SqliteConnectOptions::new().filename(path).create_if_missing(!options.read_only);
                (connect, path.clone(), lock)
            }
        };
        let connect = connect
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            // What is acknowledged survives a power cut, not only a crash of the process.
            .synchronous(SqliteSynchronous::Full)
            .pragma("temp_store", "MEMORY")
            .pragma("cache_size", "-16000")
            // Fewer switches between the connection's thread and ours when many rows are read.
            .row_buffer_size(512)
            .disable_statement_logging();
        let query_only = connect.clone().create_if_missing(false).pragma("query_only", "ON");
        let reopen = matches!(options.location, SqliteLocation::File(_)).then(|| connect.clone());
        let mut writer = if options.read_only { query_only.connect() } else { connect.connect() }
            .await
            .map_err(|source| migration::refusal(source, &path))?;
        migration::prepare(&mut writer, &path, options.read_only).await?;
        let readers = matches!(options.location, SqliteLocation::File(_)).then(|| Readers {
            options: query_only,
            permits: Semaphore::new(READERS),
            idle: Mutex::new(Vec::new()),
        });
        Ok(Self {
            writer: tokio::sync::Mutex::new(writer),
            reopen,
            readers,
            read_only: options.read_only,
            known: Mutex::new(HashMap::new()),
            _lock: lock,
        })
    }

    /// Closes the store in good order: the write-ahead log is written into the file. Dropping it loses nothing either.
    ///
    /// # Errors
    /// When the database cannot be closed.
    pub async fn close(self) -> Result<(), StoreError> {
        if let Some(readers) = self.readers {
            for reader in readers.idle.into_inner().unwrap_or_else(PoisonError::into_inner) {
                reader.close().await.during("close store")?;
            }
        }
        self.writer.into_inner().close().await.during("close store")
    }

    /// Rows that this store's own writing connection has inserted, changed or deleted since it was opened, by SQLite's
    /// count. Where it has not grown, nothing was written.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn changed_rows(&self) -> Result<u64, StoreError> {
        const OPERATION: &str = "count changed rows";
        let mut writer = self.writer(OPERATION).await?;
        let rows: i64 =
            sqlx::query_scalar("SELECT total_changes()").fetch_one(&mut *writer).await.during(OPERATION)?;
        crate::columns::wide(rows, || "the count of changed rows".to_owned())
    }

    /// The writing connection, once nobody else has it.
    pub(super) async fn writer(
        &self,
        operation: &'static str,
    ) -> Result<MutexGuard<'_, SqliteConnection>, StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly { operation });
        }
        let mut writer = self.writer.lock().await;
        if writer.is_in_transaction() {
            // The last transaction was dropped; whatever is asked now, its rollback comes first.
            sqlx::raw_sql("SELECT 1").execute(&mut *writer).await.during(operation)?;
            // SQLite ends a transaction by itself when the disk is full or fails. The connection then takes the
            // rollback for failed and would begin no transaction any more.
            if writer.is_in_transaction()
                && let Some(reopen) = &self.reopen
            {
                *writer = reopen.connect().await.during(operation)?;
            }
        }
        Ok(writer)
    }

    /// A connection to read with.
    pub(super) async fn reader(&self) -> Result<Reader<'_>, StoreError> {
        let Some(readers) = &self.readers else {
            return Ok(Reader::Writer(self.writer.lock().await));
        };
        let permit = readers
            .permits
            .acquire()
            .await
            .map_err(|_| StoreError::Database { operation: "read store", source: sqlx::Error::PoolClosed })?;
        let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => readers.options.connect().await.during("open store")?,
        };
        Ok(Reader::Own { connection: Some(connection), readers, _permit: permit })
    }
}

/// Begins a transaction that may write and is flushed to the disk when it commits. It waits for other processes'
/// here, not halfway through.
pub(super) async fn begin<'c>(
    writer: &'c mut SqliteConnection,
    operation: &'static str,
) -> Result<Transaction<'c, Sqlite>, StoreError> {
    writer.begin_with("PRAGMA synchronous = FULL; BEGIN IMMEDIATE").await.during(operation)
}

/// Makes the statements that follow transactions of their own that are not flushed to the disk.
///
/// For leases: if the machine loses power, whoever held one is gone too, and its secret is never given out again.
/// The database stays sound, and what was flushed before or is flushed later is not touched by it.
pub(super) async fn unflushed(
    writer: &mut SqliteConnection,
    operation: &'static str,
) -> Result<(), StoreError> {
    sqlx::raw_sql("PRAGMA synchronous = NORMAL").execute(writer).await.during(operation)?;
    Ok(())
}

/// A borrowed reading connection.
pub(super) enum Reader<'s> {
    /// The writer, in memory.
    Writer(MutexGuard<'s, SqliteConnection>),
    /// One of the readers; `Some` until it goes back.
    Own { connection: Option<SqliteConnection>, readers: &'s Readers, _permit: SemaphorePermit<'s> },
}

impl Deref for Reader<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match self {
            Self::Writer(connection) => connection,
            Self::Own { connection, .. } => connection.as_ref().expect("taken on drop only"),
        }
    }
}

impl DerefMut for Reader<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Writer(connection) => connection,
            Self::Own { connection, .. } => connection.as_mut().expect("taken on drop only"),
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Self::Own { connection, readers, .. } = self
            && let Some(connection) = connection.take()
        {
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

/// Takes the store's lock file, which the operating system frees when the process ends, however it ends.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = PathBuf::from(name);
    let failed = |source| StoreError::Io { operation: "lock", path: lock.clone(), source };
    let file = File::options().create(true).write(true).truncate(false).open(&lock).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned(), lock }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, Result};

    use super::*;

    #[tokio::test]
    async fn a_full_disk_fails_one_write_and_not_all_that_follow() -> Result<()> {
        const OPERATION: &str = "test";
        let folder = tempfile::tempdir()?;
        let store = SqliteStore::open(&SqliteStoreOptions::file(folder.path().join("full.db"))).await?;
        let fill = "INSERT INTO queries (fingerprint) VALUES (randomblob(1000000))";
        {
            let mut writer = store.writer(OPERATION).await?;
            // SQLite's own stand-in for a full disk: this connection may use no further page.
            sqlx::raw_sql("PRAGMA max_page_count = 1").execute(&mut *writer).await?;
        }
        for _ in 0..2 {
            let mut writer = store.writer(OPERATION).await?;
            let mut transaction = begin(&mut writer, OPERATION).await?;
            let error = sqlx::raw_sql(fill).execute(&mut *transaction).await.err();
            if let Some(error) = error {
                assert!(error.to_string().contains("full"), "{error}");
                continue;
            }
            // The writer was opened anew, without the limit.
            transaction.commit().await?;
            return Ok(());
        }
        None.context("the second write failed as well")
    }
}
