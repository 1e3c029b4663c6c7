//! Coordinators on one database, each serving gRPC on a port of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use avsweep_coordinator::{Coordinator, Settings};
use avsweep_proto::v1;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_store::{PostgresStore, PostgresStoreOptions};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpIncoming;

use crate::definition;
use crate::load::{self, Load};

/// How long services and background tasks may take to end.
const CLOSING: Duration = Duration::from_secs(20);

/// Running coordinators.
#[derive(Debug)]
pub(crate) struct Coordinators {
    running: Vec<Running>,
    urls: Vec<String>,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Running {
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    background: TaskTracker,
}

impl Coordinators {
    /// Starts some on a migrated database, as separate as in processes of their own: each has its connections.
    pub(crate) async fn start(url: &str, count: usize) -> Result<Self> {
        let cancel = CancellationToken::new();
        let (mut running, mut urls) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let store = PostgresStore::open(&PostgresStoreOptions::new(url)).await?;
            let coordinator = Arc::new(Coordinator::new(Arc::new(store), Settings::default()));
            let background = coordinator.start_background(cancel.clone());
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            urls.push(format!("http://{}", listener.local_addr()?));
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let router = coordinator.router().await;
            let stopped = cancel.clone().cancelled_owned();
            let server = tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped));
            running.push(Running { server, background });
        }
        Ok(Self { running, urls, cancel })
    }

    /// Where they are reached.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Ends them and waits for it; their connections to the database close then.
    pub(crate) async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        for running in self.running {
            timeout(CLOSING, running.server).await.context("a coordinator's services do not end")???;
            timeout(CLOSING, running.background.wait()).await.context("a coordinator's tasks do not end")?;
        }
        Ok(())
    }
}

/// Makes the sweep on an empty database and has workers report until it holds at least as many query results as wanted.
/// Returns how many it holds.
pub(crate) async fn fill(url: &str, results: u64) -> Result<u64> {
    PostgresStore::migrate(&PostgresStoreOptions::new(url)).await?;
    let coordinators = Coordinators::start(url, 1).await?;
    let mut sweeps = SweepServiceClient::connect(coordinators.urls[0].clone()).await?;
    let definition = definition::sweep();
    let name = definition.name.clone();
    sweeps
        .create_sweep(v1::CreateSweepRequest { definition: Some((&definition).into()), priority: 0 })
        .await?;
    let load = Load {
        workers: 16,
        jobs_per_lease: 16,
        evaluation: Duration::ZERO,
        warm_up: Duration::ZERO,
        window: Duration::ZERO,
    };
    load::report(load, coordinators.urls(), results.div_ceil(definition::RESULTS_PER_JOB.into())).await?;
    let answer = sweeps.get_sweep(v1::GetSweepRequest { sweep: name }).await?.into_inner();
    drop(sweeps);
    coordinators.stop().await?;
    Ok(answer.progress.context("a sweep without progress")?.results)
}
