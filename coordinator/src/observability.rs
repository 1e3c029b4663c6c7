//! What a cluster's own machinery reads over HTTP: metrics, liveness, readiness.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use tokio::time::timeout;

use crate::Coordinator;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A store that takes longer than this to be looked at is not ready.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// `/metrics` (Prometheus), `/healthz` (the process answers), `/readyz` (the store answers and no stop was asked for).
///
/// Serve it on a port of its own, behind [`avsweep_transport::Authorization`] where tokens are asked for.
pub fn observability(coordinator: Arc<Coordinator>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(coordinator)
}

async fn metrics(State(coordinator): State<Arc<Coordinator>>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, OPEN_METRICS)], coordinator.metrics_text().await)
}

async fn ready(State(coordinator): State<Arc<Coordinator>>) -> (StatusCode, &'static str) {
    if coordinator.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the coordinator is shutting down\n");
    }
    match timeout(LOOK_TIMEOUT, coordinator.look_at_store()).await {
        Ok(true) => (StatusCode::OK, "ready\n"),
        Ok(false) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n"),
    }
}
