//! The gate in front of the services: lets a request in when its token's role may call the path.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use tonic::Status;
use tower::{Layer, Service};

use crate::Tokens;

/// Response header (gRPC metadata) with the code of a refusal, finer than gRPC's own.
pub const ERROR_CODE_HEADER: &str = "avsweep-error";

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// No token, or none of the server's.
    Unauthenticated,
    /// The token of a role that this path is not for.
    Forbidden,
}

impl RefusalCode {
    /// Its text in the header [`ERROR_CODE_HEADER`] and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request that was not let in.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Why.
    pub code: RefusalCode,
    /// The path it asked for: anything a stranger may have thought of, so not yet fit for a metric's label.
    pub path: &'a str,
}

type Hook = Arc<dyn Fn(Refusal<'_>) + Send + Sync>;

/// Layer that lets requests in by their tokens, for gRPC and for HTTP services alike. The [`crate::Role`] of who asks
/// is put into the request's extensions.
///
/// Without tokens everything is let in, without a role; see [`crate::check_exposure`] for where that is right.
#[derive(Clone)]
pub struct Authorization {
    tokens: Option<Arc<Tokens>>,
    refused: Option<Hook>,
}

impl Authorization {
    /// A gate for `tokens`; `None` is an open one.
    pub fn new(tokens: Option<Tokens>) -> Self {
        Self { tokens: tokens.map(Arc::new), refused: None }
    }

    /// Calls `hook` for every request that is not let in, for counting. It must not wait.
    #[must_use]
    pub fn on_refusal(mut self, hook: impl Fn(Refusal<'_>) + Send + Sync + 'static) -> Self {
        self.refused = Some(Arc::new(hook));
        self
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for Authorization {
    type Service = Authorized<S>;

    fn layer(&self, inner: S) -> Authorized<S> {
        Authorized { gate: self.clone(), inner }
    }
}

/// A service behind [`Authorization`].
#[derive(Clone, Debug)]
pub struct Authorized<S> {
    gate: Authorization,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Authorized<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // A role that came with the request was not put there by this gate.
        request.extensions_mut().remove::<crate::Role>();
        if let Some(tokens) = &self.gate.tokens {
            match tokens.admit(request.uri().path(), request.headers()) {
                Ok(role) => {
                    if let Some(role) = role {
                        request.extensions_mut().insert(role);
                    }
                }
                Err(code) => {
                    if let Some(hook) = &self.gate.refused {
                        hook(Refusal { code, path: request.uri().path() });
                    }
                    let answer = refusal(code, is_grpc(&request));
                    return Box::pin(std::future::ready(Ok(answer)));
                }
            }
        }
        Box::pin(self.inner.call(request))
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn refusal<R: Default>(code: RefusalCode, grpc: bool) -> Response<R> {
    let mut response = if grpc {
        let status = match code {
            RefusalCode::Unauthenticated => Status::unauthenticated(
                "this coordinator wants a token (--token-file), and there was none or not one of its own",
            ),
            RefusalCode::Forbidden => Status::permission_denied("this token is for another role"),
        };
        status.into_http()
    } else {
        let mut response = Response::new(R::default());
        match code {
            RefusalCode::Unauthenticated => {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            RefusalCode::Forbidden => *response.status_mut() = StatusCode::FORBIDDEN,
        }
        response
    };
    response.headers_mut().insert(ERROR_CODE_HEADER, HeaderValue::from_static(code.as_str()));
    response
}
