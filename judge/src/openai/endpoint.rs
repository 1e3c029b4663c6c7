//! Where a model judge is reached: address, key and HTTP client.

use std::env::VarError;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::Secret;
use crate::error::JudgeError;

/// Longest time to connect; a request's own limit holds besides.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A chat-completions endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    /// `Bearer <key>`, marked sensitive: its `Debug` hides it.
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) key: Option<Secret>,
    pub(crate) client: reqwest::Client,
}

impl Endpoint {
    /// Checks address and key and sets the client up; nothing is sent.
    ///
    /// # Errors
    /// When `base_url` is no plain http(s) address, or the key's variable is absent, empty or unfit for a header.
    pub(crate) fn new(
        base_url: &str,
        api_key_env: Option<&str>,
        environment: impl Fn(&str) -> Result<String, VarError>,
    ) -> Result<Self, JudgeError> {
        let url = completions_url(base_url)?;
        let key = api_key_env.map(|variable| read_key(variable, environment)).transpose()?;
        let authorization = match (&key, api_key_env) {
            (Some(key), Some(variable)) => Some(bearer(key, variable)?),
            _ => None,
        };
        let local = is_local(&url);
        if url.scheme() == "http" && key.is_some() && !local {
            tracing::warn!(endpoint = %url, "the judge's key travels unencrypted: the endpoint is no https one");
        }
        let client = build_client(&url, local).map_err(|error| JudgeError::Client(Arc::new(error)))?;
        Ok(Self { url, authorization, key, client })
    }

    /// `text` without the key.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.redact(text))
    }
}

fn completions_url(base_url: &str) -> Result<Url, JudgeError> {
    let mut url = match Url::parse(base_url) {
        Ok(url) => url,
        // What cannot be parsed cannot be searched for a password either.
        Err(error) => {
            return Err(JudgeError::BaseUrl {
                found: if base_url.contains('@') { "…".to_owned() } else { base_url.to_owned() },
                problem: format!("is no address ({error})"),
            });
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(JudgeError::BaseUrlSecret("a user name or password"));
    }
    if url.query().is_some() {
        return Err(JudgeError::BaseUrlSecret("a query string"));
    }
    let wrong =
        |problem: &str| Err(JudgeError::BaseUrl { found: base_url.to_owned(), problem: problem.to_owned() });
    if !matches!(url.scheme(), "http" | "https") {
        return wrong("is neither http nor https");
    }
    if url.fragment().is_some() {
        return wrong("has a fragment (#…)");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if path.ends_with("/chat/completions") {
        return wrong("already ends with /chat/completions, which is appended to it");
    }
    url.set_path(&format!("{path}/chat/completions"));
    Ok(url)
}

fn read_key(
    variable: &str,
    environment: impl Fn(&str) -> Result<String, VarError>,
) -> Result<Secret, JudgeError> {
    let wrong = |problem| Err(JudgeError::Key { variable: variable.to_owned(), problem });
    match environment(variable) {
        // A line end at the end is what reading the key from a file leaves behind.
        Ok(value) if value.trim().is_empty() => wrong("empty"),
        Ok(value) => Ok(Secret::new(value.trim())),
        Err(VarError::NotPresent) => wrong("not set"),
        Err(VarError::NotUnicode(_)) => wrong("not valid UTF-8"),
    }
}

fn bearer(key: &Secret, variable: &str) -> Result<HeaderValue, JudgeError> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", key.reveal())).map_err(|_| JudgeError::Key {
            variable: variable.to_owned(),
            problem: "no key: it holds characters that cannot stand in an HTTP header",
        })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether the address is on this machine.
fn is_local(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn build_client(url: &Url, local: bool) -> reqwest::Result<reqwest::Client> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Lost only to another thread that installs one at the same moment, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("avsweep-judge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        // A redirected POST would lose its body, and the key has no business elsewhere.
        .redirect(reqwest::redirect::Policy::none());
    if url.scheme() == "http" {
        // Without this a machine that has no root certificates could not use a plain endpoint either.
        builder = builder.tls_certs_only([]);
    }
    if local {
        builder = builder.no_proxy();
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(base_url: &str) -> Result<String, String> {
        completions_url(base_url).map(|url| url.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_path_is_appended_once() {
        for base_url in ["https://api.example.com/v1", "https://api.example.com/v1/"] {
            assert_eq!(url(base_url).as_deref(), Ok("https://api.example.com/v1/chat/completions"));
        }
        assert_eq!(url("http://localhost:8000").as_deref(), Ok("http://localhost:8000/chat/completions"));
    }

    #[test]
    fn bad_addresses_are_refused_with_what_is_wanted() {
        for (base_url, problem) in [
            ("api.example.com/v1", "is no address"),
            ("ftp://example.com", "is neither http nor https"),
            ("https://example.com/#v1", "has a fragment"),
            ("https://example.com/v1/chat/completions", "already ends with /chat/completions"),
        ] {
            let error = url(base_url).expect_err(base_url);
            assert!(error.contains(base_url) && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn an_address_that_may_hold_a_secret_is_not_repeated() {
        for base_url in
            ["https://user:hunter2@example.com/v1", "https://example.com/v1?key=hunter2", "//u:hunter2@x"]
        {
            let error = completions_url(base_url).expect_err(base_url);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_absent_empty_or_unfit_key_is_named_by_its_variable_only() {
        let key = |value: Result<&str, VarError>| {
            let value = value.map(str::to_owned);
            Endpoint::new("http://127.0.0.1:1", Some("JUDGE_KEY"), |name| {
                assert_eq!(name, "JUDGE_KEY");
                value.clone()
            })
            .map_err(|error| format!("{error} {error:?}"))
        };
        for (value, problem) in [
            (Err(VarError::NotPresent), "not set"),
            (Ok(" \n"), "empty"),
            (Ok("hunter2\u{7f}"), "characters that cannot stand"),
        ] {
            let error = key(value).expect_err(problem);
            assert!(error.contains("'JUDGE_KEY'") && error.contains(problem), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let endpoint = key(Ok("hunter2\n")).expect("a trailing line end is no part of a key");
        assert_eq!(endpoint.authorization.as_ref().map(HeaderValue::as_bytes), Some(&b"Bearer hunter2"[..]));
        assert!(!format!("{endpoint:?}").contains("hunter2"));
    }
}
