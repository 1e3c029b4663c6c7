//! Identifiers that the store hands out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! numeric_identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

numeric_identifier! {
    /// A sweep in one store.
    SweepId
}
numeric_identifier! {
    /// A point of one merge recipe in one store; two sweeps over the same model and vectors share it.
    PointId
}
numeric_identifier! {
    /// A job in one store.
    JobId
}

/// The name a worker or judge goes by: unique per process, for people and for counting failures.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The random secret of one lease; every write under the lease repeats it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseToken([u8; 16]);

/// Bytes that are no lease token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lease token has 16 bytes, {0} found")]
pub struct LeaseTokenError(usize);

impl LeaseToken {
    /// From random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the wire and the store.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for LeaseToken {
    type Error = LeaseTokenError;

    fn try_from(bytes: &[u8]) -> Result<Self, LeaseTokenError> {
        bytes.try_into().map(Self).map_err(|_| LeaseTokenError(bytes.len()))
    }
}

/// Hides the token: whoever holds it may write under the lease.
impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseToken(…)")
    }
}

impl FromStr for SweepId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
