//! Which database, and how it is talked to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::StoreError;

/// How to open a store on PostgreSQL.
#[derive(Clone)]
pub struct PostgresStoreOptions {
    url: String,
    pub(super) connections: u32,
    pub(super) acquire_timeout: Duration,
}

impl PostgresStoreOptions {
    /// The store in this database: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with libpq's parameters
    /// (`?sslmode=verify-full&sslrootcert=…`). What the URL leaves out is taken from `PGUSER`, `PGPASSWORD` and so on.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), connections: 16, acquire_timeout: Duration::from_secs(10) }
    }

    /// The same with at most so many connections (at least 1; default 16). They are opened as they are needed.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// The same, where a call fails as unavailable after waiting so long for a connection (default 10 s).
    #[must_use]
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// Settings of a connection.
    ///
    /// Every statement of this store is written for an index. Its plan is made once per connection, perhaps while the
    /// tables are empty, and must still be right when they hold millions of rows: so the planner may not choose what
    /// is only right for small tables, and does not plan the same statement again and again.
    ///
    /// # Errors
    /// [`StoreError::Url`].
    pub(super) fn connect(&self) -> Result<PgConnectOptions, StoreError> {
        let plain = self.plain()?;
        Ok(plain.options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("enable_material", "off"),
            ("jit", "off"),
            ("max_parallel_workers_per_gather", "0"),
            // Whoever is stopped or cut off in the middle of a transaction does not hold others up for long.
            ("idle_in_transaction_session_timeout", "15s"),
            ("statement_timeout", "60s"),
        ]))
    }

    /// Settings of a connection that migrates.
    pub(super) fn plain(&self) -> Result<PgConnectOptions, StoreError> {
        let options = PgConnectOptions::from_str(&self.url)
            .map_err(|error| StoreError::Url { problem: error.to_string() })?;
        Ok(options.application_name("avsweep"))
    }

    /// Where the database is, for messages: without the password and the parameters.
    pub(super) fn place(&self) -> String {
        match self.plain() {
            Ok(options) => {
                let host = match options.get_socket() {
                    Some(socket) => socket.display().to_string(),
                    None => options.get_host().to_owned(),
                };
                let database = options.get_database().unwrap_or_else(|| options.get_username());
                format!("postgres://{}@{host}:{}/{database}", options.get_username(), options.get_port())
            }
            Err(_) => "postgres".to_owned(),
        }
    }
}

/// Shows no password.
impl fmt::Debug for PostgresStoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStoreOptions")
            .field("place", &self.place())
            .field("connections", &self.connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .finish()
    }
}
