//! Makes one connection to one coordinator: name, TCP, TLS, HTTP/2.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::ConnectOptions;
use crate::pem::{Identity, authorities, identity_error, provider, system_authorities};
use crate::{CoordinatorUrl, TransportError};

/// Connects to one coordinator.
pub(crate) struct Dialer {
    pub(crate) url: CoordinatorUrl,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connect_timeout: Duration,
    keepalive: Duration,
}

/// What drives a connection until it ends, and says why it ended.
pub(crate) type Driver = std::pin::Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Why a coordinator was not reached.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("{0}")]
    Tcp(io::Error),
    #[error("TLS: {}", tls_problem(.0))]
    Tls(io::Error),
    #[error("the server does not speak HTTP/2: {0}")]
    Http(hyper::Error),
}

impl Dialer {
    /// A dialer for every URL. The files are read here, once.
    pub(crate) fn for_each(
        urls: &[CoordinatorUrl],
        options: &ConnectOptions,
    ) -> Result<Vec<Self>, TransportError> {
        // Also when no URL wants it: a wrong file is better heard of now than when the first https:// comes.
        let wanted = urls.iter().any(CoordinatorUrl::is_tls);
        let config = if wanted || options.ca.is_some() || options.identity.is_some() {
            Some(Arc::new(client_config(options)?))
        } else {
            None
        };
        let dialer = |url: &CoordinatorUrl| {
            let tls = match &config {
                Some(config) if url.is_tls() => {
                    let name = options.server_name.as_deref().unwrap_or(url.host());
                    let server_name = ServerName::try_from(name.to_owned())
                        .map_err(|_| TransportError::ServerName { name: name.to_owned() })?;
                    Some((TlsConnector::from(Arc::clone(config)), server_name))
                }
                _ => None,
            };
            Ok(Self {
                url: url.clone(),
                tls,
                connect_timeout: options.connect_timeout,
                keepalive: options.keepalive,
            })
        };
        urls.iter().map(dialer).collect()
    }

    /// A new connection, with the future that drives it.
    pub(crate) async fn dial(&self) -> Result<(SendRequest<Body>, Driver), DialError> {
        let connecting = timeout(self.connect_timeout, self.connect());
        connecting.await.map_err(|_| DialError::Timeout(self.connect_timeout))?
    }

    async fn connect(&self) -> Result<(SendRequest<Body>, Driver), DialError> {
        let address = (self.url.host(), self.url.port());
        let stream = TcpStream::connect(address).await.map_err(DialError::Tcp)?;
        stream.set_nodelay(true).map_err(DialError::Tcp)?;
        match &self.tls {
            None => self.handshake(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(DialError::Tls)?;
                self.handshake(stream).await
            }
        }
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(SendRequest<Body>, Driver), DialError> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.keepalive)
            .keep_alive_timeout(self.keepalive)
            // An idle connection that died unnoticed would cost the next request the whole time.
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(DialError::Http)?;
        Ok((sender, Box::pin(connection)))
    }
}

fn client_config(options: &ConnectOptions) -> Result<ClientConfig, TransportError> {
    let roots = match &options.ca {
        Some(path) => authorities(path)?,
        None => system_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TransportError::TlsLibrary)?
        .with_root_certificates(roots);
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let identity = Identity::read(cert, key)?;
            builder
                .with_client_auth_cert(identity.chain, identity.key)
                .map_err(|error| identity_error(error, cert, key))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A failed handshake in words that say what to do.
fn tls_problem(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                format!("the server ended the handshake ({error})")
            }
            _ => error.to_string(),
        };
    };
    let hint = match tls {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate comes from an authority that is not known here; give that authority with --ca"
        }
        // An authority made anew under the name of the one that is known.
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
            "its certificate is not signed by the authority of that name that is known here; see --ca"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired",
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name",
        rustls::Error::InvalidMessage(_) => "what answers does not speak TLS; is it an http:// port?",
        _ => return tls.to_string(),
    };
    format!("{hint} ({tls})")
}
