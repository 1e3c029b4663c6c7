//! Tokens: text that proves who asks, and that nobody ever prints.

use std::fmt;
use std::fs;
use std::path::Path;

use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use subtle::{Choice, ConstantTimeEq as _};

use crate::TransportError;

/// Longest token, in bytes: it travels in one header of every request.
const MAX_BYTES: usize = 4096;

/// A token. Neither `Debug` nor any error shows it; its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret {
    text: SecretString,
    /// Compared instead of the text, so that not even the token's length can be told from the time taken.
    digest: blake3::Hash,
}

impl Secret {
    /// A token, with the spaces and newlines around it taken off. `origin` stands in errors for the text: the name of
    /// the file or variable it came from.
    ///
    /// # Errors
    /// When nothing is left, or something that cannot stand in a header.
    pub fn new(text: &str, origin: &str) -> Result<Self, TransportError> {
        let wrong = |problem| Err(TransportError::Secret { origin: origin.to_owned(), problem });
        let text = text.trim();
        if text.is_empty() {
            return wrong("is empty");
        }
        if text.len() > MAX_BYTES {
            return wrong("is longer than 4096 bytes");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("holds a space, a line break or a character outside ASCII; wanted one word");
        }
        Ok(Self { text: SecretString::from(text), digest: blake3::hash(text.as_bytes()) })
    }

    /// The one token of a file. Warns when any user of the machine may read it.
    ///
    /// # Errors
    /// When the file cannot be read, or is empty or more than a token.
    pub fn from_file(path: &Path) -> Result<Self, TransportError> {
        Self::new(read(path)?.expose_secret(), &origin_of(path))
    }

    /// The tokens of a file, one a line: several are valid at once while one replaces the other.
    ///
    /// # Errors
    /// When the file cannot be read, or holds none, or something that is no token.
    pub fn all_from_file(path: &Path) -> Result<Vec<Self>, TransportError> {
        Self::lines(read(path)?.expose_secret(), &origin_of(path))
    }

    /// The one token from a file, or else from an environment variable, or else none.
    ///
    /// # Errors
    /// As [`Self::from_file`]; a variable that is set but empty is refused too, since a token was meant.
    pub fn find(file: Option<&Path>, variable: &str) -> Result<Option<Self>, TransportError> {
        if let Some(file) = file {
            return Self::from_file(file).map(Some);
        }
        let text = environment(variable)?;
        text.map(|text| Self::new(text.expose_secret(), variable)).transpose()
    }

    /// Like [`Self::find`], with one token a line.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_all(file: Option<&Path>, variable: &str) -> Result<Vec<Self>, TransportError> {
        if let Some(file) = file {
            return Self::all_from_file(file);
        }
        let text = environment(variable)?;
        text.map_or_else(|| Ok(Vec::new()), |text| Self::lines(text.expose_secret(), variable))
    }

    fn lines(text: &str, origin: &str) -> Result<Vec<Self>, TransportError> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let tokens: Vec<Self> = lines.map(|line| Self::new(line, origin)).collect::<Result<_, _>>()?;
        if tokens.is_empty() {
            return Err(TransportError::Secret { origin: origin.to_owned(), problem: "is empty" });
        }
        Ok(tokens)
    }

    /// Whether `presented` is this token, in a time that says nothing about how much of it is right.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.has_digest(&blake3::hash(presented)).into()
    }

    pub(crate) fn has_digest(&self, digest: &blake3::Hash) -> Choice {
        self.digest.as_bytes().ct_eq(digest.as_bytes())
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.has_digest(&other.digest).into()
    }

    /// The `authorization` header that presents this token, marked so that no library logs it or keeps it in
    /// compression tables.
    pub(crate) fn bearer(&self) -> HeaderValue {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.text.expose_secret()))
            .expect("graphic ASCII can stand in a header");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

fn origin_of(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &Path) -> Result<SecretString, TransportError> {
    let text = fs::read_to_string(path).map_err(|source| TransportError::Read {
        what: "token file",
        path: path.to_owned(),
        source,
    })?;
    warn_when_world_readable(path, "token");
    Ok(SecretString::from(text))
}

fn environment(variable: &str) -> Result<Option<SecretString>, TransportError> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(SecretString::from(text))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(TransportError::Secret { origin: variable.to_owned(), problem: "is not UTF-8" })
        }
    }
}

/// Only a warning: some systems that hand out secrets (Kubernetes' volumes) make them readable inside the container.
pub(crate) fn warn_when_world_readable(path: &Path, what: &str) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o004 != 0) {
            tracing::warn!(
                file = %path.display(),
                "every user of this machine may read this {what}; take that right away with chmod o-r"
            );
        }
    }
    #[cfg(not(unix))]
    let _ = (path, what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_never_shown() -> anyhow::Result<()> {
        let secret = Secret::new("hunter2-hunter2\n", "a test")?;
        assert!(!format!("{secret:?} {secret:#?}").contains("hunter2"));
        assert!(!format!("{:?}", secret.bearer()).contains("hunter2"));
        for bad in ["", " \n", "hunter2 hunter2", "hunter2\nhunter2", "hunter2\u{e9}", "hunter2\u{7f}"] {
            let error = Secret::new(bad, "FILE").expect_err(bad);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("FILE") && !shown.contains("hunter2"), "{shown}");
        }
        Ok(())
    }

    #[test]
    fn secret_matches_itself_only() -> anyhow::Result<()> {
        let secret = Secret::new("abcdef", "a test")?;
        assert!(secret.matches(b"abcdef"));
        for other in [&b"abcdeg"[..], b"abcde", b"abcdef0", b"", b"ABCDEF"] {
            assert!(!secret.matches(other));
        }
        Ok(())
    }

    #[test]
    fn file_may_hold_several_tokens_for_a_server_and_one_for_a_client() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("tokens");
        fs::write(&file, "new-token\n\nold-token\n")?;
        let tokens = Secret::all_from_file(&file)?;
        assert_eq!(tokens.len(), 2);
        assert!(tokens[0].matches(b"new-token") && tokens[1].matches(b"old-token"));
        assert!(Secret::from_file(&file).is_err());

        fs::write(&file, "\n")?;
        let error = Secret::all_from_file(&file).expect_err("an empty file").to_string();
        assert!(error.contains("tokens") && error.contains("empty"), "{error}");

        let missing = folder.path().join("missing");
        let error = Secret::find(Some(&missing), "UNUSED").expect_err("no file").to_string();
        assert!(error.contains("missing"), "{error}");
        assert!(Secret::find(None, "AVSWEEP_NO_SUCH_VARIABLE")?.is_none());
        assert!(Secret::find_all(None, "AVSWEEP_NO_SUCH_VARIABLE")?.is_empty());
        Ok(())
    }
}
