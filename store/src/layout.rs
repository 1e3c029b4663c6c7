//! A sweep's queries as the store numbers them, and the counting of results over them.

use std::collections::HashMap;

use avsweep_domain::{
    Fingerprint, JudgementTally, LikelihoodTally, QueryScore, QuerySet, QuerySlice, SweepDefinition, SweepId,
    Verdict,
};

use crate::search_points::SearchShape;

/// What a sweep's results hang on, as the store's numbers. Never changes while the sweep exists.
#[derive(Debug)]
pub(crate) struct SweepLayout {
    /// The sweep.
    pub(crate) id: SweepId,
    /// Its fingerprint.
    pub(crate) fingerprint: Fingerprint,
    /// Its merge recipe.
    pub(crate) recipe: i64,
    /// Its decode settings.
    pub(crate) decoding: i64,
    /// Its judge.
    pub(crate) judge: i64,
    /// How many levels it has.
    pub(crate) levels: usize,
    /// How many domains it has.
    pub(crate) domains: usize,
    /// How many coefficients it has.
    pub(crate) dimensions: usize,
    /// What its points are chosen by.
    pub(crate) search: SearchShape,
    /// Its queries by ordinal.
    places: Vec<Place>,
    /// Their ordinals by the query's number, ascending. More than one where two ids have the same content.
    ordinals: HashMap<i64, Vec<u32>>,
}

/// The numbers that a sweep's row holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SweepKeys {
    pub(crate) id: SweepId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) recipe: i64,
    pub(crate) decoding: i64,
    pub(crate) judge: i64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    query: i64,
    domain: usize,
    set: QuerySet,
}

impl SweepLayout {
    /// The layout of a definition whose queries have these numbers, by ordinal; `None` when their number differs.
    pub(crate) fn new(keys: SweepKeys, definition: &SweepDefinition, queries: &[i64]) -> Option<Self> {
        if definition.queries().count() != queries.len() {
            return None;
        }
        let places: Vec<_> = definition
            .queries()
            .zip(queries)
            .map(|(entry, query)| Place { query: *query, domain: entry.domain, set: entry.set })
            .collect();
        let mut ordinals: HashMap<i64, Vec<u32>> = HashMap::with_capacity(places.len());
        for (ordinal, place) in (0..).zip(&places) {
            ordinals.entry(place.query).or_default().push(ordinal);
        }
        let SweepKeys { id, fingerprint, recipe, decoding, judge } = keys;
        Some(Self {
            id,
            fingerprint,
            recipe,
            decoding,
            judge,
            levels: definition.levels.len(),
            domains: definition.domains.len(),
            dimensions: definition.space.dimensions(),
            search: SearchShape::of(definition),
            places,
            ordinals,
        })
    }

    /// How many queries there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The number of the query at an ordinal.
    pub(crate) fn query(&self, ordinal: u32) -> Option<i64> {
        self.places.get(ordinal as usize).map(|place| place.query)
    }

    /// The ordinals of a query; empty when the sweep does not have it.
    pub(crate) fn ordinals(&self, query: i64) -> &[u32] {
        self.ordinals.get(&query).map_or(&[], Vec::as_slice)
    }

    /// The slice's ordinals that have no result yet, each with its query; of ordinals that share a query the first.
    pub(crate) fn missing(&self, slice: QuerySlice, has: impl Fn(i64) -> bool) -> Vec<(u32, i64)> {
        slice
            .ordinals()
            .filter_map(|ordinal| Some((ordinal, self.query(ordinal)?)))
            .filter(|(ordinal, query)| {
                let first = self.ordinals(*query).iter().find(|other| slice.ordinals().contains(other));
                first == Some(ordinal) && !has(*query)
            })
            .collect()
    }

    /// The likelihood tallies of a set; `None` when none of its queries has a score.
    pub(crate) fn count_scores<'a>(
        &self,
        set: QuerySet,
        score: impl Fn(i64) -> Option<&'a QueryScore>,
    ) -> Option<Vec<LikelihoodTally>> {
        let mut tallies = vec![LikelihoodTally::new(self.levels); self.domains];
        let mut any = false;
        for place in self.places.iter().filter(|place| place.set == set) {
            if let Some(score) = score(place.query)
                && let Some(tally) = tallies.get_mut(place.domain)
            {
                tally.add(score);
                any = true;
            }
        }
        any.then_some(tallies)
    }

    /// The judgement tallies of a set; `None` when none of its queries has a verdict.
    pub(crate) fn count_verdicts<'a>(
        &self,
        set: QuerySet,
        verdict: impl Fn(i64) -> Option<&'a Verdict>,
    ) -> Option<Vec<JudgementTally>> {
        let mut tallies = vec![JudgementTally::new(self.levels); self.domains];
        let mut any = false;
        for place in self.places.iter().filter(|place| place.set == set) {
            if let Some(verdict) = verdict(place.query)
                && let Some(tally) = tallies.get_mut(place.domain)
            {
                tally.add(verdict);
                any = true;
            }
        }
        any.then_some(tallies)
    }
}
