//! Certificates and keys from PEM files, with errors that name the file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::TransportError;
use crate::secret::warn_when_world_readable;

/// A certificate with its chain, and its private key.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both files. That they belong together is for TLS to check; see [`identity_error`].
    pub(crate) fn read(cert: &Path, key: &Path) -> Result<Self, TransportError> {
        Ok(Self { chain: certificates(cert, "certificate")?, key: private_key(key)? })
    }
}

/// The cryptography of every connection.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities in a file, and no others.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, TransportError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "certificate authority")? {
        roots.add(certificate).map_err(|error| TransportError::Authority {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// The authorities that this system trusts.
pub(crate) fn system_authorities() -> Result<RootCertStore, TransportError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "some of the system's certificate authorities cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 { Err(TransportError::NoSystemRoots) } else { Ok(roots) }
}

/// What TLS says about a certificate with its key, as an error that names the file at fault.
pub(crate) fn identity_error(error: rustls::Error, cert: &Path, key: &Path) -> TransportError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            TransportError::KeyMismatch { cert: cert.to_owned(), key: key.to_owned() }
        }
        rustls::Error::InvalidCertificate(_) => TransportError::Tls { path: cert.to_owned(), source: error },
        source => TransportError::Tls { path: key.to_owned(), source },
    }
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let bytes = read(path, what)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong(path, what, contents(&bytes))),
        Err(error) => Err(wrong(path, what, error.to_string())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TransportError> {
    const WHAT: &str = "private key";
    let bytes = read(path, WHAT)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => wrong(path, WHAT, contents(&bytes)),
        error => wrong(path, WHAT, error.to_string()),
    })?;
    warn_when_world_readable(path, WHAT);
    Ok(key)
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, TransportError> {
    fs::read(path).map_err(|source| TransportError::Read { what, path: path.to_owned(), source })
}

fn wrong(path: &Path, wanted: &'static str, problem: String) -> TransportError {
    TransportError::Pem { path: PathBuf::from(path), wanted, problem }
}

/// Which PEM sections a file has; never what is in them.
fn contents(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let labels: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    if bytes.is_empty() {
        "the file is empty".to_owned()
    } else if labels.is_empty() {
        "the file is not PEM (it has no -----BEGIN line)".to_owned()
    } else if labels.iter().any(|label| label.starts_with("ENCRYPTED")) {
        "its key is encrypted; decrypt it (openssl pkey -in FILE -out FILE)".to_owned()
    } else {
        format!("found only {}", labels.join(", "))
    }
}
