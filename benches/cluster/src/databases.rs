//! Databases on the server that is measured: empty ones, and copies of filled ones.

use anyhow::{Context as _, Result};
use avsweep_testing::postgres::{Cluster, Settings};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

/// What the log of writes may grow to between checkpoints; the default makes one every few windows.
const MAX_WAL_SIZE: &str = "4GB";

/// A server with durable commits, private unless one was given.
#[derive(Debug)]
pub(crate) struct Databases {
    /// Up to but without the database's name.
    server: String,
    /// Ends when dropped.
    _private: Option<Cluster>,
}

impl Databases {
    /// Starts a private server with PostgreSQL's own settings (each commit is flushed to the disk), or takes the given
    /// one.
    pub(crate) async fn start(given: Option<String>) -> Result<Self> {
        let (private, url) = match given {
            Some(url) => (None, url),
            None => {
                let cluster = Cluster::start(Settings::durable().with("max_wal_size", MAX_WAL_SIZE)).await?;
                let url = cluster.url("postgres");
                (Some(cluster), url)
            }
        };
        let (server, _) =
            url.rsplit_once('/').context("--server: a URL that ends in a database is wanted")?;
        Ok(Self { server: server.to_owned(), _private: private })
    }

    /// A new empty database.
    pub(crate) async fn create(&self, name: &str) -> Result<String> {
        self.copy("template0", name).await
    }

    /// A new database with the content of another that nobody is connected to.
    pub(crate) async fn copy(&self, template: &str, name: &str) -> Result<String> {
        self.drop(name).await?;
        self.run("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        // What copying left to write is not the window's to pay for.
        self.run("postgres", "CHECKPOINT").await?;
        Ok(self.url(name))
    }

    /// Brings statistics up to date, as the server does by itself in time.
    pub(crate) async fn settle(&self, name: &str) -> Result<()> {
        self.run(name, "VACUUM ANALYZE").await
    }

    /// Drops a database if it is there.
    pub(crate) async fn drop(&self, name: &str) -> Result<()> {
        self.run("postgres", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.server)
    }

    async fn run(&self, database: &str, statement: &str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.url(database))
            .await
            .with_context(|| format!("connect to {database}"))?;
        // The names in here are this program's own.
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await
            .with_context(|| statement.to_owned())?;
        connection.close().await?;
        Ok(())
    }
}
