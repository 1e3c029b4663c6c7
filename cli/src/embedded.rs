//! A coordinator in this process, over one store.
//!
//! It speaks the same gRPC services as on a cluster, through in-memory streams instead of sockets: one path, not two.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use avsweep_coordinator::{Coordinator, InProcessServer, Settings};
use avsweep_store::{SqliteStore, SqliteStoreOptions};
use avsweep_transport::Transport;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::arguments::StoreLocation;

/// How long services and background tasks may take to end; what was acknowledged is durable long before.
const CLOSING: Duration = Duration::from_secs(5);

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading; another process may be working on it.
    Read,
    /// A change of a few rows; another process may be working on it.
    Change,
    /// The same in a store that is made if there is none.
    Create,
    /// Working, alone: planner and reaper run.
    Work,
}

/// A coordinator over a store, and a way to speak to it.
#[derive(Debug)]
pub(crate) struct Embedded {
    transport: Transport,
    server: InProcessServer,
    background: Option<TaskTracker>,
    stop: CancellationToken,
}

impl Embedded {
    /// Opens a store.
    ///
    /// # Errors
    /// When there is none and none is made, when it cannot be opened, or when it is wanted alone and another process
    /// works on it.
    pub(crate) async fn open(store: &StoreLocation, access: Access) -> Result<Self> {
        let Some(path) = store.file() else {
            bail!(
                "{store}: a database is served by a coordinator: start 'avsweep coordinator' on it and name that \
                 with --coordinator, or give --store a file"
            );
        };
        if matches!(access, Access::Create | Access::Work) {
            make_room(path)?;
        } else {
            anyhow::ensure!(
                path.is_file(),
                "{}: there is no store here; 'avsweep run SWEEP.yaml' makes one, --store names another",
                path.display()
            );
        }
        let options = SqliteStoreOptions::file(path);
        let options = match access {
            Access::Read => options.read_only(),
            Access::Change | Access::Create => options,
            Access::Work => options.exclusive(),
        };
        let coordinator =
            Arc::new(Coordinator::new(Arc::new(SqliteStore::open(&options).await?), Settings::default()));
        let stop = CancellationToken::new();
        let background = if access == Access::Work {
            // The store is ours alone: whoever held a lease is gone.
            coordinator.reap_all().await?;
            Some(coordinator.start_background(stop.clone()))
        } else {
            None
        };
        let server = InProcessServer::start(coordinator, stop.clone()).await;
        Ok(Self { transport: server.transport(), server, background, stop })
    }

    /// The connection.
    pub(crate) fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// Stops services and background tasks and waits for what is being written.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        drop(self.transport);
        let ended = async {
            if let Some(background) = &self.background {
                background.wait().await;
            }
            if let Err(error) = self.server.finished().await {
                tracing::warn!(%error, "the in-process services ended with an error");
            }
        };
        if tokio::time::timeout(CLOSING, ended).await.is_err() {
            tracing::warn!("the in-process services did not end in time");
        }
    }
}

/// Sees to it that a store file can be made.
///
/// # Errors
/// When the path is a folder, or the folder above it cannot be made.
pub(crate) fn make_room(path: &Path) -> Result<()> {
    anyhow::ensure!(!path.is_dir(), "{}: this is a folder; --store wants a file", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    Ok(())
}
