//! A look at the store's sweeps and jobs.

use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{JobId, JobState, Rung, SweepId, SweepState};
use avsweep_store::{JobFilter, JobRecord, RungCounts, SqliteStore, Store, StoreError, SweepTotals};

/// More jobs than a schedule has.
const EVERY_JOB: u32 = 1_000_000;

/// Every sweep with its jobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    pub(crate) sweeps: BTreeMap<SweepId, SeenSweep>,
}

#[derive(Clone, Debug)]
pub(crate) struct SeenSweep {
    pub(crate) name: String,
    pub(crate) state: SweepState,
    pub(crate) priority: i32,
    pub(crate) totals: SweepTotals,
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
}

/// A job that is not what it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'o> {
    pub(super) sweep: SweepId,
    pub(super) before: Option<&'o JobRecord>,
    pub(super) after: &'o JobRecord,
}

impl Observation {
    pub(super) async fn look(store: &SqliteStore) -> Result<Self, StoreError> {
        let mut sweeps = BTreeMap::new();
        for record in store.sweeps().await? {
            let filter =
                JobFilter { sweep: Some(record.id), states: Vec::new(), after: None, limit: EVERY_JOB };
            let jobs = store.jobs(&filter).await?;
            let seen = SeenSweep {
                name: record.definition.name.clone(),
                state: record.state,
                priority: record.priority,
                totals: store.totals(record.id).await?,
                jobs: jobs.into_iter().map(|job| (job.id, job)).collect(),
            };
            sweeps.insert(record.id, seen);
        }
        Ok(Self { sweeps })
    }

    /// The job with this number.
    pub(super) fn job(&self, id: JobId) -> Option<&JobRecord> {
        self.sweeps.values().find_map(|sweep| sweep.jobs.get(&id))
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = (&SeenSweep, &JobRecord)> {
        self.sweeps.values().flat_map(|sweep| sweep.jobs.values().map(move |job| (sweep, job)))
    }

    /// The jobs that are new or different in a later look, by number.
    pub(super) fn changes<'o>(&'o self, later: &'o Self) -> Vec<Change<'o>> {
        let mut changes = Vec::new();
        for (sweep, seen) in &later.sweeps {
            let before = self.sweeps.get(sweep).map(|sweep| &sweep.jobs);
            for (id, after) in &seen.jobs {
                let before = before.and_then(|jobs| jobs.get(id));
                if before != Some(after) {
                    changes.push(Change { sweep: *sweep, before, after });
                }
            }
        }
        changes
    }
}

impl SeenSweep {
    /// No job goes, and no count of what happened falls.
    pub(super) fn never_shrinks(&self, id: SweepId, later: &Self) -> Result<(), String> {
        if let Some(gone) = self.jobs.keys().find(|job| !later.jobs.contains_key(job)) {
            return Err(format!("job {gone} of sweep {id} is gone"));
        }
        let counts = |totals: &SweepTotals| {
            [totals.points, totals.results, totals.duplicate_results, totals.lost, totals.errors]
        };
        let (before, after) = (counts(&self.totals), counts(&later.totals));
        if before.iter().zip(&after).all(|(before, after)| before <= after) {
            Ok(())
        } else {
            Err(format!("counts of sweep {id} fell from {before:?} to {after:?}"))
        }
    }
}

/// The sums that the store keeps are those of its jobs.
pub(super) fn counts_agree(id: SweepId, sweep: &SeenSweep) -> Result<(), String> {
    let mut counted: BTreeMap<Rung, RungCounts> = BTreeMap::new();
    let mut points = BTreeSet::new();
    let mut distinct = BTreeSet::new();
    let mut holders = BTreeSet::new();
    for job in sweep.jobs.values() {
        let counts = counted.entry(job.job.rung).or_default();
        *match job.state {
            JobState::Ready => &mut counts.ready,
            JobState::Leased => &mut counts.leased,
            JobState::Done => &mut counts.done,
            JobState::Parked => &mut counts.parked,
            JobState::Raced => &mut counts.raced,
        } += 1;
        points.insert(&job.job.point);
        if !distinct.insert((&job.job.point, job.job.rung, job.job.slice)) {
            return Err(format!("job {} of sweep {id} is there twice: {job:?}", job.id));
        }
        if job.state == JobState::Leased {
            holders.insert(&job.worker);
        }
        if (job.state == JobState::Leased) != job.expires.is_some() {
            return Err(format!("job {} is {} and its lease ends at {:?}", job.id, job.state, job.expires));
        }
    }
    let kept = &sweep.totals;
    for (rung, kept) in [
        (Rung::Likelihood, kept.likelihood),
        (Rung::Generation, kept.generation),
        (Rung::Judgement, kept.judgement),
    ] {
        let counted = counted.get(&rung).copied().unwrap_or_default();
        if kept != counted {
            return Err(format!("sweep {id} has {rung} jobs {counted:?}; its sums say {kept:?}"));
        }
    }
    if kept.points != points.len() as u64 || kept.holders as usize != holders.len() {
        return Err(format!(
            "sweep {id} has {} points and {} holders; its sums say {} and {}",
            points.len(),
            holders.len(),
            kept.points,
            kept.holders
        ));
    }
    Ok(())
}
