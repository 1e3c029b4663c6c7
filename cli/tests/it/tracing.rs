//! Traces leave for a collector, and nobody minds when there is none.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::routing::post;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::processes::{Cluster, until};
use crate::support::{avsweep, misuse, stderr, succeed};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// A gRPC message of no bytes.
const EMPTY: [u8; 5] = [0; 5];

fn over(flags: &[&str]) -> Cluster {
    let folder = TempDir::new().expect("a temporary folder");
    let store = folder.path().join("cluster.db").display().to_string();
    Cluster::over(folder, &store, flags)
}

/// A collector on a port of its own, and what it has been sent.
struct Collector {
    runtime: Runtime,
    port: u16,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    /// With TLS, if there is a certificate with its key.
    fn start(identity: Option<Identity>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let taken = Arc::new(Mutex::new(Vec::<u8>::new()));
        let keep = Arc::clone(&taken);
        let export = post(move |body: bytes::Bytes| async move {
            keep.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&body);
            ([("content-type", "application/grpc"), ("grpc-status", "0")], EMPTY.to_vec())
        });
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let routes = Routes::from(Router::new().route(EXPORT, export));
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server =
                server.tls_config(ServerTlsConfig::new().identity(identity)).expect("a good certificate");
        }
        let server = server.add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(server);
        Self { runtime, port, taken }
    }

    fn holds(&self, text: &str) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.windows(text.len()).any(|window| window == text.as_bytes())
    }

    fn end(self) {
        self.runtime.shutdown_background();
    }
}

/// A certificate for `localhost`, and the path of the authority that made it.
fn certificate(folder: &Path) -> (Identity, String) {
    let key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::<String>::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, issuer.pem()).expect("the folder is writable");
    (Identity::from_pem(certificate.pem(), key.serialize_pem()), ca.display().to_string())
}

#[test]
fn requests_are_traced_to_the_collector_up_to_the_last() {
    let collector = Collector::start(None);
    let endpoint = format!("http://127.0.0.1:{}", collector.port);

    let mut cluster = over(&["--otlp-endpoint", &endpoint]);
    succeed(&mut cluster.user(&["sweep", "ls"]));
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
    until("the spans of the request have arrived", || {
        (collector.holds("avsweep-coordinator") && collector.holds("ListSweeps")).then_some(())
    });
    collector.end();
}

#[test]
fn traces_leave_over_tls_for_a_collector_whose_authority_is_trusted() {
    let folder = TempDir::new().expect("a temporary folder");
    let (identity, ca) = certificate(folder.path());
    let collector = Collector::start(Some(identity));
    let endpoint = format!("https://localhost:{}", collector.port);

    // The system does not know the authority: nothing is sent, and that is said.
    let mut cluster = over(&["--otlp-endpoint", &endpoint]);
    succeed(&mut cluster.user(&["sweep", "ls"]));
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
    assert!(!collector.holds("ListSweeps"), "{}", cluster.coordinator.said());
    let said = cluster.coordinator.said();
    assert!(said.contains("UnknownIssuer"), "{said}");

    let mut cluster = over(&["--otlp-endpoint", &endpoint, "--otlp-ca", &ca]);
    succeed(&mut cluster.user(&["sweep", "ls"]));
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
    until("the spans of the request have arrived", || collector.holds("ListSweeps").then_some(()));
    collector.end();
}

#[test]
fn an_authority_that_cannot_be_read_is_named() {
    let mut cluster = over(&["--otlp-endpoint", "https://localhost:9", "--otlp-ca", "nowhere.pem"]);
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
    let said = cluster.coordinator.said();
    assert!(said.contains("--otlp-ca nowhere.pem cannot be read"), "{said}");
}

#[test]
fn an_authority_for_an_endpoint_without_tls_is_refused_or_from_the_environment_warned_of() {
    let folder = TempDir::new().expect("a temporary folder");
    let plain = ["--otlp-endpoint", "http://127.0.0.1:9"];
    for before in [true, false] {
        let mut command = avsweep(folder.path());
        let flags = plain.into_iter().chain(["--otlp-ca", "ca.pem"]);
        let said = if before {
            misuse(command.args(flags).arg("schema"))
        } else {
            misuse(command.arg("schema").args(flags))
        };
        assert!(said.contains("--otlp-ca is for an https:// OTLP endpoint"), "{said}");
    }
    let mut command = avsweep(folder.path());
    command.env("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem").arg("schema");
    let warned = |command: &mut Command| {
        let output = command.output().expect("the binary starts");
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output).contains("OTEL_EXPORTER_OTLP_CERTIFICATE is not used")
    };
    assert!(!warned(&mut command), "nothing is sent anywhere");
    assert!(warned(command.args(plain)));
}

#[test]
fn a_collector_that_is_away_is_not_missed() {
    let mut cluster = over(&["--otlp-endpoint", "http://127.0.0.1:9"]);
    succeed(&mut cluster.user(&["sweep", "ls"]));
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
}
