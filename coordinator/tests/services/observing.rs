//! What a cluster's machinery reads over HTTP.

use avsweep_coordinator::observability;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::support::Cluster;

async fn get(cluster: &Cluster, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let request = Request::get(path).body(Body::empty())?;
    let answer = observability(std::sync::Arc::clone(&cluster.coordinator)).oneshot(request).await?;
    let status = answer.status();
    let bytes = answer.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(bytes.to_vec())?))
}

#[tokio::test]
async fn metrics_health_and_readiness_answer_until_the_stop() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let (status, text) = get(&cluster, "/metrics").await?;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("avsweep_sweeps_running 0\n") && text.ends_with("# EOF\n"), "{text}");
    assert_eq!(get(&cluster, "/healthz").await?.0, StatusCode::OK);
    assert_eq!(get(&cluster, "/readyz").await?.0, StatusCode::OK);
    cluster.cancel.cancel();
    cluster.background().wait().await;
    assert_eq!(get(&cluster, "/healthz").await?.0, StatusCode::OK);
    assert_eq!(get(&cluster, "/readyz").await?.0, StatusCode::SERVICE_UNAVAILABLE);
    Ok(())
}
