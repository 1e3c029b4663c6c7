//! Coordinator, worker and judge in this process, over one SQLite store.
//!
//! They speak the same gRPC services as on a cluster, through in-memory streams instead of sockets: one path, not two.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use avsweep_coordinator::{Coordinator, InProcessServer, Settings};
use avsweep_domain::SweepDefinition;
use avsweep_proto::v1;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_store::{SqliteStore, SqliteStoreOptions};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use crate::sweep_file;

/// How long services and background tasks may take to end; what was acknowledged is durable long before.
const CLOSING: Duration = Duration::from_secs(5);

/// A coordinator over a store, and a way to speak to it.
#[derive(Debug)]
pub(crate) struct Session {
    channel: Channel,
    server: InProcessServer,
    background: Option<TaskTracker>,
    stop: CancellationToken,
}

impl Session {
    /// Opens an existing store to read from; another process may be working on it.
    ///
    /// # Errors
    /// When there is no store, or it cannot be opened.
    pub(crate) async fn read(path: &Path) -> Result<Self> {
        anyhow::ensure!(
            path.is_file(),
            "{}: there is no store here; 'avsweep run SWEEP.yaml' makes one, --store names another",
            path.display()
        );
        let store = SqliteStore::open(&SqliteStoreOptions::file(path).read_only()).await?;
        let coordinator = Arc::new(Coordinator::new(Arc::new(store), Settings::default()));
        Ok(Self::serve(coordinator, None, CancellationToken::new()).await)
    }

    /// Opens or makes a store to work on, alone: planner and reaper run.
    ///
    /// # Errors
    /// When the store cannot be opened, or another process works on it.
    pub(crate) async fn work(path: &Path) -> Result<Self> {
        anyhow::ensure!(!path.is_dir(), "{}: this is a folder; --store wants a file", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{}: cannot be made", folder.display()))?;
        }
        let store = SqliteStore::open(&SqliteStoreOptions::file(path).exclusive()).await?;
        let coordinator = Arc::new(Coordinator::new(Arc::new(store), Settings::default()));
        // The store is ours alone: whoever held a lease is gone.
        coordinator.reap_all().await?;
        let stop = CancellationToken::new();
        let background = coordinator.start_background(stop.clone());
        Ok(Self::serve(coordinator, Some(background), stop).await)
    }

    async fn serve(
        coordinator: Arc<Coordinator>,
        background: Option<TaskTracker>,
        stop: CancellationToken,
    ) -> Self {
        let server = InProcessServer::start(coordinator, stop.clone()).await;
        Self { channel: server.channel(), server, background, stop }
    }

    /// The connection, for workers and judges.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The user's verbs.
    pub(crate) fn sweeps(&self) -> SweepServiceClient<Channel> {
        SweepServiceClient::new(self.channel.clone())
            .max_decoding_message_size(avsweep_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(avsweep_proto::MAX_MESSAGE_BYTES)
    }

    /// A sweep by name, number or sweep file.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn sweep(&self, reference: &str) -> Result<(v1::SweepProgress, SweepDefinition)> {
        let path = PathBuf::from(reference);
        let is_file = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let sweep = if is_file { sweep_file::name_in(&path)? } else { reference.to_owned() };
        let response =
            self.sweeps().get_sweep(v1::GetSweepRequest { sweep }).await.map_err(explain)?.into_inner();
        let progress = response.progress.context("a sweep without progress")?;
        let definition = response.definition.context("a sweep without definition")?.try_into()?;
        Ok((progress, definition))
    }

    /// Stops services and background tasks and waits for what is being written.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        drop(self.channel);
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

/// A refusal of the coordinator as an error for people: its message, without gRPC's words around it.
#[expect(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
pub(crate) fn explain(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
