//! A coefficient's value as an integer number of ticks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ticks in one unit: a tick is 1/10000.
pub const TICKS_PER_UNIT: i32 = 10_000;

/// A coefficient's value in ticks of 1/10000, so that equality, hashing and resuming are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticks(i32);

/// Why a number is no tick value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TicksError {
    /// Not a decimal number at all.
    #[error("'{0}' is not a decimal number such as 0.4 or -1")]
    NotANumber(String),
    /// Finer than a tick.
    #[error("{0} is finer than 0.0001, the smallest step a coefficient can take")]
    TooFine(String),
    /// Out of the representable range.
    #[error("{0} is out of range: a coefficient lies between -100000 and 100000")]
    OutOfRange(String),
}

/// The largest magnitude, in units.
const LIMIT_UNITS: i64 = 100_000;

impl Ticks {
    /// Zero: the vector is not added at all.
    pub const ZERO: Self = Self(0);

    /// From an integer number of ticks.
    pub const fn new(ticks: i32) -> Self {
        Self(ticks)
    }

    /// The integer number of ticks.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The value as a float, for the engine's edge only.
    pub fn to_f64(self) -> f64 {
        f64::from(self.0) / f64::from(TICKS_PER_UNIT)
    }

    /// From a float that must lie on a tick (to within 1e-9, the noise of a decimal literal's parse).
    ///
    /// # Errors
    /// When the value is not finite, out of range, or between two ticks.
    pub fn from_f64(value: f64) -> Result<Self, TicksError> {
        if !value.is_finite() {
            return Err(TicksError::NotANumber(value.to_string()));
        }
        if value.abs() > LIMIT_UNITS as f64 {
            return Err(TicksError::OutOfRange(value.to_string()));
        }
        let scaled = value * f64::from(TICKS_PER_UNIT);
        let rounded = scaled.round();
        if (scaled - rounded).abs() > 1e-5 {
            return Err(TicksError::TooFine(value.to_string()));
        }
        Ok(Self(rounded as i32))
    }
}

impl fmt::Display for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (self.0.unsigned_abs() / 10_000, self.0.unsigned_abs() % 10_000);
        let text = if fraction == 0 {
            format!("{sign}{whole}")
        } else {
            format!("{sign}{whole}.{}", format!("{fraction:04}").trim_end_matches('0'))
        };
        f.pad(&text)
    }
}

impl FromStr for Ticks {
    type Err = TicksError;

    /// Reads a decimal number exactly, without going through a float.
    fn from_str(text: &str) -> Result<Self, TicksError> {
        let not_a_number = || TicksError::NotANumber(text.to_owned());
        let trimmed = text.trim();
        let (negative, digits) = match trimmed.as_bytes().first() {
            Some(b'-') => (true, &trimmed[1..]),
            Some(b'+') => (false, &trimmed[1..]),
            _ => (false, trimmed),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return Err(not_a_number());
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 4 {
            return Err(TicksError::TooFine(trimmed.to_owned()));
        }
        let whole: i64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| TicksError::OutOfRange(trimmed.to_owned()))?
        };
        if whole > LIMIT_UNITS {
            return Err(TicksError::OutOfRange(trimmed.to_owned()));
        }
        let fraction: i64 = format!("{fraction:0<4}").parse().map_err(|_| not_a_number())?;
        let magnitude = whole * i64::from(TICKS_PER_UNIT) + fraction;
        if magnitude > LIMIT_UNITS * i64::from(TICKS_PER_UNIT) {
            return Err(TicksError::OutOfRange(trimmed.to_owned()));
        }
        let magnitude = i32::try_from(magnitude).map_err(|_| TicksError::OutOfRange(trimmed.to_owned()))?;
        Ok(Self(if negative { -magnitude } else { magnitude }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_float_forms_round_trip(ticks in -1_000_000_000i32..=1_000_000_000) {
            let value = Ticks::new(ticks);
            prop_assert_eq!(value.to_string().parse::<Ticks>(), Ok(value));
            prop_assert_eq!(Ticks::from_f64(value.to_f64()), Ok(value));
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,20}") {
            let _ = text.parse::<Ticks>();
        }
    }

    #[test]
    fn bad_numbers_say_what_is_wrong() {
        assert_eq!("0.00001".parse::<Ticks>(), Err(TicksError::TooFine("0.00001".into())));
        assert_eq!("".parse::<Ticks>(), Err(TicksError::NotANumber(String::new())));
        assert_eq!("1e3".parse::<Ticks>(), Err(TicksError::NotANumber("1e3".into())));
        assert_eq!("100001".parse::<Ticks>(), Err(TicksError::OutOfRange("100001".into())));
        assert_eq!("-0.4000".parse::<Ticks>(), Ok(Ticks::new(-4000)));
        assert!(Ticks::from_f64(0.12345).is_err());
    }
}
