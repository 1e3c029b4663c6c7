//! Sweeps: making, finding, their states.

use std::sync::{Arc, PoisonError};

use avsweep_domain::{Fingerprint, SweepDefinition, SweepId, SweepState};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, begin, call, snapshot};
use crate::check;
use crate::columns::{read_fingerprint, read_state};
use crate::error::During;
use crate::layout::{SweepKeys, SweepLayout};
use crate::{Created, StoreError, SweepRecord, Timestamp};

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

/// A definition that is to be stored, with its text.
struct Storable<'d> {
    definition: &'d SweepDefinition,
    fingerprint: Fingerprint,
    text: String,
    priority: i32,
}

impl<'d> Storable<'d> {
    fn new(definition: &'d SweepDefinition, priority: i32) -> Result<Self, StoreError> {
        let text = check::definition(definition)?;
        Ok(Self { definition, fingerprint: definition.fingerprint(), text, priority })
    }
}

/// See [`crate::Store::create_sweep`].
pub(super) async fn create(
    store: &PostgresStore,
    definition: &SweepDefinition,
    priority: i32,
    now: Timestamp,
) -> Result<Created, StoreError> {
    let storable = Storable::new(definition, priority)?;
    call!(store, "create sweep", |connection| create_once(connection, &storable, now))
}

async fn create_once(
    connection: &mut PgConnection,
    storable: &Storable<'_>,
    now: Timestamp,
) -> Result<Created, StoreError> {
    const OPERATION: &str = "create sweep";
    let Storable { definition, fingerprint, text, priority } = storable;
    let mut transaction = begin(connection, OPERATION).await?;
    // Somebody else's sweep of the same name is waited for and then found below; ours is taken back with the
    // transaction.
    let recipe = intern(
        &mut transaction,
        "INSERT INTO recipes (fingerprint) VALUES ($1)
         ON CONFLICT (fingerprint) DO UPDATE SET fingerprint = excluded.fingerprint RETURNING id",
        definition.recipe_fingerprint(),
    )
    .await?;
    let decoding = intern(
        &mut transaction,
        "INSERT INTO decodings (fingerprint) VALUES ($1)
         ON CONFLICT (fingerprint) DO UPDATE SET fingerprint = excluded.fingerprint RETURNING id",
        definition.decode_fingerprint(),
    )
    .await?;
    let judge = intern(
        &mut transaction,
        "INSERT INTO judges (fingerprint) VALUES ($1)
         ON CONFLICT (fingerprint) DO UPDATE SET fingerprint = excluded.fingerprint RETURNING id",
        definition.judge_fingerprint(),
    )
    .await?;
    let inserted: Option<(i64,)> = sqlx::query_as(
        "INSERT INTO sweeps
             (name, state, priority, fingerprint, recipe, decoding, judge, created_at, revision, definition)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9)
         ON CONFLICT (name) DO NOTHING
         RETURNING id",
    )
    .bind(&definition.name)
    .bind(SweepState::Running.as_str())
    .bind(*priority)
    .bind(fingerprint.as_bytes().as_slice())
    .bind(recipe)
    .bind(decoding)
    .bind(judge)
    .bind(now.0)
    .bind(text)
    .fetch_optional(&mut *transaction)
    .await
    .during(OPERATION)?;
    let Some((id,)) = inserted else {
        let found = found(&mut transaction, storable).await?;
        transaction.commit().await.during(OPERATION)?;
        return Ok(found);
    };
    let queries: Vec<Vec<u8>> =
        definition.queries().map(|entry| entry.query.fingerprint().as_bytes().to_vec()).collect();
    sqlx::query(
        "INSERT INTO queries (fingerprint)
         SELECT DISTINCT f FROM unnest($1::bytea[]) AS given (f) ORDER BY f
         ON CONFLICT (fingerprint) DO NOTHING",
    )
    .bind(&queries)
    .execute(&mut *transaction)
    .await
    .during(OPERATION)?;
    sqlx::query(
        "INSERT INTO sweep_queries (sweep, ordinal, query)
         SELECT $1, given.place - 1, (SELECT id FROM queries WHERE fingerprint = given.f)
         FROM unnest($2::bytea[]) WITH ORDINALITY AS given (f, place)",
    )
    .bind(id)
    .bind(&queries)
    .execute(&mut *transaction)
    .await
    .during(OPERATION)?;
    sqlx::query("INSERT INTO sweep_planners (sweep) VALUES ($1)")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    transaction.commit().await.during(OPERATION)?;
    Ok(Created { id: SweepId(id), created: true, state: SweepState::Running })
}

/// The sweep that has the name already.
async fn found(connection: &mut PgConnection, storable: &Storable<'_>) -> Result<Created, StoreError> {
    const OPERATION: &str = "create sweep";
    let name = &storable.definition.name;
    let (id, stored, state, stored_text): (i64, Vec<u8>, String, String) =
        sqlx::query_as("SELECT id, fingerprint, state, definition FROM sweeps WHERE name = $1 FOR UPDATE")
            .bind(name)
            .fetch_one(&mut *connection)
            .await
            .during(OPERATION)?;
    let (id, stored) = (SweepId(id), read_fingerprint(&stored, || format!("sweep {id}"))?);
    if stored != storable.fingerprint {
        return Err(StoreError::SweepDiffers { name: name.clone(), stored, given: storable.fingerprint });
    }
    if stored_text != storable.text {
        sqlx::query("UPDATE sweeps SET definition = $2, revision = revision + 1 WHERE id = $1")
            .bind(id.0)
            .bind(&storable.text)
            .execute(connection)
            .await
            .during(OPERATION)?;
    }
    Ok(Created { id, created: false, state: read_state(&state, id)? })
}

async fn intern(
    connection: &mut PgConnection,
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
pub(super) async fn get(store: &PostgresStore, id: SweepId) -> Result<SweepRecord, StoreError> {
    call!(store, "read sweep", |connection| get_once(store, connection, id))
}

async fn get_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    id: SweepId,
) -> Result<SweepRecord, StoreError> {
    let row: Option<(String, i32, i64)> =
        sqlx::query_as("SELECT state, priority, revision FROM sweeps WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&mut *connection)
            .await
            .during("read sweep")?;
    let Some((state, priority, revision)) = row else {
        return Err(no_such_sweep(connection, &id.to_string()).await?);
    };
    let state = read_state(&state, id)?;
    Ok(known(store, connection, id, Some(revision)).await?.record(state, priority))
}

/// See [`crate::Store::find_sweep`].
pub(super) async fn find(store: &PostgresStore, name_or_number: &str) -> Result<SweepRecord, StoreError> {
    call!(store, "find sweep", |connection| find_once(store, connection, name_or_number))
}

async fn find_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    name_or_number: &str,
) -> Result<SweepRecord, StoreError> {
    // PostgreSQL takes no text with a zero character, and no sweep has such a name.
    if name_or_number.contains('\0') {
        return Err(no_such_sweep(connection, name_or_number).await?);
    }
    // A name never consists of digits only, so the two cannot be confused.
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT id FROM sweeps WHERE name = $1 OR id = $2 ORDER BY name = $1 DESC LIMIT 1")
            .bind(name_or_number)
            .bind(name_or_number.parse::<i64>().ok())
            .fetch_optional(&mut *connection)
            .await
            .during("find sweep")?;
    match row {
        Some((id,)) => get_once(store, connection, SweepId(id)).await,
        None => Err(no_such_sweep(connection, name_or_number).await?),
    }
}

/// See [`crate::Store::sweeps`].
pub(super) async fn all(store: &PostgresStore) -> Result<Vec<SweepRecord>, StoreError> {
    call!(store, "list sweeps", |connection| all_once(store, connection))
}

async fn all_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
) -> Result<Vec<SweepRecord>, StoreError> {
    const OPERATION: &str = "list sweeps";
    let mut snapshot = snapshot(connection, OPERATION).await?;
    let rows: Vec<(i64, String, i32, i64)> =
        sqlx::query_as("SELECT id, state, priority, revision FROM sweeps ORDER BY created_at DESC, id DESC")
            .fetch_all(&mut *snapshot)
            .await
            .during(OPERATION)?;
    let mut records = Vec::with_capacity(rows.len());
    for (id, state, priority, revision) in rows {
        let id = SweepId(id);
        let state = read_state(&state, id)?;
        records.push(known(store, &mut snapshot, id, Some(revision)).await?.record(state, priority));
    }
    snapshot.commit().await.during(OPERATION)?;
    Ok(records)
}

/// See [`crate::Store::set_sweep_state`].
pub(super) async fn set_state(store: &PostgresStore, id: SweepId, to: SweepState) -> Result<(), StoreError> {
    call!(store, "change the state of a sweep", |connection| set_state_once(connection, id, to))
}

async fn set_state_once(
    connection: &mut PgConnection,
    id: SweepId,
    to: SweepState,
) -> Result<(), StoreError> {
    const OPERATION: &str = "change the state of a sweep";
    let mut transaction = begin(connection, OPERATION).await?;
    let from = lock(&mut transaction, id).await?;
    from.check_transition(to).map_err(|source| StoreError::Transition { sweep: id, source })?;
    if from != to {
        write_state(&mut transaction, id, to).await?;
    }
    transaction.commit().await.during(OPERATION)
}

/// Writes a sweep's state, allowed or not.
pub(super) async fn write_state(
    connection: &mut PgConnection,
    id: SweepId,
    to: SweepState,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE sweeps SET state = $2 WHERE id = $1")
        .bind(id.0)
        .bind(to.as_str())
        .execute(connection)
        .await
        .during("change the state of a sweep")?;
    Ok(())
}

/// The state of a sweep that must be there; nobody else changes it before the transaction ends.
pub(super) async fn lock(connection: &mut PgConnection, id: SweepId) -> Result<SweepState, StoreError> {
    state_of(connection, id, "SELECT state FROM sweeps WHERE id = $1 FOR UPDATE").await
}

/// The state of a sweep that must be there; nobody changes it before the transaction ends, others may do the same.
pub(super) async fn share(connection: &mut PgConnection, id: SweepId) -> Result<SweepState, StoreError> {
    state_of(connection, id, "SELECT state FROM sweeps WHERE id = $1 FOR SHARE").await
}

async fn state_of(
    connection: &mut PgConnection,
    id: SweepId,
    statement: &'static str,
) -> Result<SweepState, StoreError> {
    let row: Option<(String,)> =
        sqlx::query_as(statement).bind(id.0).fetch_optional(&mut *connection).await.during("read sweep")?;
    match row {
        Some((state,)) => read_state(&state, id),
        None => Err(no_such_sweep(connection, &id.to_string()).await?),
    }
}

/// See [`crate::Store::set_sweep_priority`].
pub(super) async fn set_priority(
    store: &PostgresStore,
    id: SweepId,
    priority: i32,
) -> Result<(), StoreError> {
    call!(store, "change the priority of a sweep", |connection| async move {
        let done = sqlx::query("UPDATE sweeps SET priority = $2 WHERE id = $1")
            .bind(id.0)
            .bind(priority)
            .execute(&mut *connection)
            .await
            .during("change the priority of a sweep")?;
        if done.rows_affected() == 0 {
            return Err(no_such_sweep(connection, &id.to_string()).await?);
        }
        Ok(())
    })
}

/// The error for a sweep that is not there, with the names there are.
pub(super) async fn no_such_sweep(
    connection: &mut PgConnection,
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
    store: &PostgresStore,
    connection: &mut PgConnection,
    id: SweepId,
) -> Result<Arc<SweepLayout>, StoreError> {
    let cached = store.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    match cached {
        Some(known) => Ok(known.layout),
        None => Ok(known(store, connection, id, None).await?.layout),
    }
}

/// The layout of a sweep that must be there now: a deleted one is remembered for a while.
pub(super) async fn present(
    store: &PostgresStore,
    connection: &mut PgConnection,
    id: SweepId,
) -> Result<Arc<SweepLayout>, StoreError> {
    let there: Option<(i64,)> = sqlx::query_as("SELECT id FROM sweeps WHERE id = $1")
        .bind(id.0)
        .fetch_optional(&mut *connection)
        .await
        .during("read sweep")?;
    if there.is_none() {
        store.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        return Err(no_such_sweep(connection, &id.to_string()).await?);
    }
    layout(store, connection, id).await
}

/// The sweep's unchanging parts and, when a revision is asked for, its definition of that revision or a later one.
async fn known(
    store: &PostgresStore,
    connection: &mut PgConnection,
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
         FROM sweeps WHERE id = $1",
    )
    .bind(id.0)
    .fetch_optional(&mut *connection)
    .await
    .during(OPERATION)?;
    let Some((revision, fingerprint, recipe, decoding, judge, created_at, text)) = row else {
        return Err(no_such_sweep(connection, &id.to_string()).await?);
    };
    let queries: Vec<(i64,)> =
        sqlx::query_as("SELECT query FROM sweep_queries WHERE sweep = $1 ORDER BY ordinal")
            .bind(id.0)
            .fetch_all(connection)
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
