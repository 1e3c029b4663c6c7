//! The client's side: from URLs, a token and certificates to a [`Transport`].

mod dial;
mod failover;

use std::path::PathBuf;
use std::time::Duration;

use crate::{CoordinatorUrl, Secret, Transport, TransportError, boxed};
use dial::Dialer;
use failover::Failover;

/// How coordinators are reached.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The coordinators. One is used at a time; another takes its place when it is away.
    pub coordinators: Vec<CoordinatorUrl>,
    /// Presented with every request.
    pub token: Option<Secret>,
    /// PEM file with the authorities that may vouch for a coordinator, instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM files with this side's certificate and private key, for coordinators that want one (mutual TLS).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name that the coordinators' certificates must be for, instead of the URL's host.
    pub server_name: Option<String>,
    /// Whether `http://` to another machine is let through.
    pub allow_insecure: bool,
    /// Longest time to reach one coordinator: name, connection and TLS together.
    pub connect_timeout: Duration,
    /// A connection that has been silent for this long is asked for a sign of life, and given up after as long again.
    pub keepalive: Duration,
}

impl ConnectOptions {
    /// Options for these coordinators: no token, the system's authorities, 5 s to connect, 10 s of silence.
    pub fn new(coordinators: Vec<CoordinatorUrl>) -> Self {
        Self {
            coordinators,
            token: None,
            ca: None,
            identity: None,
            server_name: None,
            allow_insecure: false,
            connect_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(10),
        }
    }
}

/// The way to the coordinators. Nothing is connected before the first request; calls while no coordinator can be
/// reached answer `UNAVAILABLE` with what was wrong at each, and each call tries again.
///
/// Begins with a random coordinator, so that many clients spread over them, and stays with it while it answers.
/// Must be called, and used, within a tokio runtime.
///
/// # Errors
/// When an option cannot be right: no URL, plain text to another machine, a file that is missing or does not hold
/// what it should.
pub fn connect(options: &ConnectOptions) -> Result<Transport, TransportError> {
    if options.coordinators.is_empty() {
        return Err(TransportError::NoCoordinator);
    }
    for url in &options.coordinators {
        if !url.is_tls() && !url.is_loopback() && !options.allow_insecure {
            return Err(TransportError::PlainText { url: url.to_string() });
        }
    }
    let mut urls = options.coordinators.clone();
    let mut seen = std::collections::HashSet::new();
    urls.retain(|url| seen.insert(url.clone()));
    let dialers = Dialer::for_each(&urls, options)?;
    let first = rand::random_range(0..dialers.len());
    let authorization = options.token.as_ref().map(Secret::bearer);
    Ok(boxed(Failover::new(dialers, first, authorization)))
}
