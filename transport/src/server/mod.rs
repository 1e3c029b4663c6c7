//! The server's side: a port, with TLS or without, whose connections are ready for tonic, axum or hyper.

mod accept;
mod connection;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

use crate::TransportError;
use crate::pem::{Identity, authorities, identity_error, provider};
pub use connection::Connection;

/// Connections that are ready but not yet taken by the server.
const READY: usize = 64;

/// PEM files for a port with TLS.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The server's certificate, followed by those between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of the clients' certificates. When given, no client gets in without one (mutual TLS).
    pub client_ca: Option<PathBuf>,
}

/// What is spoken on a port: TLS says so beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC: HTTP/2.
    Grpc,
    /// HTTP/1.1, for metrics and health.
    Http,
}

/// How a port is served.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Where; port 0 lets the system choose one.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// TLS, or plain text.
    pub tls: Option<ServerTls>,
    /// Connections at once. More wait in the system's queue.
    pub max_connections: usize,
    /// Longest time for a TLS handshake, and after it for the peer's first byte.
    pub handshake_timeout: Duration,
}

impl ListenOptions {
    /// Options for `address`: plain text, 4096 connections, 10 s.
    pub fn new(address: SocketAddr, protocol: Protocol) -> Self {
        Self {
            address,
            protocol,
            tls: None,
            max_connections: 4096,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// A count that goes on while others read it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A port that is held, but not yet answered on.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    accept: accept::Accept,
}

impl Listener {
    /// Reads the certificates and takes the port.
    ///
    /// # Errors
    /// When a file does not hold what it should, or the port cannot be had.
    pub async fn bind(options: &ListenOptions) -> Result<Self, TransportError> {
        let acceptor = match &options.tls {
            Some(tls) => Some(TlsAcceptor::from(Arc::new(server_config(tls, options.protocol)?))),
            None => None,
        };
        let failed = |source| TransportError::Listen { address: options.address, source };
        let socket = TcpListener::bind(options.address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let accept = accept::Accept::new(acceptor, options, address);
        Ok(Self { socket, address, accept })
    }

    /// The address, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections that ended before they could carry a request: TLS that failed or was not TLS, clients with a wrong
    /// certificate or none where one is wanted, TLS to a plain port. Goes on counting.
    pub fn failed_handshakes(&self) -> Counter {
        self.accept.failed()
    }

    /// Begins to answer. Must be called within a tokio runtime; accepting ends when the result is dropped, and the
    /// port is free then.
    pub fn incoming(self) -> Incoming {
        let (ready, connections) = mpsc::channel(READY);
        tokio::spawn(self.accept.run(self.socket, ready));
        Incoming { connections, address: self.address }
    }
}

/// The connections of a port: a stream for tonic's `serve_with_incoming`, and a listener for `axum::serve`. It never
/// fails and never ends by itself.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    address: SocketAddr,
}

impl Incoming {
    /// The address that is answered on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => {
                let peer = connection.peer();
                (connection, peer)
            }
            // The accepting task ends only with this, or with the runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

fn server_config(tls: &ServerTls, protocol: Protocol) -> Result<ServerConfig, TransportError> {
    let identity = Identity::read(&tls.cert, &tls.key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TransportError::TlsLibrary)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(|error| {
                    TransportError::Authority { path: path.clone(), problem: error.to_string() }
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(identity.chain, identity.key)
        .map_err(|error| identity_error(error, &tls.cert, &tls.key))?;
    config.alpn_protocols = match protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}
