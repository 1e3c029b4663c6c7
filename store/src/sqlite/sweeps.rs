//! Sweeps: making, finding, their states and sums.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use avsweep_domain::{Fingerprint, Rung, SweepDefinition, SweepId, SweepState};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, begin};
use super::workers;
use crate::check;
use crate::columns::{narrow, read_fingerprint, read_state, wide};
use crate::error::During;
use crate::layout::{SweepKeys, SweepLayout};
use crate::{Created, RungCounts, StoreError, SweepRecord, SweepTotals, Timestamp, Timings};

/// A sweep's unchanging parts, parsed once.
#[derive(Clone, Debug)]
pub(super) struct Known {
    revision: i64,
    definition: Arc<SweepDefinition>,
    created_at: Timestamp,
    layout: Arc<SweepLayout>,
}

impl Known {
    fn record(&self, state: SweepState, priority: i32) -> SweepRecord {
        SweepRecord {
            id: self.layout.id,
            state,
            definition: Arc::clone(&self.definition),
            fingerprint: self.layout.fingerprint,
            created_at: self.created_at,
            priority,
        }
    }
}

/// See [`crate::Store::create_sweep`].
pub(super) async fn create(
    store: &SqliteStore,
    definition: &SweepDefinition,
    priority: i32,
    now: Timestamp,
) -> Result<Created, StoreError> {
    const OPERATION: &str = "create sweep";
    let text = check::definition(definition)?;
    let fingerprint = definition.fingerprint();
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;

    let found: Option<(i64, Vec<u8>, String, String)> =
        sqlx::query_as("SELECT id, fingerprint, state, definition FROM sweeps WHERE name = ?1")
            .bind(&definition.name)
            .fetch_optional(&mut *transaction)
            .await
            .during(OPERATION)?;
    if let Some((id, stored, state, stored_text)) = found {
        let (id, stored) = (SweepId(id), read_fingerprint(&stored, || format!("sweep {id}"))?);
        if stored != fingerprint {
            return Err(StoreError::SweepDiffers {
                name: definition.name.clone(),
                stored,
                given: fingerprint,
            });
        }
        let state = read_state(&state, id)?;
        if stored_text != text {
            sqlx::query("UPDATE sweeps SET definition = ?2, revision = revision + 1 WHERE id = ?1")
                .bind(id.0)
                .bind(text)
                .execute(&mut *transaction)
                .await
                .during(OPERATION)?;
            transaction.commit().await.during(OPERATION)?;
        }
        return Ok(Created { id, created: false, state });
    }

    let recipe = intern(
        &mut transaction,
        "INSERT INTO recipes (fingerprint) VALUES (?1) ON CONFLICT DO UPDATE SET id = id RETURNING id",
        definition.recipe_fingerprint(),
    )
    .await?;
    let decoding = intern(
        &mut transaction,
        "INSERT INTO decodings (fingerprint) VALUES (?1) ON CONFLICT DO UPDATE SET id = id RETURNING id",
        definition.decode_fingerprint(),
    )
    .await?;
    let judge = intern(
        &mut transaction,
        "INSERT INTO judges (fingerprint) VALUES (?1) ON CONFLICT DO UPDATE SET id = id RETURNING id",
        definition.judge_fingerprint(),
    )
    .await?;
    let (id,): (i64,) = sqlx::query_as(
        "INSERT INTO sweeps
             (name, state, fingerprint, recipe, decoding, judge, created_at, revision, definition)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8)
         RETURNING id",
    )
    .bind(&definition.name)
    .bind(SweepState::Running.as_str())
    .bind(fingerprint.as_bytes().as_slice())
    .bind(recipe)
    .bind(decoding)
    .bind(judge)
    .bind(now.0)
    .bind(text)
    .fetch_one(&mut *transaction)
    .await
    .during(OPERATION)?;
    let mut queries = Vec::new();
    for entry in definition.queries() {
        queries.extend_from_slice(entry.query.fingerprint().as_bytes());
    }
    let count = (queries.len() / 32) as i64;
    sqlx::query(
        "WITH RECURSIVE series (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < ?2)
         INSERT INTO queries (fingerprint) SELECT substr(?1, 1 + 32 * i, 32) FROM series WHERE true
         ON CONFLICT DO NOTHING",
    )
    .bind(&queries)
    .bind(count)
    .execute(&mut *transaction)
    .await
    .during(OPERATION)?;
    sqlx::query(
        "WITH RECURSIVE series (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < ?2)
         INSERT INTO sweep_queries (sweep, ordinal, query)
         SELECT ?3, i, (SELECT id FROM queries WHERE fingerprint = substr(?1, 1 + 32 * i, 32)) FROM series",
    )
    .bind(&queries)
    .bind(count)
    .bind(id)
    .execute(&mut *transaction)
    .await
    .during(OPERATION)?;
    sqlx::query("INSERT INTO sweep_totals (sweep) VALUES (?1)")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    sqlx::query("INSERT INTO sweep_controls (sweep, priority) VALUES (?1, ?2)")
        .bind(id)
        .bind(priority)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    transaction.commit().await.during(OPERATION)?;
    Ok(Created { id: SweepId(id), created: true, state: SweepState::Running })
}

async fn intern(
    connection: &mut SqliteConnection,
    statement: &'static str,
    fingerprint: Fingerprint,
) -> Result<i64, StoreError> {
    let (id,): (i64,) = sqlx::query_as(statement)
        .bind(fingerprint.as_bytes().as_slice())
        .fetch_one(connection)
        .await
        .during("create sweep")?;
    Ok(id)
}

/// See [`crate::Store::sweep`].
pub(super) async fn get(store: &SqliteStore, id: SweepId) -> Result<SweepRecord, StoreError> {
    let mut reader = store.reader().await?;
    let row: Option<(String, i64, i64)> = sqlx::query_as(
        "SELECT s.state, s.revision, c.priority
         FROM sweeps AS s CROSS JOIN sweep_controls AS c ON c.sweep = s.id WHERE s.id = ?1",
    )
    .bind(id.0)
    .fetch_optional(&mut *reader)
    .await
    .during("read sweep")?;
    let Some((state, revision, priority)) = row else {
        return Err(no_such_sweep(&mut reader, &id.to_string()).await?);
    };
    let (state, priority) = (read_state(&state, id)?, read_priority(priority, id)?);
    Ok(known(store, &mut reader, id, Some(revision)).await?.record(state, priority))
}

/// See [`crate::Store::find_sweep`].
pub(super) async fn find(store: &SqliteStore, name_or_number: &str) -> Result<SweepRecord, StoreError> {
    let id = {
        let mut reader = store.reader().await?;
        // A name never consists of digits only, so the two cannot be confused.
        let row: Option<(i64,)> = sqlx::query_as(
            "SELECT id FROM sweeps WHERE name = ?1 OR id = ?2 ORDER BY name = ?1 DESC LIMIT 1",
        )
        .bind(name_or_number)
        .bind(name_or_number.parse::<i64>().ok())
        .fetch_optional(&mut *reader)
        .await
        .during("find sweep")?;
        match row {
            Some((id,)) => SweepId(id),
            None => return Err(no_such_sweep(&mut reader, name_or_number).await?),
        }
    };
    get(store, id).await
}

/// See [`crate::Store::sweeps`].
pub(super) async fn all(store: &SqliteStore) -> Result<Vec<SweepRecord>, StoreError> {
    let mut reader = store.reader().await?;
    let mut snapshot = reader.begin().await.during("list sweeps")?;
    let rows: Vec<(i64, String, i64, i64)> = sqlx::query_as(
        "SELECT s.id, s.state, s.revision, c.priority
         FROM sweeps AS s CROSS JOIN sweep_controls AS c ON c.sweep = s.id
         ORDER BY s.created_at DESC, s.id DESC",
    )
    .fetch_all(&mut *snapshot)
    .await
    .during("list sweeps")?;
    let mut records = Vec::with_capacity(rows.len());
    for (id, state, revision, priority) in rows {
        let id = SweepId(id);
        let (state, priority) = (read_state(&state, id)?, read_priority(priority, id)?);
        records.push(known(store, &mut snapshot, id, Some(revision)).await?.record(state, priority));
    }
    snapshot.commit().await.during("list sweeps")?;
    Ok(records)
}

/// See [`crate::Store::set_sweep_state`].
pub(super) async fn set_state(store: &SqliteStore, id: SweepId, to: SweepState) -> Result<(), StoreError> {
    const OPERATION: &str = "change the state of a sweep";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    let from = exists(&mut transaction, id).await?;
    from.check_transition(to).map_err(|source| StoreError::Transition { sweep: id, source })?;
    if from != to {
        write_state(&mut transaction, id, to).await?;
        transaction.commit().await.during(OPERATION)?;
    }
    Ok(())
}

/// Writes a sweep's state, allowed or not.
pub(super) async fn write_state(
    connection: &mut SqliteConnection,
    id: SweepId,
    to: SweepState,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE sweeps SET state = ?2 WHERE id = ?1")
        .bind(id.0)
        .bind(to.as_str())
        .execute(connection)
        .await
        .during("change the state of a sweep")?;
    Ok(())
}

/// The state of a sweep that must be there.
///
/// # Errors
/// [`StoreError::NoSuchSweep`].
pub(super) async fn exists(connection: &mut SqliteConnection, id: SweepId) -> Result<SweepState, StoreError> {
    let row: Option<(String,)> = sqlx::query_as("SELECT state FROM sweeps WHERE id = ?1")
        .bind(id.0)
        .fetch_optional(&mut *connection)
        .await
        .during("read sweep")?;
    match row {
        Some((state,)) => read_state(&state, id),
        None => Err(no_such_sweep(connection, &id.to_string()).await?),
    }
}

/// See [`crate::Store::set_sweep_priority`].
pub(super) async fn set_priority(store: &SqliteStore, id: SweepId, priority: i32) -> Result<(), StoreError> {
    const OPERATION: &str = "change the priority of a sweep";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    exists(&mut transaction, id).await?;
    sqlx::query("UPDATE sweep_controls SET priority = ?2 WHERE sweep = ?1")
        .bind(id.0)
        .bind(priority)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    transaction.commit().await.during(OPERATION)
}

/// See [`crate::Store::totals`].
pub(super) async fn totals(store: &SqliteStore, id: SweepId) -> Result<SweepTotals, StoreError> {
    const OPERATION: &str = "read the totals of a sweep";
    let mut reader = store.reader().await?;
    let rows: Vec<TotalsRow> = sqlx::query_as(
        "SELECT t.points, t.results, t.duplicate_results, t.load_nanos, t.merge_nanos, t.evaluate_nanos,
                t.lost, t.errors, t.saved,
                (SELECT count(DISTINCT worker) FROM jobs INDEXED BY jobs_leased
                 WHERE state = 'leased' AND sweep = ?1) AS holders,
                c.rung, c.state, c.jobs
         FROM sweep_totals AS t LEFT JOIN job_counts AS c ON c.sweep = t.sweep
         WHERE t.sweep = ?1",
    )
    .bind(id.0)
    .fetch_all(&mut *reader)
    .await
    .during(OPERATION)?;
    if rows.is_empty() {
        return Err(no_such_sweep(&mut reader, &id.to_string()).await?);
    }
    let mut totals = SweepTotals::default();
    for row in rows {
        let what = || format!("the totals of sweep {id}");
        totals.points = wide(row.points, what)?;
        totals.results = wide(row.results, what)?;
        totals.duplicate_results = wide(row.duplicate_results, what)?;
        totals.timings = Timings {
            load: Duration::from_nanos(wide(row.load_nanos, what)?),
            merge: Duration::from_nanos(wide(row.merge_nanos, what)?),
            evaluate: Duration::from_nanos(wide(row.evaluate_nanos, what)?),
        };
        totals.lost = wide(row.lost, what)?;
        totals.errors = wide(row.errors, what)?;
        totals.saved = wide(row.saved, what)?;
        totals.holders = narrow(row.holders, what)?;
        let (Some(rung), Some(state), Some(jobs)) = (row.rung, row.state, row.jobs) else {
            continue;
        };
        let corrupt = |problem| StoreError::corrupt(what(), problem);
        let counts: &mut RungCounts = match rung.parse().map_err(corrupt)? {
            Rung::Likelihood => &mut totals.likelihood,
            Rung::Generation => &mut totals.generation,
            Rung::Judgement => &mut totals.judgement,
        };
        workers::count_jobs(counts, state.parse().map_err(corrupt)?, jobs, what)?;
    }
    Ok(totals)
}

/// The sums of a sweep, with the count of one rung and state.
#[derive(sqlx::FromRow)]
struct TotalsRow {
    points: i64,
    results: i64,
    duplicate_results: i64,
    load_nanos: i64,
    merge_nanos: i64,
    evaluate_nanos: i64,
    lost: i64,
    errors: i64,
    saved: i64,
    holders: i64,
    rung: Option<String>,
    state: Option<String>,
    jobs: Option<i64>,
}

/// The error for a sweep that is not there, with the names there are.
pub(super) async fn no_such_sweep(
    connection: &mut SqliteConnection,
    wanted: &str,
) -> Result<StoreError, StoreError> {
    let names: Vec<(String,)> =
        sqlx::query_as("SELECT name FROM sweeps ORDER BY created_at DESC, id DESC LIMIT 100")
            .fetch_all(connection)
            .await
            .during("list sweeps")?;
    Ok(StoreError::NoSuchSweep {
        wanted: wanted.to_owned(),
        known: names.into_iter().map(|(name,)| name).collect(),
    })
}

/// The sweep's layout, from memory when it was read before.
///
/// # Errors
/// [`StoreError::NoSuchSweep`].
pub(super) async fn layout(
    store: &SqliteStore,
    connection: &mut SqliteConnection,
    id: SweepId,
) -> Result<Arc<SweepLayout>, StoreError> {
    Ok(known(store, connection, id, None).await?.layout)
}

/// The sweep's unchanging parts and, when a revision is asked for, its definition of that revision or a later one.
async fn known(
    store: &SqliteStore,
    connection: &mut SqliteConnection,
    id: SweepId,
    revision: Option<i64>,
) -> Result<Known, StoreError> {
    const OPERATION: &str = "read sweep";
    let cached = store.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    if let Some(known) = cached
        && revision.is_none_or(|revision| known.revision >= revision)
    {
        return Ok(known);
    }
    let row: Option<(i64, Vec<u8>, i64, i64, i64, i64, String)> = sqlx::query_as(
        "SELECT revision, fingerprint, recipe, decoding, judge, created_at, definition
         FROM sweeps WHERE id = ?1",
    )
    .bind(id.0)
    .fetch_optional(&mut *connection)
    .await
    .during(OPERATION)?;
    let Some((revision, fingerprint, recipe, decoding, judge, created_at, text)) = row else {
        return Err(no_such_sweep(connection, &id.to_string()).await?);
    };
    let queries: Vec<(i64,)> =
        sqlx::query_as("SELECT query FROM sweep_queries WHERE sweep = ?1 ORDER BY ordinal")
            .bind(id.0)
            .fetch_all(&mut *connection)
            .await
            .during(OPERATION)?;
    let what = || format!("the definition of sweep {id}");
    let definition: SweepDefinition =
        serde_json::from_str(&text).map_err(|error| StoreError::corrupt(what(), error))?;
    let fingerprint = read_fingerprint(&fingerprint, what)?;
    let queries: Vec<i64> = queries.into_iter().map(|(query,)| query).collect();
    let layout =
        SweepLayout::new(SweepKeys { id, fingerprint, recipe, decoding, judge }, &definition, &queries)
            .ok_or_else(|| {
                StoreError::corrupt(what(), format!("it has other queries than the {} stored", queries.len()))
            })?;
    let known = Known {
        revision,
        definition: Arc::new(definition),
        created_at: Timestamp(created_at),
        layout: Arc::new(layout),
    };
    store.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, known.clone());
    Ok(known)
}

/// A sweep's priority from its column.
pub(super) fn read_priority(priority: i64, id: SweepId) -> Result<i32, StoreError> {
    i32::try_from(priority).map_err(|_| {
        StoreError::corrupt(format!("sweep {id}"), format!("priority {priority} is out of range"))
    })
}
