//! What can be wrong with an address, a certificate, a key or a token.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::Role;

/// Why a connection cannot be set up as asked. Errors of single calls are [`crate::CallError`]s.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No coordinator was named.
    #[error("no coordinator is named: give its URL, such as https://coordinator:7700")]
    NoCoordinator,

    /// Not the URL of a coordinator. The text never holds a password of the URL.
    #[error("{url}: {problem}; wanted a coordinator's URL such as https://coordinator:7700")]
    Url {
        /// The text given, without user name and password.
        url: String,
        /// What is wrong with it.
        problem: String,
    },

    /// Plain text to another machine.
    #[error(
        "{url}: would send everything, the token included, in plain text to another machine; \
         use https://, or allow it with --insecure"
    )]
    PlainText {
        /// The URL.
        url: String,
    },

    /// A file cannot be read.
    #[error("cannot read the {what} {}", path.display())]
    Read {
        /// What the file should hold: "certificate", "private key", "token file" and so on.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// A PEM file that does not hold what it should.
    #[error("{}: holds no {wanted} that can be used: {problem}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for: "certificate" or "private key".
        wanted: &'static str,
        /// What was found instead.
        problem: String,
    },

    /// A certificate and a key that do not belong together.
    #[error("the private key {} does not belong to the certificate {}", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },

    /// A certificate or key that TLS does not take.
    #[error("{}: cannot be used for TLS", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },

    /// A certificate authority that TLS does not take.
    #[error("{}: cannot be used to check certificates: {problem}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },

    /// The TLS library does not offer what is needed.
    #[error("TLS cannot be set up")]
    TlsLibrary(#[source] rustls::Error),

    /// The system has no list of certificate authorities.
    #[error(
        "this system has no certificate authorities to check https:// with; install them (package ca-certificates) or \
         give the coordinator's authority with --ca"
    )]
    NoSystemRoots,

    /// Not a name that a certificate can be for.
    #[error("server name {name:?}: neither a host name nor an IP address")]
    ServerName {
        /// The text given.
        name: String,
    },

    /// A token that cannot be used. The text never holds the token.
    #[error("the token from {origin}: {problem}")]
    Secret {
        /// The file or environment variable it came from.
        origin: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// One token for two roles.
    #[error("the {first} token and the {second} token are the same; every role wants a token of its own")]
    SharedToken {
        /// One of the roles.
        first: Role,
        /// The other.
        second: Role,
    },

    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// A port that other machines reach, without protection.
    #[error(
        "{address} can be reached from other machines, but has no {missing}; {remedy}, listen on 127.0.0.1, or allow it \
         with --insecure"
    )]
    Exposed {
        /// The address asked for.
        address: SocketAddr,
        /// What is missing: "TLS", "tokens" or both.
        missing: &'static str,
        /// What to give.
        remedy: &'static str,
    },
}
