//! The services on a port, from the first connection to the last report of a drain.

use std::sync::Arc;
use std::time::Duration;

use avsweep_proto::MAX_MESSAGE_BYTES;
use avsweep_transport::{Authorization, Listener, Tokens};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{debug, info, warn};

use crate::services::{Health, RequestLayer, Services};
use crate::{Coordinator, error_text};

/// How often a drain looks whether anybody could still have something to report.
const DRAIN_LOOK: Duration = Duration::from_millis(200);
/// After the drain, what is being answered has this long to end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// A peer that is gone without a word is noticed by its silence.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a server takes from its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message, in bytes; at most [`MAX_MESSAGE_BYTES`], which is also the default.
    pub max_message: usize,
    /// Requests at once, over all connections; those that wait for jobs and open streams count.
    pub max_requests: usize,
    /// Requests at once on one connection; more wait.
    pub max_connection_requests: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_message: MAX_MESSAGE_BYTES, max_requests: 8192, max_connection_requests: 256 }
    }
}

/// How a coordinator is served.
#[derive(Debug)]
pub struct ServeOptions {
    /// The port, with TLS or without; its connection limit and handshake timeout are its own.
    pub listener: Listener,
    /// Who is let in; `None` lets in everybody, without a role
    /// (see [`avsweep_transport::check_exposure`] for where that is right).
    pub tokens: Option<Tokens>,
    /// What is taken from peers.
    pub limits: Limits,
    /// After the stop, how long reports are still taken. It ends sooner when no job is leased any more.
    pub drain: Duration,
}

/// Serves until `stop` is cancelled, then drains: health turns to `NOT_SERVING`, requests that wait for jobs end, no
/// job is handed out, and reports are taken until no lease is left or the drain time is over. Then the connections
/// close.
///
/// The background tasks are the caller's to start ([`Coordinator::start_background`]); they end with the same stop.
///
/// # Errors
/// When the server failed.
pub async fn serve(
    coordinator: Arc<Coordinator>,
    options: ServeOptions,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let ServeOptions { listener, tokens, limits, drain } = options;
    coordinator.metrics.count_handshakes(listener.failed_handshakes());
    let requests = RequestLayer::new(Arc::clone(&coordinator.metrics), limits.max_requests);
    let max_message = limits.max_message.min(MAX_MESSAGE_BYTES);
    let Services { routes, health } = Arc::clone(&coordinator).services(max_message).await;
    let closed = CancellationToken::new();
    let address = listener.local_addr();
    let serving = Server::builder()
        .max_concurrent_streams(limits.max_connection_requests)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_adaptive_window(Some(true))
        .layer(requests)
        .layer(Authorization::new(tokens))
        .add_routes(routes)
        .serve_with_incoming_shutdown(listener.incoming(), closed.clone().cancelled_owned());
    info!(%address, "coordinator serves");
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        result = &mut serving => return result,
        () = coordinator.drained(&health, drain, &stop) => {}
    }
    closed.cancel();
    match timeout(LAST_ANSWERS, serving).await {
        Ok(result) => result,
        Err(_) => {
            // Streams to peers that do not read; they end with the process.
            debug!(%address, "connections are left behind");
            Ok(())
        }
    }
}

impl Coordinator {
    /// Waits for the stop, and then until nobody has anything to report or the time is over.
    async fn drained(&self, health: &Health, drain: Duration, stop: &CancellationToken) {
        stop.cancelled().await;
        health.not_serving().await;
        self.stopping.cancel();
        info!(seconds = drain.as_secs(), "coordinator drains");
        let end = Instant::now() + drain;
        while Instant::now() < end {
            // A store that does not answer makes the drain no longer.
            let left = end.saturating_duration_since(Instant::now());
            let Ok(overview) = timeout(left, self.store.overview(self.clock.now())).await else {
                return;
            };
            match overview {
                Ok(overview) => {
                    let rungs = [overview.likelihood, overview.generation, overview.judgement];
                    if rungs.iter().all(|rung| rung.leased == 0) {
                        return;
                    }
                }
                Err(error) => warn!(error = error_text(&error), "the store cannot be looked at"),
            }
            sleep(DRAIN_LOOK.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }
}
