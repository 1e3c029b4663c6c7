//! The loop against the real coordinator, over a store in memory.

use std::sync::Arc;
use std::time::Duration;

use avsweep_coordinator::{Coordinator, InProcessServer, Settings};
use avsweep_domain::WorkerId;
use avsweep_proto::v1;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_store::{SqliteStore, SqliteStoreOptions};
use avsweep_worker::{Shutdown, Worker};
use tokio_util::sync::CancellationToken;

use crate::coordinator::definition;
use crate::evaluator::{MadeUp, options};

#[tokio::test]
async fn two_workers_do_a_whole_sweep_and_nothing_twice() {
    let store = SqliteStore::open(&SqliteStoreOptions::memory()).await.unwrap();
    let coordinator = Arc::new(Coordinator::new(Arc::new(store), Settings::default()));
    let stop = CancellationToken::new();
    let _background = coordinator.start_background(stop.clone());
    let server = InProcessServer::start(coordinator, stop.clone()).await;
    let mut sweeps = SweepServiceClient::new(server.transport());
    let definition = Some((&definition(1, 12)).into());
    sweeps.create_sweep(v1::CreateSweepRequest { definition, priority: 0 }).await.unwrap();
    let shutdown = Shutdown::default();
    let workers: Vec<_> = ["left", "right"]
        .map(|name| {
            let mut options = options();
            options.name = WorkerId(name.to_owned());
            let evaluator = MadeUp { per_query: Duration::from_millis(1), ..MadeUp::default() };
            let worker = Worker::with_evaluator(server.transport(), options, Box::new(evaluator));
            tokio::spawn(worker.run(shutdown.clone()))
        })
        .into();
    let done = async {
        loop {
            let request = v1::GetSweepRequest { sweep: "sweep-1".to_owned() };
            let progress = sweeps.get_sweep(request).await.unwrap().into_inner().progress.unwrap();
            if progress.state() == v1::SweepState::Done {
                return progress;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let progress = tokio::time::timeout(Duration::from_secs(60), done).await.expect("the sweep ends");
    assert_eq!((progress.points_done, progress.duplicate_results), (21, 0));
    shutdown.drain.cancel();
    let mut results = 0;
    for worker in workers {
        let summary = worker.await.unwrap().unwrap();
        assert_eq!((summary.failed, summary.lost), (0, 0));
        results += summary.results;
    }
    assert_eq!(results, 21 * 12);
    stop.cancel();
}
