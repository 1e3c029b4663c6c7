//! Where a store lies, without its password wherever it is shown.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A SQLite file, or a PostgreSQL database.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum StoreLocation {
    /// A SQLite file.
    File(PathBuf),
    /// A connection string, which may hold a password.
    Postgres(String),
}

impl FromStr for StoreLocation {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let postgres = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        Ok(if postgres { Self::Postgres(text.to_owned()) } else { Self::File(PathBuf::from(text)) })
    }
}

impl StoreLocation {
    /// The file, if it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

/// User, host and database stay; password and parameters (which can hold one) do not.
impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
                let rest = rest.split(['?', '#']).next().unwrap_or_default();
                // The last '@': a password that should have been encoded may hold one.
                let shown = match rest.rsplit_once('@') {
                    Some((user, place)) => {
                        format!("{}@{place}", user.split(':').next().unwrap_or_default())
                    }
                    None => rest.to_owned(),
                };
                write!(f, "{scheme}://{shown}")
            }
        }
    }
}

impl fmt::Debug for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::StoreLocation;

    #[test]
    fn no_form_of_a_database_shows_its_password() {
        let Ok(location): Result<StoreLocation, _> =
            "postgresql://ann:s3:c@r/et@db.example:5432/sweeps?password=s3cret&sslmode=require".parse();
        assert_eq!(location.to_string(), "postgresql://ann@db.example:5432/sweeps");
        assert!(!format!("{location:?}").contains("et@"));
        let Ok(location): Result<StoreLocation, _> = "postgres:///sweeps?host=/run/postgresql".parse();
        assert_eq!(location.to_string(), "postgres:///sweeps");
    }

    #[test]
    fn anything_else_is_a_file() {
        let Ok(location): Result<StoreLocation, _> = "avsweep.db".parse();
        assert!(location.file().is_some());
    }
}
