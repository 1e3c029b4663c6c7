//! The store's connections: lent for one call, taken back when it went well, and the one place that tries again.
//!
//! Not sqlx's own pool, which asks the server whether it is there around every use: that would be two more round trips
//! for each of ours.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avsweep_domain::SweepId;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::options::PostgresStoreOptions;
use super::{migration, sweeps};
use crate::StoreError;
use crate::error::During;

/// How long a whole call may take: nothing here waits for anything but the database.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);
/// How often a call is made when others get in its way.
const TRIES: u32 = 10;

/// A store in a PostgreSQL database, which several processes may use at once.
pub struct PostgresStore {
    pool: Pool,
    pub(super) known: Mutex<HashMap<SweepId, sweeps::Known>>,
    /// The running sweeps when it was last looked; see the claim.
    pub(super) running: Mutex<Arc<Vec<SweepId>>>,
}

struct Pool {
    connect: PgConnectOptions,
    place: String,
    timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<PgConnection>>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.pool.place).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Opens a store whose schema is this program's.
    ///
    /// # Errors
    /// [`StoreError::Newer`] and [`StoreError::Older`] for any other schema, [`StoreError::Unreachable`] when the
    /// server does not answer, [`StoreError::Url`] when its address cannot be read.
    pub async fn open(options: &PostgresStoreOptions) -> Result<Self, StoreError> {
        let pool = Pool {
            connect: options.connect()?.disable_statement_logging(),
            place: options.place(),
            timeout: options.acquire_timeout,
            permits: Arc::new(Semaphore::new(options.connections as usize)),
            idle: Mutex::new(Vec::new()),
        };
        let mut first = pool.connect().await.map_err(|source| pool.unreachable(source))?;
        migration::check(&mut first, &pool.place).await?;
        pool.idle().push(first);
        Ok(Self { pool, known: Mutex::new(HashMap::new()), running: Mutex::new(Arc::default()) })
    }

    /// Brings a database's schema up to this program's, from none at all too. Several may do so at once: one does.
    ///
    /// # Errors
    /// [`StoreError::Newer`], and as [`open`](Self::open).
    pub async fn migrate(options: &PostgresStoreOptions) -> Result<(), StoreError> {
        let connect = options.plain()?.disable_statement_logging();
        let place = options.place();
        let connected = tokio::time::timeout(options.acquire_timeout, connect.connect()).await;
        let mut connection = connected
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
            .map_err(|source| StoreError::Unreachable { place: place.clone(), source })?;
        migration::migrate(&mut connection, &place).await?;
        connection.close().await.during("migrate store")
    }

    /// Closes the connections that nobody uses. Dropping the store loses nothing either.
    ///
    /// # Errors
    /// When a connection cannot be closed.
    pub async fn close(self) -> Result<(), StoreError> {
        let idle = std::mem::take(&mut *self.pool.idle());
        for connection in idle {
            connection.close().await.during("close store")?;
        }
        Ok(())
    }

    /// A connection for one call.
    pub(super) async fn lend(&self, operation: &'static str) -> Result<Lent<'_>, StoreError> {
        let acquire = Arc::clone(&self.pool.permits).acquire_owned();
        let permit = match tokio::time::timeout(self.pool.timeout, acquire).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(unavailable(operation, sqlx::Error::PoolClosed)),
            Err(_) => return Err(unavailable(operation, sqlx::Error::PoolTimedOut)),
        };
        let idle = self.pool.idle().pop();
        let used = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => self.pool.connect().await.map_err(|source| unavailable(operation, source))?,
        };
        Ok(Lent { connection, pool: &self.pool, used, _permit: permit })
    }
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        tokio::time::timeout(self.timeout, self.connect.connect())
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    fn unreachable(&self, source: sqlx::Error) -> StoreError {
        StoreError::Unreachable { place: self.place.clone(), source }
    }
}

fn unavailable(operation: &'static str, source: sqlx::Error) -> StoreError {
    StoreError::Unavailable { operation, source }
}

/// A borrowed connection. One that is dropped, with the call that it was lent for, is closed: nobody knows what it is
/// in the middle of.
pub(super) struct Lent<'s> {
    connection: PgConnection,
    pool: &'s Pool,
    /// Whether it has been lent before.
    used: bool,
    _permit: OwnedSemaphorePermit,
}

impl Deref for Lent<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Lent<'_> {
    /// Takes the connection back. `None`: the call is to be made again.
    pub(super) async fn settle<T>(
        self,
        outcome: Result<T, StoreError>,
        tried: u32,
    ) -> Option<Result<T, StoreError>> {
        match &outcome {
            Err(error) if error.is_unavailable() => {
                let stale = self.used;
                // The others were opened to the same server.
                self.pool.idle().clear();
                // Perhaps the server was only started anew since. A call that did reach it is safe to repeat: under
                // its lease, its guard, or because it says so.
                if stale && tried < TRIES { None } else { Some(outcome) }
            }
            Err(StoreError::Database { source, .. }) if tried < TRIES && is_passing(source) => {
                self.give_back().await;
                None
            }
            Err(StoreError::Database { .. } | StoreError::Corrupt { .. }) => Some(outcome),
            // A refusal is an outcome as good as any.
            Ok(_) | Err(_) => {
                self.give_back().await;
                Some(outcome)
            }
        }
    }

    /// Lends the connection to the next call.
    ///
    /// Of a transaction that was dropped, sqlx has only noted the rollback: it is sent now, or what the transaction has
    /// locked would stay locked until the connection happens to be lent again.
    async fn give_back(mut self) {
        if self.connection.should_flush() {
            let rolled_back = tokio::time::timeout(self.pool.timeout, self.connection.ping()).await;
            if !matches!(rolled_back, Ok(Ok(()))) {
                // Closed instead: the server rolls back then.
                return;
            }
        }
        self.pool.idle().push(self.connection);
    }
}

/// Serialisation failure, deadlock, or a row that was deleted while it was pointed at: another transaction was faster.
fn is_passing(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("40001" | "40P01" | "23503"))
}

/// A call under its time limit.
pub(super) async fn bounded<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(unavailable(operation, sqlx::Error::PoolTimedOut)))
}

/// A pause before a call is made again, longer every time.
pub(super) async fn step_aside(tried: u32) {
    tokio::time::sleep(Duration::from_millis(1 << tried.min(7))).await;
}

/// Makes a call on a lent connection, again if another transaction got in its way.
macro_rules! call {
    ($store:expr, $operation:expr, |$connection:ident| $work:expr) => {{
        let mut tried = 0;
        loop {
            tried += 1;
            let mut lent = $store.lend($operation).await?;
            let outcome = {
                let $connection: &mut sqlx::postgres::PgConnection = &mut lent;
                $crate::postgres::connection::bounded($operation, $work).await
            };
            match lent.settle(outcome, tried).await {
                Some(outcome) => break outcome,
                None => $crate::postgres::connection::step_aside(tried).await,
            }
        }
    }};
}
pub(super) use call;

/// Begins a transaction.
pub(super) async fn begin<'c>(
    connection: &'c mut PgConnection,
    operation: &'static str,
) -> Result<Transaction<'c, Postgres>, StoreError> {
    connection.begin().await.during(operation)
}

/// Begins a transaction whose statements all see the same state of the database.
pub(super) async fn snapshot<'c>(
    connection: &'c mut PgConnection,
    operation: &'static str,
) -> Result<Transaction<'c, Postgres>, StoreError> {
    connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.during(operation)
}
