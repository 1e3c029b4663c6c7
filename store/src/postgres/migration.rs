//! The schema's versions: `migrations/postgres`, counted in a table of its own.

use std::path::PathBuf;

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::StoreError;
use crate::error::During;

/// Every migration; the version of a schema is how many of them it has seen.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../../migrations/postgres/0001_first.sql"),
    include_str!("../../../migrations/postgres/0002_choices.sql"),
    include_str!("../../../migrations/postgres/0003_racing.sql"),
];

/// The newest version that this program knows.
const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Whoever migrates holds the advisory lock of this number: "avsweep" in ASCII.
const LOCK: i64 = 0x61_7673_7765_6570;

/// Checks that the schema is the one this program is written for.
pub(super) async fn check(connection: &mut PgConnection, place: &str) -> Result<(), StoreError> {
    match version(connection, place).await? {
        NEWEST => Ok(()),
        found => Err(StoreError::Older {
            path: PathBuf::from(place),
            found,
            known: NEWEST,
            remedy: "bring it up to date with 'avsweep coordinator --migrate'",
        }),
    }
}

/// Applies what is missing, in one transaction.
pub(super) async fn migrate(connection: &mut PgConnection, place: &str) -> Result<(), StoreError> {
    const OPERATION: &str = "migrate store";
    let mut transaction = connection.begin().await.during(OPERATION)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    // Others wait here until the first has committed.
    let found = version(&mut transaction, place).await?;
    if found == NEWEST {
        return Ok(());
    }
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS avsweep_schema (single BOOLEAN PRIMARY KEY CHECK (single), version BIGINT NOT NULL)")
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    for (index, migration) in (0..).zip(MIGRATIONS) {
        if index >= found {
            sqlx::raw_sql(migration).execute(&mut *transaction).await.during(OPERATION)?;
        }
    }
    sqlx::query(
        "INSERT INTO avsweep_schema (single, version) VALUES (TRUE, $1)
         ON CONFLICT (single) DO UPDATE SET version = excluded.version",
    )
    .bind(NEWEST)
    .execute(&mut *transaction)
    .await
    .during(OPERATION)?;
    transaction.commit().await.during(OPERATION)
}

/// The version found; 0 where there is no schema.
async fn version(connection: &mut PgConnection, place: &str) -> Result<i64, StoreError> {
    const OPERATION: &str = "read the version of the store";
    let (there,): (bool,) = sqlx::query_as("SELECT to_regclass('avsweep_schema') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .during(OPERATION)?;
    if !there {
        return Ok(0);
    }
    let (found,): (i64,) =
        sqlx::query_as("SELECT version FROM avsweep_schema").fetch_one(connection).await.during(OPERATION)?;
    if found > NEWEST {
        return Err(StoreError::Newer { path: PathBuf::from(place), found, known: NEWEST });
    }
    Ok(found)
}
