//! One connection to one of several coordinators, replaced by one to the next when it fails.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper::client::conn::http2::SendRequest;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::dial::{Dialer, Driver};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("avsweep/", env!("CARGO_PKG_VERSION")));

/// How long a request that failed waits to hear why its connection ended: the reason arrives a moment later.
const REASON_WAIT: Duration = Duration::from_millis(500);

/// A gRPC service over whichever coordinator can be reached.
#[derive(Clone)]
pub(crate) struct Failover {
    shared: Arc<Shared>,
}

struct Shared {
    dialers: Vec<Dialer>,
    authorization: Option<HeaderValue>,
    state: Mutex<State>,
    /// Held by the one who connects, so that a crowd of requests makes one connection.
    connecting: tokio::sync::Mutex<()>,
}

struct State {
    /// The coordinator in use, or to be tried first.
    current: usize,
    live: Option<Live>,
    /// Connections made so far.
    connections: u64,
    /// The last time that no coordinator could be reached, and why.
    failed: Option<(Instant, String)>,
}

/// A connection that can take requests.
#[derive(Clone)]
struct Live {
    sender: SendRequest<Body>,
    /// Which of the dialers made it.
    index: usize,
    /// Which of the connections it is.
    number: u64,
    /// Whether any request was answered over it.
    answered: Arc<AtomicBool>,
    /// Why it ended, once it has.
    ended: watch::Receiver<Option<Arc<str>>>,
}

impl Failover {
    /// Nothing is connected yet; the coordinator of `dialers[first]` is tried first.
    pub(crate) fn new(dialers: Vec<Dialer>, first: usize, authorization: Option<HeaderValue>) -> Self {
        let state = State { current: first, live: None, connections: 0, failed: None };
        let connecting = tokio::sync::Mutex::new(());
        Self { shared: Arc::new(Shared { dialers, authorization, state: Mutex::new(state), connecting }) }
    }
}

impl fmt::Debug for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<_> = self.shared.dialers.iter().map(|dialer| &dialer.url).collect();
        f.debug_struct("Failover").field("coordinators", &urls).finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for Failover {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.call(request).await })
    }
}

impl Shared {
    async fn call(self: Arc<Self>, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        // A request that did not leave is sent again. Each coordinator may have a connection that died unnoticed.
        let mut tries = self.dialers.len() + 1;
        loop {
            let mut live = self.live().await?;
            let dialer = &self.dialers[live.index];
            *request.uri_mut() = absolute(dialer, request.uri())?;
            let error = match live.sender.try_send_request(request).await {
                Ok(response) => {
                    live.answered.store(true, Ordering::Relaxed);
                    if is_unavailable(&response) {
                        self.leave(&live);
                    }
                    return Ok(response.map(Body::new));
                }
                Err(error) => error,
            };
            self.leave(&live);
            tries -= 1;
            let mut error = error;
            match error.take_message() {
                Some(unsent) if tries > 0 => request = unsent,
                _ => return Err(self.lost(live, error.into_error()).await),
            }
        }
    }

    /// The connection in use, or a new one.
    async fn live(self: &Arc<Self>) -> Result<Live, Status> {
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let asked = Instant::now();
        let _connecting = self.connecting.lock().await;
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let first = {
            let state = self.state();
            // Somebody else has just tried them all while this request waited for its turn.
            if let Some((_, problem)) = state.failed.as_ref().filter(|(when, _)| *when >= asked) {
                return Err(Status::unavailable(problem.clone()));
            }
            state.current
        };
        let mut problems = Vec::new();
        for step in 0..self.dialers.len() {
            let index = (first + step) % self.dialers.len();
            let dialer = &self.dialers[index];
            // Noted before trying: should the caller lose patience here, the next try begins with the next one.
            self.state().current = (index + 1) % self.dialers.len();
            match dialer.dial().await {
                Ok((sender, driver)) => {
                    tracing::debug!(coordinator = %dialer.url, "connected");
                    return Ok(self.install(index, sender, driver));
                }
                Err(error) => {
                    tracing::debug!(coordinator = %dialer.url, %error, "the coordinator cannot be reached");
                    problems.push(format!("{}: {error}", dialer.url));
                }
            }
        }
        let problem = match problems.len() {
            1 => format!("cannot reach the coordinator {}", problems.join("")),
            _ => format!("cannot reach any coordinator: {}", problems.join("; ")),
        };
        self.state().failed = Some((Instant::now(), problem.clone()));
        Err(Status::unavailable(problem))
    }

    fn usable(&self) -> Option<Live> {
        let mut state = self.state();
        if state.live.as_ref().is_some_and(|live| live.sender.is_closed()) {
            state.live = None;
        }
        state.live.clone()
    }

    fn install(self: &Arc<Self>, index: usize, sender: SendRequest<Body>, driver: Driver) -> Live {
        let (end, ended) = watch::channel(None);
        let answered = Arc::new(AtomicBool::new(false));
        let mut state = self.state();
        state.connections += 1;
        state.current = index;
        let live = Live { sender, index, number: state.connections, answered, ended };
        state.live = Some(live.clone());
        drop(state);
        // Weak: the connection ends with the last transport that uses it.
        let shared = Arc::downgrade(self);
        let number = live.number;
        tokio::spawn(async move {
            let result = driver.await;
            if let Some(shared) = shared.upgrade() {
                shared.leave_number(index, number);
            }
            let reason = match result {
                Ok(()) => "the coordinator closed the connection".into(),
                Err(error) => described(&error).into(),
            };
            let _ = end.send(Some(reason));
        });
        live
    }

    /// Takes no more requests over this connection, and begins with the next coordinator.
    fn leave(&self, live: &Live) {
        self.leave_number(live.index, live.number);
    }

    fn leave_number(&self, index: usize, number: u64) {
        let mut state = self.state();
        if state.live.as_ref().is_some_and(|live| live.number == number) {
            state.live = None;
            state.current = (index + 1) % self.dialers.len();
        }
    }

    /// What a request is answered whose connection broke.
    async fn lost(&self, mut live: Live, error: hyper::Error) -> Status {
        let dialer = &self.dialers[live.index];
        let reason = if live.sender.is_closed() {
            let ended = live.ended.wait_for(Option::is_some);
            let reason = tokio::time::timeout(REASON_WAIT, ended).await;
            reason.ok().and_then(Result::ok).and_then(|reason| reason.clone())
        } else {
            None
        };
        let reason = reason.unwrap_or_else(|| described(&error).into());
        let hint = match (live.answered.load(Ordering::Relaxed), dialer.url.is_tls()) {
            // Something answered that is not HTTP/2, such as TLS's alert.
            (false, false) if reason.starts_with("http2 error") => "; does it want https://?",
            (false, true) if reason.contains("CertificateRequired") => {
                "; it wants a certificate: --cert and --key"
            }
            _ => "",
        };
        let text = format!("lost the connection to the coordinator {}: {reason}{hint}", dialer.url);
        let mut status = Status::new(Code::Unavailable, text);
        status.set_source(Arc::new(error));
        status
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a plain assignment: a panic elsewhere cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn absolute(dialer: &Dialer, uri: &Uri) -> Result<Uri, Status> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(dialer.url.scheme());
    parts.authority = Some(dialer.url.authority().clone());
    Uri::from_parts(parts).map_err(|error| Status::internal(format!("no URI for a request: {error}")))
}

/// Whether a coordinator, or a proxy before it, says that it cannot serve now.
fn is_unavailable<B>(response: &Response<B>) -> bool {
    let status = response.headers().get(Status::GRPC_STATUS);
    status.is_some_and(|status| status == "14")
        || matches!(
            response.status(),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        )
}

/// An error with its causes: hyper's own text leaves them out.
fn described(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
