//! Tallies.

use avsweep_domain::{JudgementTally, LikelihoodTally, PointId, PointTallies, SetTallies};

use super::result::MAX_LEVELS;
use super::{all, required};
use crate::{ConvertError, v1};

/// Checks that a per-level field has one entry per level.
fn per_level(
    message: &'static str,
    field: &'static str,
    found: usize,
    wanted: usize,
) -> Result<(), ConvertError> {
    if found == wanted && (2..=MAX_LEVELS as usize).contains(&found) {
        Ok(())
    } else {
        let found = format_args!("{found} long");
        Err(ConvertError::invalid(message, field, found, "one entry per level, 2 to 8,"))
    }
}

impl From<&LikelihoodTally> for v1::LikelihoodTally {
    fn from(tally: &LikelihoodTally) -> Self {
        let [mean, sum, per_byte] = &tally.counts;
        Self {
            queries: tally.queries,
            mean_counts: mean.clone(),
            sum_counts: sum.clone(),
            per_byte_counts: per_byte.clone(),
            mean_log_prob_micronats: tally.mean_log_prob_micronats.clone(),
        }
    }
}

impl TryFrom<v1::LikelihoodTally> for LikelihoodTally {
    type Error = ConvertError;

    fn try_from(wire: v1::LikelihoodTally) -> Result<Self, ConvertError> {
        let levels = wire.mean_counts.len();
        for (field, length) in [
            ("mean_counts", levels),
            ("sum_counts", wire.sum_counts.len()),
            ("per_byte_counts", wire.per_byte_counts.len()),
            ("mean_log_prob_micronats", wire.mean_log_prob_micronats.len()),
        ] {
            per_level("LikelihoodTally", field, length, levels)?;
        }
        Ok(Self {
            queries: wire.queries,
            counts: [wire.mean_counts, wire.sum_counts, wire.per_byte_counts],
            mean_log_prob_micronats: wire.mean_log_prob_micronats,
        })
    }
}

impl From<&JudgementTally> for v1::JudgementTally {
    fn from(tally: &JudgementTally) -> Self {
        Self {
            queries: tally.queries,
            counts: tally.counts.clone(),
            unclear: tally.unclear,
            refused: tally.refused,
        }
    }
}

impl TryFrom<v1::JudgementTally> for JudgementTally {
    type Error = ConvertError;

    fn try_from(wire: v1::JudgementTally) -> Result<Self, ConvertError> {
        per_level("JudgementTally", "counts", wire.counts.len(), wire.counts.len())?;
        Ok(Self { queries: wire.queries, counts: wire.counts, unclear: wire.unclear, refused: wire.refused })
    }
}

impl From<&SetTallies> for v1::SetTallies {
    fn from(tallies: &SetTallies) -> Self {
        Self {
            likelihood: tallies.likelihood.iter().flatten().map(Into::into).collect(),
            judgement: tallies.judgement.iter().flatten().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::SetTallies> for SetTallies {
    type Error = ConvertError;

    fn try_from(wire: v1::SetTallies) -> Result<Self, ConvertError> {
        Ok(Self {
            likelihood: (!wire.likelihood.is_empty()).then(|| all(wire.likelihood)).transpose()?,
            judgement: (!wire.judgement.is_empty()).then(|| all(wire.judgement)).transpose()?,
        })
    }
}

impl From<&PointTallies> for v1::PointTallies {
    fn from(tallies: &PointTallies) -> Self {
        Self {
            id: tallies.id.0,
            point: Some((&tallies.point).into()),
            search: Some((&tallies.search).into()),
            confirm: Some((&tallies.confirm).into()),
        }
    }
}

impl TryFrom<v1::PointTallies> for PointTallies {
    type Error = ConvertError;

    fn try_from(wire: v1::PointTallies) -> Result<Self, ConvertError> {
        Ok(Self {
            id: PointId(wire.id),
            point: required("PointTallies", "point", wire.point)?.try_into()?,
            search: wire.search.unwrap_or_default().try_into()?,
            confirm: wire.confirm.unwrap_or_default().try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::{Point, Ticks};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn likelihood(levels: usize) -> impl Strategy<Value = LikelihoodTally> {
        (
            any::<u32>(),
            [vec(0u32.., levels), vec(0u32.., levels), vec(0u32.., levels)],
            vec(any::<i64>(), levels),
        )
            .prop_map(|(queries, counts, mean_log_prob_micronats)| LikelihoodTally {
                queries,
                counts,
                mean_log_prob_micronats,
            })
    }

    fn judgement(levels: usize) -> impl Strategy<Value = JudgementTally> {
        (any::<u32>(), vec(0u32.., levels), any::<u32>(), any::<u32>()).prop_map(
            |(queries, counts, unclear, refused)| JudgementTally { queries, counts, unclear, refused },
        )
    }

    fn set(domains: usize, levels: usize) -> impl Strategy<Value = SetTallies> {
        (
            prop::option::of(vec(likelihood(levels), domains)),
            prop::option::of(vec(judgement(levels), domains)),
        )
            .prop_map(|(likelihood, judgement)| SetTallies { likelihood, judgement })
    }

    fn tallies() -> impl Strategy<Value = PointTallies> {
        (1usize..4, 2usize..=8)
            .prop_flat_map(|(domains, levels)| {
                (any::<i64>(), -9i32..9, set(domains, levels), set(domains, levels))
            })
            .prop_map(|(id, ticks, search, confirm)| PointTallies {
                id: PointId(id),
                point: Point::new([Ticks::new(ticks)]),
                search,
                confirm,
            })
    }

    proptest! {
        #[test]
        fn tallies_round_trip(tallies in tallies()) {
            prop_assert_eq!(PointTallies::try_from(v1::PointTallies::from(&tallies)), Ok(tallies));
        }
    }

    #[test]
    fn a_tally_whose_fields_disagree_on_the_levels_is_refused() {
        let mut wire = v1::LikelihoodTally::from(&LikelihoodTally::new(3));
        wire.sum_counts.pop();
        let error = LikelihoodTally::try_from(wire).expect_err("two of three").to_string();
        assert!(error.contains("LikelihoodTally.sum_counts is 2 long"), "{error}");
    }
}
