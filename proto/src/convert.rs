//! Conversions between wire messages and domain types, both ways.
//!
//! Into the domain: `TryFrom`, which checks everything, so that a domain value is right wherever it came from.
//! Onto the wire: `From`, which cannot fail.

mod definition;
mod result;
mod strategy;
mod tally;
mod target;
mod word;

use avsweep_domain::{DefinitionError, RangeError};

pub use word::{fingerprint, lease_token};

use crate::ErrorCode;

/// Why a message does not say what its domain type needs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be set is not.
    #[error("{message}.{field} is missing")]
    Missing {
        /// The message's name.
        message: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A field holds a value that its domain type does not have.
    #[error("{message}.{field} is {found}; {wanted} is wanted")]
    Invalid {
        /// The message's name.
        message: &'static str,
        /// The field's name.
        field: &'static str,
        /// The value found.
        found: String,
        /// The values wanted.
        wanted: &'static str,
    },
    /// A number that is none.
    #[error("{message}.{field} is {found}; a finite number is wanted")]
    NotFinite {
        /// The message's name.
        message: &'static str,
        /// The field's name.
        field: &'static str,
        /// The value found.
        found: f64,
    },
    /// A coefficient's range is none.
    #[error("range of coefficient '{coefficient}'")]
    Range {
        /// The coefficient.
        coefficient: String,
        /// What is wrong with it.
        source: RangeError,
    },
    /// A sweep's definition breaks one of its laws.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
}

impl ConvertError {
    /// An [`ConvertError::Invalid`].
    pub fn invalid(
        message: &'static str,
        field: &'static str,
        found: impl std::fmt::Display,
        wanted: &'static str,
    ) -> Self {
        Self::Invalid { message, field, found: found.to_string(), wanted }
    }

    /// What a request with this error is refused with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFinite { .. } => ErrorCode::NotFinite,
            Self::Missing { .. } | Self::Invalid { .. } | Self::Range { .. } | Self::Definition(_) => {
                ErrorCode::Malformed
            }
        }
    }
}

/// The value of a field that must be set.
///
/// # Errors
/// When it is not.
pub fn required<T>(message: &'static str, field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { message, field })
}

/// A generated enum with its domain type.
pub trait WireEnum: TryFrom<i32> + Into<i32> {
    /// What it stands for.
    type Domain: TryFrom<Self, Error = ConvertError>;
    /// The values a field may hold, for errors.
    const WANTED: &'static str;

    /// Reads an enum field.
    ///
    /// # Errors
    /// When the number is none of the enum's, or the unspecified one.
    fn read(message: &'static str, field: &'static str, value: i32) -> Result<Self::Domain, ConvertError> {
        Self::try_from(value)
            .ok()
            .and_then(|wire| Self::Domain::try_from(wire).ok())
            .ok_or_else(|| ConvertError::invalid(message, field, value, Self::WANTED))
    }
}

/// Maps a generated enum to its domain type, both ways; the unspecified value is refused.
macro_rules! wire_enum {
    ($wire:ident, $domain:ty, { $($name:ident = ($($value:tt)+)),+ $(,)? }) => {
        impl From<$domain> for $crate::v1::$wire {
            fn from(value: $domain) -> Self {
                match value { $($($value)+ => Self::$name),+ }
            }
        }

        impl TryFrom<$crate::v1::$wire> for $domain {
            type Error = $crate::ConvertError;

            fn try_from(wire: $crate::v1::$wire) -> Result<Self, $crate::ConvertError> {
                match wire {
                    $($crate::v1::$wire::$name => Ok($($value)+),)+
                    $crate::v1::$wire::Unspecified => Err($crate::ConvertError::Invalid {
                        message: stringify!($wire),
                        field: "value",
                        found: wire.as_str_name().to_owned(),
                        wanted: <$crate::v1::$wire as $crate::WireEnum>::WANTED,
                    }),
                }
            }
        }

        impl $crate::WireEnum for $crate::v1::$wire {
            type Domain = $domain;
            const WANTED: &'static str =
                concat!("one of", $(" ", stringify!($name)),+, " (of enum ", stringify!($wire), ")");
        }
    };
}
use wire_enum;

/// Converts every element, or says what is wrong with the first bad one.
fn all<W, D: TryFrom<W, Error = ConvertError>>(values: Vec<W>) -> Result<Vec<D>, ConvertError> {
    values.into_iter().map(D::try_from).collect()
}
