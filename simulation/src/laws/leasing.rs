//! Leases: given to one at a time, kept, written under, given back, taken back.

use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{FailureLimits, JobId, JobState, Rung, SweepState};
use avsweep_store::{JobRecord, LeaseClaim, LeaseRef, LeaseStatus, LeasedJob, Report, StoreError, Timestamp};

use super::observation::Observation;
use super::results::query;
use super::{HeldLease, Laws, Ruling, answered, ensure};

/// Whether a job became `wanted`, whatever its worker's name and last error are.
fn became(after: &JobRecord, wanted: &JobRecord) -> Result<(), String> {
    let same = JobRecord { last_error: after.last_error.clone(), ..wanted.clone() };
    ensure(*after == same, || format!("job {} became {after:?}; wanted {wanted:?}", after.id))
}

impl Laws {
    pub(crate) fn leased(
        &mut self,
        claim: &LeaseClaim,
        now: Timestamp,
        answer: &Result<Vec<LeasedJob>, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let leased = answered(answer)?;
        self.no_sweep_changed(seen, None)?;
        ensure(leased.len() <= claim.max_jobs as usize, || format!("{} jobs were given out", leased.len()))?;
        ensure(leased.is_empty() || self.tokens.insert(*claim.token.as_bytes()), || {
            "a token was used twice".to_owned()
        })?;
        let ids: BTreeSet<JobId> = leased.iter().map(|job| job.lease.reference.job).collect();
        ensure(ids.len() == leased.len(), || "a job was given out twice at once".to_owned())?;
        let changes = self.seen.changes(seen);
        for change in &changes {
            let Some(before) = change.before else { return Err(format!("it made job {}", change.after.id)) };
            ensure(before.state == JobState::Ready && claim.rungs.contains(&before.job.rung), || {
                format!("it took job {}, which was {before:?}", before.id)
            })?;
            let worker = Some(claim.worker.clone());
            let wanted = if ids.contains(&before.id) {
                let expires = Some(now.plus(claim.duration));
                JobRecord { state: JobState::Leased, expires, ..before.clone() }
            } else {
                // It lacked nothing.
                JobRecord { state: JobState::Done, ..before.clone() }
            };
            became(change.after, &JobRecord { attempt: before.attempt + 1, worker, ..wanted })?;
        }
        let changed: BTreeSet<JobId> = changes.iter().map(|change| change.after.id).collect();
        ensure(ids.is_subset(&changed), || format!("jobs {ids:?} were given out; {changed:?} changed"))?;
        for job in leased {
            self.lease_is_right(claim, now, job, seen)?;
        }
        self.lease_order_is_right(claim, leased, seen)?;
        Ok(format!("{} asked for {}, got {ids:?}", claim.worker, claim.max_jobs))
    }

    fn lease_is_right(
        &mut self,
        claim: &LeaseClaim,
        now: Timestamp,
        job: &LeasedJob,
        seen: &Observation,
    ) -> Result<(), String> {
        let reference = job.lease.reference;
        let what = || format!("job {} went to '{}'", reference.job, claim.worker);
        let sweep = seen.sweeps.get(&job.sweep).ok_or_else(|| format!("{} of no sweep", what()))?;
        ensure(sweep.state == SweepState::Running, || format!("{}: its sweep is {}", what(), sweep.state))?;
        ensure(!claim.except.contains(&job.sweep), || format!("{}, who cannot do its sweep", what()))?;
        let record = sweep.jobs.get(&reference.job).ok_or_else(|| format!("{}: it is none", what()))?;
        ensure(
            (record.attempt, &record.job.point, record.job.rung) == (reference.attempt, &job.point, job.rung),
            || format!("{} as {job:?}; it is {record:?}", what()),
        )?;
        ensure(!self.leases.contains_key(&reference.job), || format!("{} while it is held", what()))?;
        let definition = self.definition(job.sweep)?;
        let recipe = definition.recipe_fingerprint();
        ensure(!job.ordinals.is_empty() && job.ordinals.is_sorted_by(|left, right| left < right), || {
            format!("{} with queries {:?}", what(), job.ordinals)
        })?;
        for ordinal in &job.ordinals {
            let known = self.acknowledged.has(recipe, &job.point, job.rung, query(&definition, *ordinal)?);
            let foreign = !record.job.slice.ordinals().contains(ordinal);
            ensure(!known && !foreign, || {
                format!("{} for query {ordinal}, known: {known}, foreign: {foreign}", what())
            })?;
        }
        let responses = if job.rung == Rung::Judgement { job.ordinals.len() } else { 0 };
        ensure(job.responses.len() == responses, || {
            format!("{} with {} responses", what(), job.responses.len())
        })?;
        let until = now.plus(claim.duration);
        let held = HeldLease { attempt: reference.attempt, token: claim.token, since: now, until };
        self.leases.insert(reference.job, held);
        Ok(())
    }

    /// Jobs of a higher priority went first, and none came only where none was ready.
    fn lease_order_is_right(
        &self,
        claim: &LeaseClaim,
        leased: &[LeasedJob],
        seen: &Observation,
    ) -> Result<(), String> {
        let lowest =
            leased.iter().filter_map(|job| seen.sweeps.get(&job.sweep)).map(|sweep| sweep.priority).min();
        for (id, sweep) in &seen.sweeps {
            let open = sweep.state == SweepState::Running && !claim.except.contains(id);
            let left = sweep
                .jobs
                .values()
                .find(|job| job.state == JobState::Ready && claim.rungs.contains(&job.job.rung));
            let Some(left) = left.filter(|_| open) else { continue };
            ensure(!leased.is_empty(), || format!("job {} was ready and not given out", left.id))?;
            ensure(lowest.is_none_or(|lowest| sweep.priority <= lowest), || {
                format!("job {} of priority {} was passed over", left.id, sweep.priority)
            })?;
        }
        Ok(())
    }

    pub(crate) fn renewed(
        &mut self,
        leases: &[LeaseRef],
        until: Timestamp,
        now: Timestamp,
        answer: &Result<Vec<LeaseStatus>, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let statuses = answered(answer)?;
        self.no_sweep_changed(seen, None)?;
        ensure(statuses.len() == leases.len(), || format!("{} statuses came", statuses.len()))?;
        for (lease, status) in leases.iter().zip(statuses) {
            let held = self.is_held(lease, now);
            ensure(held == (*status == LeaseStatus::Held), || {
                format!("the lease of job {} is {status:?}; held: {held}", lease.job)
            })?;
            if let Some(held) = self.leases.get_mut(&lease.job).filter(|_| held) {
                held.until = until;
            }
        }
        for change in self.seen.changes(seen) {
            let renewed = leases.iter().any(|lease| lease.job == change.after.id);
            let Some(before) = change.before.filter(|_| renewed) else {
                return Err(format!("it changed {:?}", change.after));
            };
            became(change.after, &JobRecord { expires: Some(until), ..before.clone() })?;
        }
        Ok(format!("{:?}", leases.iter().map(|lease| lease.job.0).zip(statuses).collect::<Vec<_>>()))
    }

    pub(crate) fn reported(
        &mut self,
        report: &Report,
        now: Timestamp,
        answer: &Result<LeaseStatus, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let status = *answered(answer)?;
        let (lease, finished) = (&report.lease, report.finished);
        let held = self.is_held(lease, now);
        ensure(held == (status == LeaseStatus::Held), || {
            format!("the lease of job {}, attempt {}, is {status:?}; held: {held}", lease.job, lease.attempt)
        })?;
        let text = format!("job {} attempt {} finished: {finished}: {status:?}", lease.job, lease.attempt);
        let record = seen.job(lease.job).ok_or_else(|| format!("there is no job {}", lease.job))?.clone();
        self.touched.push((record.sweep, record.job.point.clone()));
        if !held {
            self.nothing_changed(seen)?;
            return Ok(text);
        }
        self.no_sweep_changed(seen, None)?;
        for change in self.seen.changes(seen) {
            let Some(before) = change.before.filter(|before| before.id == lease.job) else {
                return Err(format!("it changed {:?}", change.after));
            };
            let lost = if change.after.lost == 0 { 0 } else { before.lost };
            let wanted = JobRecord { lost, ..before.clone() };
            let wanted =
                if finished { JobRecord { state: JobState::Done, expires: None, ..wanted } } else { wanted };
            became(change.after, &wanted)?;
        }
        ensure(!finished || record.state == JobState::Done, || {
            format!("job {} is not done after its last report", lease.job)
        })?;
        if finished {
            self.leases.remove(&lease.job);
        }
        self.acknowledge(record.sweep, &record, report)?;
        Ok(text)
    }

    pub(crate) fn closed_raced(
        &mut self,
        lease: &LeaseRef,
        now: Timestamp,
        answer: &Result<LeaseStatus, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let status = *answered(answer)?;
        let held = self.is_held(lease, now);
        let text = format!("job {} attempt {}: {status:?}", lease.job, lease.attempt);
        ensure(held == (status == LeaseStatus::Held), || format!("{text}; held: {held}"))?;
        if !held {
            self.nothing_changed(seen)?;
            return Ok(text);
        }
        self.no_sweep_changed(seen, None)?;
        let place = |job: &JobRecord| (job.sweep, job.job.point.clone());
        let here = seen.job(lease.job).map(place);
        let changes = self.seen.changes(seen);
        for change in &changes {
            let open = |before: &&JobRecord| matches!(before.state, JobState::Ready | JobState::Leased);
            let Some(before) = change.before.filter(open).filter(|before| Some(place(before)) == here) else {
                return Err(format!("it changed {:?}", change.after));
            };
            became(change.after, &JobRecord { state: JobState::Raced, expires: None, ..before.clone() })?;
        }
        let closed: BTreeSet<JobId> = changes.iter().map(|change| change.after.id).collect();
        ensure(closed.contains(&lease.job), || format!("{text}; closed: {closed:?}"))?;
        self.leases.retain(|job, _| !closed.contains(job));
        Ok(format!("{text}, closed {closed:?}"))
    }

    pub(crate) fn released(
        &mut self,
        leases: &[LeaseRef],
        now: Timestamp,
        answer: &Result<(), StoreError>,
        seen: &Observation,
    ) -> Ruling {
        answered(answer)?;
        self.no_sweep_changed(seen, None)?;
        let held: BTreeSet<JobId> =
            leases.iter().filter(|lease| self.is_held(lease, now)).map(|lease| lease.job).collect();
        let changes = self.seen.changes(seen);
        let changed: BTreeSet<JobId> = changes.iter().map(|change| change.after.id).collect();
        ensure(changed == held, || format!("{held:?} were held, {changed:?} changed"))?;
        for change in changes {
            if let Some(before) = change.before {
                became(change.after, &JobRecord { state: JobState::Ready, expires: None, ..before.clone() })?;
            }
        }
        self.leases.retain(|job, _| !held.contains(job));
        Ok(format!("{held:?}"))
    }

    pub(crate) fn failed(
        &mut self,
        lease: &LeaseRef,
        limits: FailureLimits,
        now: Timestamp,
        answer: &Result<LeaseStatus, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let status = *answered(answer)?;
        let held = self.is_held(lease, now);
        let text = format!("job {} attempt {}: {status:?}", lease.job, lease.attempt);
        ensure(held == (status == LeaseStatus::Held), || format!("{text}; held: {held}"))?;
        if !held {
            self.nothing_changed(seen)?;
            return Ok(text);
        }
        self.no_sweep_changed(seen, None)?;
        self.leases.remove(&lease.job);
        let changes = self.seen.changes(seen);
        let [change] = changes.as_slice() else { return Err(format!("it changed {} jobs", changes.len())) };
        let Some(before) = change.before.filter(|before| before.id == lease.job) else {
            return Err(format!("it changed {:?}", change.after));
        };
        let errors = before.errors + 1;
        let state = limits.after_failure(before.lost, errors);
        became(change.after, &JobRecord { state, errors, expires: None, ..before.clone() })?;
        Ok(text)
    }

    pub(crate) fn reaped(
        &mut self,
        limits: FailureLimits,
        now: Timestamp,
        answer: &Result<u64, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let count = *answered(answer)?;
        self.no_sweep_changed(seen, None)?;
        let expired: BTreeSet<JobId> = self
            .seen
            .jobs()
            .filter(|(_, job)| job.expires.is_some_and(|expires| expires < now))
            .map(|(_, job)| job.id)
            .collect();
        let changes = self.seen.changes(seen);
        let changed: BTreeSet<JobId> = changes.iter().map(|change| change.after.id).collect();
        ensure(changed == expired && count == expired.len() as u64, || {
            format!("{expired:?} had expired; {changed:?} changed, and {count} were counted")
        })?;
        // Of every worker's leases the first is counted: the one it was on.
        let age = |job: &JobRecord| {
            let since = self.leases.get(&job.id).map(|held| held.since);
            (since, -job.job.priority, job.id)
        };
        let mut first = BTreeMap::new();
        for before in changes.iter().filter_map(|change| change.before) {
            let oldest = first.entry(before.worker.clone()).or_insert_with(|| age(before));
            *oldest = age(before).min(*oldest);
        }
        for change in &changes {
            if let Some(before) = change.before {
                let blamed = first.get(&before.worker) == Some(&age(before));
                let lost = before.lost + u32::from(blamed);
                let state = if blamed { limits.after_failure(lost, before.errors) } else { JobState::Ready };
                became(change.after, &JobRecord { state, lost, expires: None, ..before.clone() })?;
            }
        }
        let late = self.leases.iter().find(|(job, held)| expired.contains(job) && held.until >= now);
        ensure(late.is_none(), || format!("{late:?} was taken back early"))?;
        self.leases.retain(|job, _| !expired.contains(job));
        Ok(format!("{expired:?}"))
    }
}
