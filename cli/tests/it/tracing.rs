//! Traces leave for a collector, and nobody minds when there is none.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::routing::post;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::processes::{Cluster, until};
use crate::support::succeed;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// A gRPC message of no bytes.
const EMPTY: [u8; 5] = [0; 5];

fn over(endpoint: &str) -> Cluster {
    let folder = TempDir::new().expect("a temporary folder");
    let store = folder.path().join("cluster.db").display().to_string();
    Cluster::over(folder, &store, &["--otlp-endpoint", endpoint])
}

#[test]
fn requests_are_traced_to_the_collector_up_to_the_last() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let taken = Arc::new(Mutex::new(Vec::<u8>::new()));
    let keep = Arc::clone(&taken);
    let export = post(move |body: bytes::Bytes| async move {
        keep.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&body);
        ([("content-type", "application/grpc"), ("grpc-status", "0")], EMPTY.to_vec())
    });
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let routes = Routes::from(Router::new().route(EXPORT, export));
    runtime.spawn(Server::builder().add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener)));

    let mut cluster = over(&endpoint);
    succeed(&mut cluster.user(&["sweep", "ls"]));
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
    until("the spans of the request have arrived", || {
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |text: &str| taken.windows(text.len()).any(|window| window == text.as_bytes());
        (holds("avsweep-coordinator") && holds("ListSweeps")).then_some(())
    });
}

#[test]
fn a_collector_that_is_away_is_not_missed() {
    let mut cluster = over("http://127.0.0.1:9");
    succeed(&mut cluster.user(&["sweep", "ls"]));
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
}
