//! Points, rungs, query sets, states, fingerprints, lease tokens.

use avsweep_domain::{
    Fingerprint, JobState, LeaseToken, Point, QuerySet, Rung, SweepState, TICKS_PER_UNIT, Ticks,
};

use super::wire_enum;
use crate::{ConvertError, v1};

wire_enum!(Rung, Rung, {
    Likelihood = (Rung::Likelihood),
    Generation = (Rung::Generation),
    Judgement = (Rung::Judgement),
});

wire_enum!(QuerySet, QuerySet, {
    Search = (QuerySet::Search),
    Confirm = (QuerySet::Confirm),
});

wire_enum!(SweepState, SweepState, {
    Running = (SweepState::Running),
    Paused = (SweepState::Paused),
    Done = (SweepState::Done),
    Cancelled = (SweepState::Cancelled),
});

wire_enum!(JobState, JobState, {
    Ready = (JobState::Ready),
    Leased = (JobState::Leased),
    Done = (JobState::Done),
    Parked = (JobState::Parked),
    Raced = (JobState::Raced),
});

/// The largest magnitude of a coefficient in ticks, as in [`Ticks`]'s text form.
const TICKS_LIMIT: i32 = 100_000 * TICKS_PER_UNIT;

/// Ticks within the range that a coefficient can have.
pub(super) fn ticks(message: &'static str, field: &'static str, value: i32) -> Result<Ticks, ConvertError> {
    if (-TICKS_LIMIT..=TICKS_LIMIT).contains(&value) {
        Ok(Ticks::new(value))
    } else {
        Err(ConvertError::invalid(message, field, value, "-1000000000 to 1000000000 ticks"))
    }
}

impl From<&Point> for v1::Point {
    fn from(point: &Point) -> Self {
        Self { ticks: point.values().iter().map(|ticks| ticks.get()).collect() }
    }
}

impl TryFrom<v1::Point> for Point {
    type Error = ConvertError;

    fn try_from(wire: v1::Point) -> Result<Self, ConvertError> {
        if wire.ticks.is_empty() {
            return Err(ConvertError::invalid("Point", "ticks", "empty", "one value per coefficient"));
        }
        let values = wire.ticks.into_iter().map(|value| ticks("Point", "ticks", value));
        Ok(Self::new(values.collect::<Result<Vec<_>, _>>()?))
    }
}

/// Reads a fingerprint field: 32 raw bytes.
///
/// # Errors
/// When there are more or fewer.
pub fn fingerprint(
    message: &'static str,
    field: &'static str,
    bytes: &[u8],
) -> Result<Fingerprint, ConvertError> {
    <[u8; 32]>::try_from(bytes).map(Fingerprint::from_bytes).map_err(|_| {
        ConvertError::invalid(message, field, format_args!("{} bytes long", bytes.len()), "32 bytes")
    })
}

/// Reads a lease token field: 16 raw bytes. The error tells their number, never the bytes.
///
/// # Errors
/// When there are more or fewer.
pub fn lease_token(
    message: &'static str,
    field: &'static str,
    bytes: &[u8],
) -> Result<LeaseToken, ConvertError> {
    LeaseToken::try_from(bytes).map_err(|_| {
        ConvertError::invalid(message, field, format_args!("{} bytes long", bytes.len()), "16 bytes")
    })
}
