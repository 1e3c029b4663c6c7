//! Where a coordinator is, and who may reach a port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::uri::{Authority, Scheme};
use url::{Host, Url};

use crate::TransportError;

/// URL of a coordinator: `https://host[:port]` or `http://host[:port]`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CoordinatorUrl {
    tls: bool,
    /// As a certificate would name it: an IPv6 address has no brackets.
    host: String,
    port: u16,
    loopback: bool,
    authority: Authority,
}

impl CoordinatorUrl {
    /// Whether it wants TLS (`https://`).
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether it can only be this machine: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Host name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port; 443 or 80 when the URL names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn scheme(&self) -> Scheme {
        if self.tls { Scheme::HTTPS } else { Scheme::HTTP }
    }
}

impl FromStr for CoordinatorUrl {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        let text = text.trim();
        let wrong = |problem: &str| TransportError::Url { url: text.to_owned(), problem: problem.to_owned() };
        // Checked before anything could print the text: what stands before an @ may be a password.
        if text.contains('@') {
            return Err(TransportError::Url {
                url: "the coordinator's URL".to_owned(),
                problem:
                    "names a user or password, which has no meaning here (a token comes by --token-file)"
                        .to_owned(),
            });
        }
        if !text.contains("://") {
            return Err(wrong("has no https:// or http:// in front"));
        }
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return Err(wrong(&format!("{other}:// is not https:// or http://"))),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has more than host and port"));
        }
        let (host, loopback) = match url.host() {
            None => return Err(wrong("has no host")),
            Some(Host::Domain(name)) => (name.to_owned(), name == "localhost"),
            Some(Host::Ipv4(address)) => (address.to_string(), is_loopback(address.into())),
            Some(Host::Ipv6(address)) => (address.to_string(), is_loopback(address.into())),
        };
        let port = url.port_or_known_default().ok_or_else(|| wrong("has no port"))?;
        if port == 0 {
            return Err(wrong("port 0 cannot be connected to"));
        }
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let authority = authority.parse().map_err(|_| wrong("has a host that HTTP cannot name"))?;
        Ok(Self { tls, host, port, loopback, authority })
    }
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority)
    }
}

impl fmt::Debug for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv4 address written as IPv6 counts as what it is.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Refuses to open a port to other machines without TLS or without tokens, unless `insecure`.
///
/// # Errors
/// What is missing, and what to give.
pub fn check_exposure(
    address: SocketAddr,
    tls: bool,
    tokens: bool,
    insecure: bool,
) -> Result<(), TransportError> {
    if is_loopback(address.ip()) || insecure || (tls && tokens) {
        return Ok(());
    }
    let (missing, remedy) = match (tls, tokens) {
        (false, true) => ("TLS", "give --tls-cert and --tls-key"),
        (true, false) => ("tokens", "give token files"),
        _ => ("TLS and no tokens", "give --tls-cert, --tls-key and token files"),
    };
    Err(TransportError::Exposed { address, missing, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_host_and_port_and_nothing_else() -> anyhow::Result<()> {
        for (text, shown, loopback) in [
            ("https://coordinator:7700", "https://coordinator:7700", false),
            (" http://127.0.0.1:7700/ ", "http://127.0.0.1:7700", true),
            ("http://[::1]:7700", "http://[::1]:7700", true),
            ("http://[::ffff:127.0.0.1]:7700", "http://[::ffff:127.0.0.1]:7700", true),
            ("http://localhost:1", "http://localhost:1", true),
            ("https://localhost.example.org", "https://localhost.example.org:443", false),
            ("http://10.0.0.1", "http://10.0.0.1:80", false),
        ] {
            let url: CoordinatorUrl = text.parse()?;
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.is_loopback(), loopback, "{text}");
        }
        Ok(())
    }

    #[test]
    fn bad_url_is_refused_with_its_text_but_without_its_password() {
        for text in [
            "",
            "coordinator:7700",
            "ftp://coordinator",
            "https://",
            "http://host/path",
            "http://host?x=1",
            "http://host:99999",
            "http://host:0",
            "postgres://host",
            "http://ho st",
        ] {
            let error = text.parse::<CoordinatorUrl>().map_err(|error| error.to_string());
            let error = error.expect_err(text);
            assert!(error.contains(text.trim()), "{error}");
            assert!(error.contains("https://coordinator:7700"), "{error}");
        }
        for text in ["https://me:hunter2@host:1", "me:hunter2@host", "postgres://me:hunter2@host/db"] {
            let error = text.parse::<CoordinatorUrl>().expect_err("a password").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn open_port_wants_tls_and_tokens_unless_insecure() -> anyhow::Result<()> {
        let local: SocketAddr = "127.0.0.1:7700".parse()?;
        let all: SocketAddr = "0.0.0.0:7700".parse()?;
        assert!(check_exposure(local, false, false, false).is_ok());
        assert!(check_exposure("[::1]:1".parse()?, false, false, false).is_ok());
        assert!(check_exposure(all, true, true, false).is_ok());
        assert!(check_exposure(all, false, false, true).is_ok());
        for (tls, tokens, missing) in
            [(false, true, "no TLS;"), (true, false, "no tokens;"), (false, false, "no TLS and no tokens;")]
        {
            for address in [all, "[::]:7700".parse()?, "192.168.1.4:7700".parse()?] {
                let error = check_exposure(address, tls, tokens, false).expect_err("exposed").to_string();
                assert!(error.contains(missing), "{error}");
                assert!(error.contains(&address.to_string()), "{error}");
            }
        }
        Ok(())
    }
}
