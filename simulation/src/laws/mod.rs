//! The laws, checked after every step.
//!
//! They hold the store against a model of what its answers promised: who holds which lease until when, which results
//! were acknowledged, who may plan. The model is made of the calls and their answers alone, so a store, coordinator or
//! planner that breaks its word is caught at the step in which it does.

mod leasing;
mod observation;
mod planning;
mod results;
mod searching;
mod sweeps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use avsweep_domain::{FailureLimits, JobId, JobState, LeaseToken, Point, SweepDefinition, SweepId};
use avsweep_store::{JobRecord, LeaseRef, SqliteStore, StoreError, Timestamp};

pub(crate) use observation::Observation;
use observation::{Change, counts_agree};
use results::Acknowledged;

use crate::store::at_once;

/// What happened, for the log; or which law it broke.
pub(crate) type Ruling = Result<String, String>;

/// Steps between two looks at every stored result.
const WHOLE_LOOK: u64 = 50;

/// What the answers so far have promised.
#[derive(Debug)]
pub(crate) struct Laws {
    limits: FailureLimits,
    definitions: BTreeMap<SweepId, Arc<SweepDefinition>>,
    seen: Arc<Observation>,
    /// The rows that the database had changed at that look.
    changed: u64,
    leases: BTreeMap<JobId, HeldLease>,
    tokens: BTreeSet<[u8; 16]>,
    planners: BTreeMap<SweepId, Planner>,
    /// The strategy's points planned so far, in its order.
    proposed: BTreeMap<SweepId, Vec<Point>>,
    acknowledged: Acknowledged,
    /// Jobs that were parked at some time.
    parked: u64,
    steps: u64,
    /// Points whose results the step at hand may have changed.
    touched: Vec<(SweepId, Point)>,
}

#[derive(Clone, Copy, Debug)]
struct HeldLease {
    attempt: u32,
    token: LeaseToken,
    /// When it was given out.
    since: Timestamp,
    until: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Planner {
    holder: LeaseToken,
    term: u64,
    until: Timestamp,
}

impl Laws {
    pub(crate) fn new(limits: FailureLimits) -> Self {
        Self {
            limits,
            definitions: BTreeMap::new(),
            seen: Arc::default(),
            changed: 0,
            leases: BTreeMap::new(),
            tokens: BTreeSet::new(),
            planners: BTreeMap::new(),
            proposed: BTreeMap::new(),
            acknowledged: Acknowledged::default(),
            parked: 0,
            steps: 0,
            touched: Vec::new(),
        }
    }

    /// How often a job was parked.
    pub(crate) fn parked(&self) -> u64 {
        self.parked
    }

    /// Once nothing is open, nobody holds anything.
    pub(crate) fn no_lease_is_left(&self) -> Result<(), String> {
        ensure(self.leases.is_empty(), || format!("leases are left: {:?}", self.leases))
    }

    /// The latest look.
    pub(crate) fn seen(&self) -> &Observation {
        &self.seen
    }

    /// Steps checked.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Looks at the store after a step, has `law` judge what the step changed, and checks what must always hold.
    pub(crate) fn after_step(
        &mut self,
        store: &SqliteStore,
        law: impl FnOnce(&mut Self, &Observation) -> Ruling,
    ) -> Ruling {
        let failed = |error| format!("the store failed: {error}");
        let changed = at_once(store.changed_rows()).map_err(failed)?;
        let text = if changed == self.changed {
            // Nothing is written, by the database's own word: what there is to see is what was seen.
            let now = Arc::clone(&self.seen);
            law(self, &now)?
        } else {
            let now = Arc::new(at_once(Observation::look(store)).map_err(failed)?);
            let text = law(self, &now)?;
            self.always(store, &now)?;
            (self.changed, self.seen) = (changed, now);
            text
        };
        self.steps += 1;
        for (sweep, point) in std::mem::take(&mut self.touched) {
            self.point_is_right(store, sweep, &point)?;
        }
        if self.steps.is_multiple_of(WHOLE_LOOK) {
            self.every_result(store)?;
        }
        Ok(text)
    }

    /// What holds whatever the step was.
    fn always(&mut self, store: &SqliteStore, now: &Observation) -> Result<(), String> {
        for (id, sweep) in &now.sweeps {
            counts_agree(*id, sweep)?;
            let before = self.seen.sweeps.get(id);
            if let Some(before) = before {
                before.never_shrinks(*id, sweep)?;
            }
        }
        let mut parked = 0;
        for change in self.seen.changes(now) {
            let Change { sweep, after, before } = change;
            if after.state == JobState::Done && before.is_none_or(|before| before.state != JobState::Done) {
                self.is_complete(store, sweep, after)?;
            }
            if after.state == JobState::Parked && before.is_some_and(|before| before.state != after.state) {
                parked += 1;
            }
            self.is_parked_rightly(after)?;
        }
        self.parked += parked;
        Ok(())
    }

    fn is_parked_rightly(&self, job: &JobRecord) -> Result<(), String> {
        let over = self.limits.after_failure(job.lost, job.errors) == JobState::Parked;
        let rightly = match job.state {
            JobState::Parked => over,
            JobState::Ready | JobState::Leased => !over,
            JobState::Done | JobState::Raced => true,
        };
        if rightly { Ok(()) } else { Err(format!("job {} is wrongly {}: {job:?}", job.id, job.state)) }
    }

    fn definition(&self, sweep: SweepId) -> Result<Arc<SweepDefinition>, String> {
        self.definitions.get(&sweep).cloned().ok_or_else(|| format!("sweep {sweep} came from nowhere"))
    }

    /// Whether a lease is held, by the answers so far.
    fn is_held(&self, lease: &LeaseRef, now: Timestamp) -> bool {
        self.leases.get(&lease.job).is_some_and(|held| {
            held.attempt == lease.attempt && held.token == lease.token && now <= held.until
        })
    }

    /// The step changed no job and no sweep.
    fn nothing_changed(&self, now: &Observation) -> Result<(), String> {
        match self.seen.changes(now).first() {
            Some(change) => Err(format!("it changed job {}: {change:?}", change.after.id)),
            None => self.no_sweep_changed(now, None),
        }
    }

    /// No sweep but this one changed its state or priority, came or went.
    fn no_sweep_changed(&self, now: &Observation, except: Option<SweepId>) -> Result<(), String> {
        let plain = |observation: &Observation| -> Vec<_> {
            let others = observation.sweeps.iter().filter(|(id, _)| Some(**id) != except);
            others.map(|(id, sweep)| (*id, sweep.state, sweep.priority)).collect()
        };
        let (before, after) = (plain(&self.seen), plain(now));
        if before == after { Ok(()) } else { Err(format!("sweeps changed: {before:?} to {after:?}")) }
    }
}

/// A call that must not fail.
fn answered<T>(answer: &Result<T, StoreError>) -> Result<&T, String> {
    answer.as_ref().map_err(|error| format!("failed: {error}"))
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}
