//! Secrets that cannot be printed by accident.

use std::fmt;

/// A secret text. It has no `Display`, and its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that must send it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the secret replaced: some servers echo a wrong key in their error.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        // Some JSON writers escape slashes.
        text.replace(&self.0, "[key]").replace(&self.0.replace('/', "\\/"), "[key]")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_in_no_debug_text_and_is_struck_from_others() {
        let secret = Secret::new("sk-12345");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(…))");
        assert_eq!(secret.redact("bad key sk-12345, sk-12345!"), "bad key [key], [key]!");
        assert_eq!(Secret::new("a/b").redact(r"key a\/b or a/b"), "key [key] or [key]");
        assert_eq!(Secret::new("").redact("as it was"), "as it was");
    }
}
