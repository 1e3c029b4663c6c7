//! Aggregates, readings, targets.

use avsweep_domain::{Aggregate, Normalisation, Reading, Target, Wanted};

use super::result::level;
use super::{all, required, wire_enum};
use crate::{ConvertError, v1};

wire_enum!(Aggregate, Aggregate, {
    Min = (Aggregate::Min),
    Mean = (Aggregate::Mean),
    Product = (Aggregate::Product),
});

wire_enum!(Reading, Reading, {
    Mean = (Reading::Likelihood(Normalisation::Mean)),
    Sum = (Reading::Likelihood(Normalisation::Sum)),
    PerByte = (Reading::Likelihood(Normalisation::PerByte)),
    Judgement = (Reading::Judgement),
});

impl From<Wanted> for v1::Wanted {
    fn from(wanted: Wanted) -> Self {
        use v1::wanted::Wanted as Wire;
        Self {
            wanted: Some(match wanted {
                Wanted::Level(level) => Wire::Level(u32::from(level.0)),
                Wanted::AsBase => Wire::AsBase(v1::AsBase {}),
                Wanted::Free => Wire::Free(v1::Free {}),
            }),
        }
    }
}

impl TryFrom<v1::Wanted> for Wanted {
    type Error = ConvertError;

    fn try_from(wire: v1::Wanted) -> Result<Self, ConvertError> {
        use v1::wanted::Wanted as Wire;
        Ok(match required("Wanted", "wanted", wire.wanted)? {
            Wire::Level(index) => Self::Level(level("Wanted", "level", index)?),
            Wire::AsBase(v1::AsBase {}) => Self::AsBase,
            Wire::Free(v1::Free {}) => Self::Free,
        })
    }
}

impl From<&Target> for v1::Target {
    fn from(target: &Target) -> Self {
        Self { wanted: target.wanted().iter().copied().map(Into::into).collect() }
    }
}

/// Whether the target fits a sweep's domains and levels is the caller's to check.
impl TryFrom<v1::Target> for Target {
    type Error = ConvertError;

    fn try_from(wire: v1::Target) -> Result<Self, ConvertError> {
        if wire.wanted.is_empty() {
            return Err(ConvertError::invalid("Target", "wanted", "empty", "one entry per domain"));
        }
        all(wire.wanted).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::{Level, Levels, Point, QuerySet, Rung, SweepState, Ticks};
    use proptest::prelude::*;

    use super::*;
    use crate::{WireEnum as _, fingerprint, lease_token};

    #[test]
    fn closed_words_round_trip_and_refuse_what_is_not_theirs() {
        fn laws<D, W>(values: impl IntoIterator<Item = D>)
        where
            D: Copy + PartialEq + std::fmt::Debug + TryFrom<W, Error = ConvertError>,
            W: crate::WireEnum<Domain = D> + From<D>,
        {
            for value in values {
                assert_eq!(W::read("Message", "field", W::from(value).into()), Ok(value));
            }
            for bad in [0, -1, 99] {
                let error = W::read("Message", "field", bad).expect_err("not a value").to_string();
                assert!(error.starts_with(&format!("Message.field is {bad}; one of ")), "{error}");
            }
        }
        laws::<_, v1::Rung>([Rung::Likelihood, Rung::Generation, Rung::Judgement]);
        laws::<_, v1::QuerySet>([QuerySet::Search, QuerySet::Confirm]);
        laws::<_, v1::SweepState>(SweepState::ALL);
        laws::<_, v1::Aggregate>([Aggregate::Min, Aggregate::Mean, Aggregate::Product]);
        laws::<_, v1::Reading>(
            Normalisation::ALL.map(Reading::Likelihood).into_iter().chain([Reading::Judgement]),
        );
        assert!(v1::Rung::read("LeaseRequest", "rungs", 4).is_err());
    }

    #[test]
    fn every_target_round_trips() {
        let mut targets = Target::all(3, &Levels::default());
        targets.push(Target::new(vec![Wanted::AsBase, Wanted::Free, Wanted::Level(Level(1))]));
        for target in targets {
            assert_eq!(Target::try_from(v1::Target::from(&target)), Ok(target));
        }
        assert!(Target::try_from(v1::Target { wanted: vec![] }).is_err());
        assert!(Target::try_from(v1::Target { wanted: vec![v1::Wanted { wanted: None }] }).is_err());
    }

    proptest! {
        #[test]
        fn points_round_trip(ticks in prop::collection::vec(-1_000_000_000i32..=1_000_000_000, 1..6)) {
            let point = Point::new(ticks.into_iter().map(Ticks::new).collect::<Vec<_>>());
            prop_assert_eq!(Point::try_from(v1::Point::from(&point)), Ok(point));
        }

        #[test]
        fn byte_fields_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(fingerprint("M", "f", &bytes).is_ok(), bytes.len() == 32);
            prop_assert_eq!(lease_token("M", "f", &bytes).is_ok(), bytes.len() == 16);
        }
    }

    #[test]
    fn a_point_beyond_the_range_of_coefficients_is_refused() {
        let error = Point::try_from(v1::Point { ticks: vec![0, i32::MIN] }).expect_err("too far").to_string();
        assert!(error.contains("Point.ticks is -2147483648"), "{error}");
        assert!(Point::try_from(v1::Point { ticks: vec![] }).is_err());
    }
}
