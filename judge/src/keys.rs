//! Which of a process's secrets a sweep may use.
//!
//! A sweep names the environment variable that holds its judge's key, and the address that the key is sent to. Where
//! others may create sweeps, that would hand them every variable of the judge's process.

use std::str::FromStr;

use crate::error::JudgeError;

/// A variable that sweeps may name, with the address below which its value may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedKey {
    variable: String,
    /// Ends with a slash, so that it holds the whole host.
    address: String,
}

impl FromStr for AllowedKey {
    type Err = String;

    /// `VARIABLE=URL`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((variable, url))
                if !variable.is_empty() && (url.starts_with("https://") || url.starts_with("http://")) =>
            {
                let address = format!("{}/", url.trim_end_matches('/'));
                Ok(Self { variable: variable.to_owned(), address })
            }
            _ => Err(format!("'{text}' is not of the form VARIABLE=https://HOST/")),
        }
    }
}

/// Which environment variables a sweep's `judge.api_key_env` may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyPolicy {
    /// Any, for any address: whoever makes the sweep owns this process.
    #[default]
    Any,
    /// Only these.
    Only(Vec<AllowedKey>),
}

impl KeyPolicy {
    /// Whether the variable's value may be sent to an address.
    ///
    /// # Errors
    /// [`JudgeError::KeyNotAllowed`].
    pub(crate) fn check(&self, variable: &str, base_url: &str) -> Result<(), JudgeError> {
        let base = format!("{}/", base_url.trim_end_matches('/'));
        match self {
            Self::Any => Ok(()),
            Self::Only(keys)
                if keys.iter().any(|key| key.variable == variable && base.starts_with(&key.address)) =>
            {
                Ok(())
            }
            Self::Only(_) => Err(JudgeError::KeyNotAllowed {
                variable: variable.to_owned(),
                base_url: base_url.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_to_its_own_address_only() {
        let key: AllowedKey = "KEY=https://api.example.com/v1".parse().expect("it is of the form");
        let policy = KeyPolicy::Only(vec![key]);
        assert!(policy.check("KEY", "https://api.example.com/v1").is_ok());
        assert!(policy.check("KEY", "https://api.example.com/v1/eu/").is_ok());
        for (variable, url) in [
            ("PGPASSWORD", "https://api.example.com/v1"),
            ("KEY", "https://api.example.com/v10"),
            ("KEY", "https://api.example.com.evil.example/v1"),
            ("KEY", "http://api.example.com/v1"),
            ("KEY", "https://api.example.com"),
        ] {
            assert!(policy.check(variable, url).is_err(), "{variable} {url}");
        }
        assert!(KeyPolicy::Any.check("KEY", "http://localhost/v1").is_ok());
    }

    #[test]
    fn an_address_holds_its_whole_host() {
        let policy = KeyPolicy::Only(vec!["KEY=https://api.example.com".parse().expect("it is of the form")]);
        assert!(policy.check("KEY", "https://api.example.com/v1").is_ok());
        assert!(policy.check("KEY", "https://api.example.com@evil.example/v1").is_err());
        assert!("KEY".parse::<AllowedKey>().is_err());
        assert!("KEY=ftp://x".parse::<AllowedKey>().is_err());
    }
}
