//! Results: what was acknowledged is there and stays, as the function of its identity that it is; nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{Fingerprint, Point, Query, Rung, SweepDefinition, SweepId};
use avsweep_store::{JobRecord, JobResults, Report, ResultRow, ResultValue, SqliteStore, Store};

use super::{Laws, ensure};
use crate::store::at_once;
use crate::values;

/// Results that coordinators said were stored.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// By model and point: rung and query. All sweeps decode alike and have one judge.
    at_points: BTreeMap<(Fingerprint, Point), BTreeSet<(Rung, Fingerprint)>>,
    /// Judged texts, by query.
    judged: BTreeSet<(Fingerprint, String)>,
}

impl Acknowledged {
    pub(super) fn has(&self, recipe: Fingerprint, point: &Point, rung: Rung, query: &Query) -> bool {
        let at_point = self.at_points.get(&(recipe, point.clone()));
        at_point.is_some_and(|known| known.contains(&(rung, query.fingerprint())))
    }

    /// Whether the response to a query at a point, or the same text elsewhere, was judged.
    pub(super) fn is_judged(&self, recipe: Fingerprint, point: &Point, query: &Query) -> bool {
        let text = values::response(recipe, point, query).text;
        self.judged.contains(&(query.fingerprint(), text))
    }

    fn add(&mut self, recipe: Fingerprint, point: &Point, rung: Rung, query: &Query) {
        let known = self.at_points.entry((recipe, point.clone())).or_default();
        known.insert((rung, query.fingerprint()));
    }
}

fn rung_of(value: &ResultValue) -> Rung {
    match value {
        ResultValue::Score(_) => Rung::Likelihood,
        ResultValue::Response(_) => Rung::Generation,
        ResultValue::Verdict(_) => Rung::Judgement,
    }
}

/// Whether a stored result is what it must be.
fn is_right(definition: &SweepDefinition, point: &Point, query: &Query, value: &ResultValue) -> bool {
    let recipe = definition.recipe_fingerprint();
    match value {
        ResultValue::Score(score) => *score == values::score(recipe, point, query),
        ResultValue::Response(response) => *response == values::response(recipe, point, query),
        ResultValue::Verdict(verdict) => {
            *verdict == values::verdict(query, &values::response(recipe, point, query).text)
        }
    }
}

pub(super) fn query(definition: &SweepDefinition, ordinal: u32) -> Result<&Query, String> {
    let entry = definition.queries().nth(ordinal as usize);
    entry.map(|entry| entry.query).ok_or_else(|| format!("there is no query {ordinal}"))
}

impl Laws {
    /// Notes the results of a report that was taken.
    pub(super) fn acknowledge(
        &mut self,
        sweep: SweepId,
        job: &JobRecord,
        report: &Report,
    ) -> Result<(), String> {
        let definition = self.definition(sweep)?;
        let recipe = definition.recipe_fingerprint();
        let ordinals: Vec<u32> = match &report.results {
            JobResults::Scores(rows) => rows.iter().map(|row| row.0).collect(),
            JobResults::Responses(rows) => rows.iter().map(|row| row.0).collect(),
            JobResults::Verdicts(rows) => rows.iter().map(|row| row.0).collect(),
        };
        for ordinal in ordinals {
            let query = query(&definition, ordinal)?;
            self.acknowledged.add(recipe, &job.job.point, job.job.rung, query);
            if job.job.rung == Rung::Judgement {
                let text = values::response(recipe, &job.job.point, query).text;
                self.acknowledged.judged.insert((query.fingerprint(), text));
            }
        }
        Ok(())
    }

    /// What is stored at a point is what was acknowledged there, and right.
    pub(super) fn point_is_right(
        &mut self,
        store: &SqliteStore,
        sweep: SweepId,
        point: &Point,
    ) -> Result<(), String> {
        let rows = at_once(store.point_results(sweep, point, &[]))
            .map_err(|error| format!("the results at {point} cannot be read: {error}"))?;
        self.rows_are_right(sweep, point, &rows)
    }

    fn rows_are_right(&mut self, sweep: SweepId, point: &Point, rows: &[ResultRow]) -> Result<(), String> {
        let definition = self.definition(sweep)?;
        let recipe = definition.recipe_fingerprint();
        let mut found = BTreeSet::new();
        for row in rows {
            let query = query(&definition, row.ordinal)?;
            let rung = rung_of(&row.value);
            let what = || format!("the {rung} result of query '{}' at {point}", query.id);
            ensure(row.point == *point, || format!("{} stands at {}", what(), row.point))?;
            ensure(is_right(&definition, point, query, &row.value), || {
                format!("{} is another than was reported: {:?}", what(), row.value)
            })?;
            if !self.acknowledged.has(recipe, point, rung, query) {
                let resolved = rung == Rung::Judgement && self.acknowledged.is_judged(recipe, point, query);
                ensure(resolved, || format!("{} is there, and no report of it was taken", what()))?;
                // From now on it must stay.
                self.acknowledged.add(recipe, point, rung, query);
            }
            found.insert((rung, query.fingerprint()));
        }
        let Some(known) = self.acknowledged.at_points.get(&(recipe, point.clone())) else { return Ok(()) };
        for entry in definition.queries() {
            for rung in [Rung::Likelihood, Rung::Generation, Rung::Judgement] {
                let key = (rung, entry.query.fingerprint());
                ensure(!known.contains(&key) || found.contains(&key), || {
                    format!(
                        "the {rung} result of query '{}' at {point} was acknowledged and is gone",
                        entry.query.id
                    )
                })?;
            }
        }
        Ok(())
    }

    /// A job that was closed has a result for every query.
    pub(super) fn is_complete(
        &self,
        store: &SqliteStore,
        sweep: SweepId,
        job: &JobRecord,
    ) -> Result<(), String> {
        let ordinals: Vec<u32> = job.job.slice.ordinals().collect();
        let rows = at_once(store.point_results(sweep, &job.job.point, &ordinals))
            .map_err(|error| format!("the results of job {} cannot be read: {error}", job.id))?;
        let found: BTreeSet<u32> =
            rows.iter().filter(|row| rung_of(&row.value) == job.job.rung).map(|row| row.ordinal).collect();
        ensure(ordinals.iter().all(|ordinal| found.contains(ordinal)), || {
            format!("job {} is done and has results for queries {found:?} only: {job:?}", job.id)
        })
    }

    /// Every stored result of every sweep is right.
    pub(crate) fn every_result(&mut self, store: &SqliteStore) -> Result<(), String> {
        let sweeps: Vec<SweepId> = self.seen.sweeps.keys().copied().collect();
        for sweep in sweeps {
            let mut after = None;
            loop {
                let page = at_once(store.results(sweep, after.as_ref(), 1))
                    .map_err(|error| format!("the results of sweep {sweep} cannot be read: {error}"))?;
                let Some(point) = page.last else { break };
                self.rows_are_right(sweep, &point, &page.rows)?;
                after = Some(point);
            }
        }
        Ok(())
    }
}
