//! Tallies of a point as `sweep_points` holds them: packed, see [`codec`].

use avsweep_domain::{PointId, PointTallies, QuerySet, SetTallies};

use crate::layout::SweepLayout;
use crate::point_results::{Scores, Verdicts};
use crate::{StoreError, codec};

/// Columns point, ticks, search_likelihood, search_judgement, confirm_likelihood, confirm_judgement.
pub(crate) type TallyRow = (i64, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

/// A point's tallies from its row.
pub(crate) fn read_row(layout: &SweepLayout, row: TallyRow) -> Result<PointTallies, StoreError> {
    let (id, ticks, search_likelihood, search_judgement, confirm_likelihood, confirm_judgement) = row;
    let corrupt = |error| StoreError::corrupt(format!("the tallies of point {id}"), error);
    let set = |likelihood: Option<Vec<u8>>, judgement: Option<Vec<u8>>| {
        Ok(SetTallies {
            likelihood: likelihood
                .map(|bytes| codec::read_likelihood_tallies(&bytes, layout.domains, layout.levels))
                .transpose()?,
            judgement: judgement
                .map(|bytes| codec::read_judgement_tallies(&bytes, layout.domains, layout.levels))
                .transpose()?,
        })
    };
    Ok(PointTallies {
        id: PointId(id),
        point: codec::read_ticks(&ticks).map_err(corrupt)?,
        search: set(search_likelihood, search_judgement).map_err(corrupt)?,
        confirm: set(confirm_likelihood, confirm_judgement).map_err(corrupt)?,
    })
}

/// Tallies on the search and on the confirm queries, packed.
pub(crate) type Packed = [Option<Vec<u8>>; 2];

/// A sweep's likelihood tallies of a point.
pub(crate) fn likelihood(layout: &SweepLayout, scores: &Scores) -> Packed {
    [QuerySet::Search, QuerySet::Confirm].map(|set| {
        layout
            .count_scores(set, |query| scores.get(&query))
            .map(|tallies| codec::likelihood_tallies(layout.levels, &tallies))
    })
}

/// A sweep's judgement tallies of a point.
pub(crate) fn judgement(layout: &SweepLayout, verdicts: &Verdicts) -> Packed {
    [QuerySet::Search, QuerySet::Confirm].map(|set| {
        layout
            .count_verdicts(set, |query| verdicts.get(&query))
            .map(|tallies| codec::judgement_tallies(layout.levels, &tallies))
    })
}
