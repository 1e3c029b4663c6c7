//! Servers, certificates and calls.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use avsweep_transport::{
    Authorization, ConnectOptions, CoordinatorUrl, Counter, ListenOptions, Listener, Protocol, Role,
    ServerTls, Tokens, Transport,
};
use axum::extract::Extension;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt as _;

/// Longest wait for something that must come.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// Paths of the three services, and what the test's services answer with.
pub(crate) const SWEEPS: &str = "/avsweep.v1.SweepService/Who";
pub(crate) const JOBS: &str = "/avsweep.v1.JobService/Who";
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A gRPC server with a runtime of its own, so that it can be killed with all its connections.
pub(crate) struct Server {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) failed: Counter,
    pub(crate) refused: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
}

/// What a server is to do.
pub(crate) struct Plan {
    pub(crate) listen: ListenOptions,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) name: &'static str,
    /// Status that the test's services answer with.
    pub(crate) status: Code,
}

impl Plan {
    pub(crate) fn new(name: &'static str) -> Self {
        let listen = ListenOptions::new(([127, 0, 0, 1], 0).into(), Protocol::Grpc);
        Self { listen, tokens: None, name, status: Code::Ok }
    }

    pub(crate) fn tls(mut self, tls: ServerTls) -> Self {
        self.listen.tls = Some(tls);
        self
    }

    pub(crate) async fn start(self) -> Result<Server> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let refused: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&refused);
        let gate = Authorization::new(self.tokens).on_refusal(move |refusal| {
            noted.lock().expect("no panic before").push(format!("{} {}", refusal.code, refusal.path));
        });
        let (name, status) = (self.name, self.status);
        let who = any(move |role: Option<Extension<Role>>| async move { answer(name, status, role) });
        let started = runtime.spawn(async move {
            let listener = Listener::bind(&self.listen).await?;
            let (address, failed) = (listener.local_addr(), listener.failed_handshakes());
            let (reporter, health) = tonic_health::server::health_reporter();
            reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
            let router = Routes::new(health).into_axum_router().route(SWEEPS, who.clone()).route(JOBS, who);
            let incoming = listener.incoming();
            tokio::spawn(
                tonic::transport::Server::builder()
                    .layer(gate)
                    .add_routes(Routes::from(router))
                    .serve_with_incoming(incoming),
            );
            anyhow::Ok((address, failed))
        });
        match started.await? {
            Ok((address, failed)) => Ok(Server { address, failed, refused, runtime: Some(runtime) }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }
}

fn answer(name: &'static str, code: Code, role: Option<Extension<Role>>) -> Response {
    let mut response = Status::new(code, "as planned").into_http::<axum::body::Body>().into_response();
    let role = role.map_or("none", |role| role.0.name());
    response.headers_mut().insert("server-name", http::HeaderValue::from_static(name));
    response.headers_mut().insert("role", http::HeaderValue::from_static(role));
    response
}

impl Server {
    pub(crate) fn http(&self) -> CoordinatorUrl {
        self.url("http", "127.0.0.1")
    }

    pub(crate) fn https(&self) -> CoordinatorUrl {
        self.url("https", "localhost")
    }

    fn url(&self, scheme: &str, host: &str) -> CoordinatorUrl {
        format!("{scheme}://{host}:{}", self.address.port()).parse().expect("a URL")
    }

    /// Ends it, and every connection with it. When this returns, the port is closed.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.end();
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(self.address).await.is_ok() {
            anyhow::ensure!(begun.elapsed() < BOUND, "the server does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answer of one call: the gRPC code, message and headers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    pub(crate) message: String,
    headers: http::HeaderMap,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// One unary call without a message.
pub(crate) async fn call(transport: &Transport, path: &str) -> Result<Answer> {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::empty())?;
    let sent = tokio::time::timeout(BOUND, transport.clone().oneshot(request));
    match sent.await.context("no answer")? {
        Ok(response) => {
            let status = Status::from_header_map(response.headers());
            let code = status.as_ref().map_or(Code::Unknown, Status::code);
            let message = status.map(|status| status.message().to_owned()).unwrap_or_default();
            Ok(Answer { code, message, headers: response.into_parts().0.headers })
        }
        Err(error) => {
            let status = Status::from_error(Box::new(error));
            Ok(Answer {
                code: status.code(),
                message: status.message().to_owned(),
                headers: http::HeaderMap::new(),
            })
        }
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !condition() {
        anyhow::ensure!(begun.elapsed() < BOUND, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Options with short waits.
pub(crate) fn options(coordinators: Vec<CoordinatorUrl>) -> ConnectOptions {
    ConnectOptions { connect_timeout: Duration::from_secs(5), ..ConnectOptions::new(coordinators) }
}

/// A certificate authority with a folder for what it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// What a certificate is for.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    Server,
    Client,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        Self::named(&format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { issuer, folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key files for `name`, valid now or no longer.
    pub(crate) fn sign(&self, name: &str, usage: Use, expired: bool) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![match usage {
            Use::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Use::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(if expired { 2021 } else { 2999 }, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |kind| self.folder.path().join(format!("{name}-{expired}-{kind}.pem"));
        std::fs::write(file("cert"), certificate.pem())?;
        std::fs::write(file("key"), key.serialize_pem())?;
        Ok((file("cert"), file("key")))
    }

    /// TLS for a server named localhost.
    pub(crate) fn server(&self, client_ca: Option<PathBuf>) -> Result<ServerTls> {
        let (cert, key) = self.sign("localhost", Use::Server, false)?;
        Ok(ServerTls { cert, key, client_ca })
    }
}
