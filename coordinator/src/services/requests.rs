//! What happens to every request, whichever service it is for: it is counted, limited, and refused with a reason of
//! our own even where gRPC's library refuses it before any service sees it.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use avsweep_proto::{ErrorCode, method_paths};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, debug_span, error};

use crate::metrics::Metrics;

const GRPC_STATUS: &str = "grpc-status";
/// gRPC's own services: never limited, so that a full coordinator is not taken for a dead one.
const OPEN_PREFIX: &str = "/grpc.";
/// How all other paths are counted.
const OTHER: &str = "other";

/// The layer around all services: counts, limits, gives refusals their reason.
#[derive(Clone, Debug)]
pub struct RequestLayer {
    metrics: Arc<Metrics>,
    room: Arc<Semaphore>,
}

impl RequestLayer {
    /// At most `most` requests at once; waiting ones and streams count.
    pub(crate) fn new(metrics: Arc<Metrics>, most: usize) -> Self {
        Self { metrics, room: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))) }
    }
}

impl<S> Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, inner: S) -> RequestService<S> {
        RequestService { inner, layer: self.clone() }
    }
}

/// A service behind [`RequestLayer`].
#[derive(Clone, Debug)]
pub struct RequestService<S> {
    inner: S,
    layer: RequestLayer,
}

impl<S> Service<Request<Body>> for RequestService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let method = Method::of(path);
        let metrics = Arc::clone(&self.layer.metrics);
        let permit = if path.starts_with(OPEN_PREFIX) {
            None
        } else if let Ok(permit) = Arc::clone(&self.layer.room).try_acquire_owned() {
            Some(permit)
        } else {
            let refusal = ErrorCode::TooManyRequests
                .status("the coordinator has as many requests as it takes; ask again, less often");
            return Box::pin(async move { Ok(answered(refusal.into_http(), method, metrics, None)) });
        };
        // The service that was found ready goes with the request; its clone waits for the next.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let span = debug_span!("request", method = method.name);
        let answering = async move {
            let answer = AssertUnwindSafe(async move { inner.call(request).await }).catch_unwind().await;
            let answer = match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    // The panic's message and place are in the log already, from the panic hook.
                    error!(method = method.name, "a request made the coordinator fail");
                    let text = "the coordinator failed on this request; its log says more";
                    ErrorCode::Internal.status(text).into_http()
                }
            };
            Ok(answered(answer, method, metrics, permit))
        };
        Box::pin(answering.instrument(span))
    }
}

/// What a request is for, from a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Method {
    name: &'static str,
    kind: MethodKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MethodKind {
    /// One of our services': its refusals carry our codes.
    Ours,
    /// gRPC's own: health, reflection.
    Grpc,
    /// None that there is.
    Unknown,
}

impl Method {
    fn of(path: &str) -> Self {
        if let Some(known) = method_paths().iter().find(|known| **known == path) {
            return Self { name: method_name(known), kind: MethodKind::Ours };
        }
        if path.starts_with("/grpc.health.v1.Health/") {
            return Self { name: "Health", kind: MethodKind::Grpc };
        }
        if path.starts_with("/grpc.reflection.") {
            return Self { name: "Reflection", kind: MethodKind::Grpc };
        }
        Self { name: OTHER, kind: MethodKind::Unknown }
    }
}

/// `JobService/Lease` of `/avsweep.v1.JobService/Lease`.
fn method_name(path: &'static str) -> &'static str {
    path.strip_prefix("/avsweep.v1.").unwrap_or(OTHER)
}

/// The reason of a refusal that no service of ours has given: gRPC's library did not get as far as calling one.
fn classify(code: Code, method: Method) -> Option<ErrorCode> {
    match (method.kind, code) {
        (MethodKind::Grpc, _) => None,
        (MethodKind::Unknown, Code::Unimplemented) => Some(ErrorCode::UnknownMethod),
        (_, Code::Unauthenticated) => Some(ErrorCode::Unauthenticated),
        (_, Code::PermissionDenied) => Some(ErrorCode::Forbidden),
        (_, Code::OutOfRange | Code::ResourceExhausted) => Some(ErrorCode::MessageTooLarge),
        // Undecodable, cut short, or in a compression that is not spoken here.
        (_, Code::Internal | Code::InvalidArgument | Code::Unimplemented | Code::Unknown) => {
            Some(ErrorCode::Malformed)
        }
        _ => None,
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

fn reason_in(headers: &HeaderMap) -> Option<ErrorCode> {
    headers.get(ErrorCode::METADATA_KEY)?.to_str().ok()?.parse().ok()
}

/// Counts how a request ended, from its headers or trailers; a refusal without a reason gets one.
fn note(headers: &mut HeaderMap, method: Method, metrics: &Metrics) {
    let Some(found) = headers.get(GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes())) else {
        return;
    };
    let mut code = found;
    if code != Code::Ok {
        let refusal = reason_in(headers).or_else(|| {
            let reason = classify(code, method)?;
            code = reason.grpc_code();
            headers.insert(GRPC_STATUS, HeaderValue::from(i32::from(code)));
            headers.insert(ErrorCode::METADATA_KEY, HeaderValue::from_static(reason.as_str()));
            Some(reason)
        });
        if let Some(reason) = refusal {
            metrics.refused(method.name, reason);
        }
    }
    metrics.answered(method.name, code_name(code));
}

/// The answer, counted at its end: at once when it is all in its headers, else with its trailers.
fn answered(
    answer: Response<Body>,
    method: Method,
    metrics: Arc<Metrics>,
    permit: Option<OwnedSemaphorePermit>,
) -> Response<Body> {
    let (mut parts, inner) = answer.into_parts();
    let ended = parts.headers.contains_key(GRPC_STATUS);
    if ended {
        note(&mut parts.headers, method, &metrics);
        // A copy of the status as it was before the reason was added.
        parts.extensions.remove::<Status>();
        return Response::from_parts(parts, inner);
    }
    if let Some(code) = reason_in(&parts.headers) {
        // No gRPC at all: the gate has sent an HTTP answer back.
        metrics.refused(method.name, code);
        metrics.answered(method.name, code_name(code.grpc_code()));
        return Response::from_parts(parts, inner);
    }
    Response::from_parts(parts, Body::new(CountedBody { inner, open: Some((method, metrics)), permit }))
}

/// An answer's body that is counted when it ends, and gives its request's place free then.
struct CountedBody {
    inner: Body,
    /// Taken when it is counted.
    open: Option<(Method, Arc<Metrics>)>,
    permit: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for CountedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
            && let Some((method, metrics)) = self.open.take()
        {
            note(trailers, method, &metrics);
            self.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        // The peer went away before the end.
        if let Some((method, metrics)) = self.open.take() {
            metrics.answered(method.name, code_name(Code::Cancelled));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sends_as_a_path_never_becomes_a_name() {
        assert_eq!(Method::of("/avsweep.v1.JobService/Lease").name, "JobService/Lease");
        assert_eq!(Method::of("/grpc.health.v1.Health/Check").name, "Health");
        for path in ["/", "/avsweep.v1.JobService/Lease/", "/avsweep.v1.JobService/lease", "/x{y=\"z\"}"] {
            assert_eq!(Method::of(path), Method { name: OTHER, kind: MethodKind::Unknown }, "{path}");
        }
    }

    #[test]
    fn a_refusal_of_the_library_gets_our_reason_and_the_code_that_goes_with_it() {
        let metrics = Metrics::new();
        let lease = Method::of("/avsweep.v1.JobService/Lease");
        for (found, wanted, reason) in [
            (Code::Internal, Code::InvalidArgument, ErrorCode::Malformed),
            (Code::OutOfRange, Code::ResourceExhausted, ErrorCode::MessageTooLarge),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_STATUS, HeaderValue::from(i32::from(found)));
            note(&mut headers, lease, &metrics);
            let status = Status::from_header_map(&headers).expect("a status");
            assert_eq!((status.code(), ErrorCode::of(&status)), (wanted, Some(reason)));
            assert_eq!(metrics.refusals(lease.name, reason), 1);
        }
    }

    #[test]
    fn a_refusal_with_a_reason_stays_as_it_is() {
        let metrics = Metrics::new();
        let report = Method::of("/avsweep.v1.JobService/Report");
        let mut headers = HeaderMap::new();
        let status = ErrorCode::UnknownJob.status("job 7");
        status.add_header(&mut headers).expect("valid headers");
        note(&mut headers, report, &metrics);
        let status = Status::from_header_map(&headers).expect("a status");
        assert_eq!((status.code(), ErrorCode::of(&status)), (Code::NotFound, Some(ErrorCode::UnknownJob)));
        assert_eq!(metrics.refusals(report.name, ErrorCode::UnknownJob), 1);
    }
}
