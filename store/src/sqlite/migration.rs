//! The schema's versions: `migrations/sqlite`, counted by SQLite's own `user_version`.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::StoreError;
use crate::error::During;

/// Every migration; the version of a schema is how many of them it has seen.
const MIGRATIONS: [&str; 4] = [
    include_str!("../../../migrations/sqlite/0001_first.sql"),
    include_str!("../../../migrations/sqlite/0002_cluster.sql"),
    include_str!("../../../migrations/sqlite/0003_choices.sql"),
    include_str!("../../../migrations/sqlite/0004_racing.sql"),
];

/// SQLite's `application_id` of our files: "avsw".
const APPLICATION_ID: i64 = 0x6176_7377;

/// The newest version that this program knows.
pub(crate) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Checks that an open database is a store of a known version, and brings it up to date unless it is only read.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    path: &Path,
    read_only: bool,
) -> Result<(), StoreError> {
    let found = version(connection, path).await?;
    if found == NEWEST {
        return Ok(());
    }
    if read_only {
        return Err(match found {
            0 => StoreError::NotAStore { path: path.to_owned(), problem: "it is empty".to_owned() },
            _ => StoreError::Older {
                path: path.to_owned(),
                found,
                known: NEWEST,
                remedy: "'avsweep coordinator --store FILE --migrate-only' brings it up to date",
            },
        });
    }
    // Outside a transaction, and kept by the file from then on. Readers and the writer then never wait for each other.
    sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *connection).await.during("open store")?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.during("migrate store")?;
    // Another process may have been faster.
    let found = version(&mut transaction, path).await?;
    for (index, migration) in (0..).zip(MIGRATIONS) {
        if index >= found {
            sqlx::raw_sql(migration).execute(&mut *transaction).await.during("migrate store")?;
        }
    }
    let stamp = format!("PRAGMA user_version = {NEWEST}; PRAGMA application_id = {APPLICATION_ID}");
    sqlx::raw_sql(AssertSqlSafe(stamp)).execute(&mut *transaction).await.during("migrate store")?;
    transaction.commit().await.during("migrate store")
}

/// The version found; 0 for a new file.
async fn version(connection: &mut SqliteConnection, path: &Path) -> Result<i64, StoreError> {
    let (application, found, tables): (i64, i64, i64) = sqlx::query_as(
        "SELECT a.application_id, v.user_version, (SELECT count(*) FROM sqlite_schema)
         FROM pragma_application_id AS a, pragma_user_version AS v",
    )
    .fetch_one(connection)
    .await
    .map_err(|source| refusal(source, path))?;
    match (application, found) {
        (0, 0) if tables == 0 => Ok(0),
        (APPLICATION_ID, found) if found > NEWEST => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: NEWEST })
        }
        (APPLICATION_ID, found @ 1..) => Ok(found),
        _ => Err(StoreError::NotAStore {
            path: path.to_owned(),
            problem: "it is a SQLite database of another program".to_owned(),
        }),
    }
}

/// SQLITE_NOTADB
const NOT_A_DATABASE: &str = "26";

/// What a failure to open says of the file.
pub(super) fn refusal(source: sqlx::Error, path: &Path) -> StoreError {
    match source.as_database_error().and_then(sqlx::error::DatabaseError::code) {
        Some(code) if code == NOT_A_DATABASE => {
            StoreError::NotAStore { path: path.to_owned(), problem: "it is no SQLite database".to_owned() }
        }
        _ => StoreError::Database { operation: "open store", source },
    }
}
