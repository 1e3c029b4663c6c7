//! The one form in which clients hold their way to a coordinator.

use std::error::Error;
use std::fmt;

use http::{Request, Response};
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

/// A way to a coordinator: whatever answers gRPC requests, be it a network connection, a pipe in memory or a test's
/// own network. Clones share it.
pub type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, CallError>;

/// Why a request got no answer at all.
#[derive(Debug)]
pub struct CallError(Box<dyn Error + Send + Sync>);

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for CallError {
    /// The error itself, not its source: gRPC looks for kinds of errors along this chain.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.as_ref())
    }
}

/// A service of this process, or a connection made by tonic, as a [`Transport`].
pub fn boxed<S>(service: S) -> Transport
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    Transport::new(service.map_err(|error| CallError(error.into())))
}
