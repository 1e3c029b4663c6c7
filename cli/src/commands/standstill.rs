//! Why nobody works on a sweep that has jobs to do.

use std::time::{Duration, Instant};

use anyhow::Result;
use avsweep_proto::v1;

use crate::connection::{Connection, Place, explain};

/// How long nobody may hold a job before a watcher is told why: between two jobs that is usual.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether there is something to tell.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// What one who watches a sweep was told of its standing still.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    since: Option<Instant>,
    told: Vec<String>,
}

impl Standstill {
    /// What is new to say after this progress.
    pub(super) async fn news(
        &mut self,
        connection: &Connection,
        place: &Place,
        progress: &v1::SweepProgress,
    ) -> Result<Vec<String>> {
        if !is_standing(place, progress) {
            self.since = None;
            return Ok(Vec::new());
        }
        if self.since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
            return Ok(Vec::new());
        }
        let reasons = reasons(connection, place, progress).await?;
        let news = reasons.iter().filter(|reason| !self.told.contains(reason)).cloned().collect();
        self.told = reasons;
        Ok(news)
    }
}

/// Whether it may stand still, as far as its progress tells: jobs wait and nobody holds one. In a file it may always: what
/// a killed run held stays held.
fn is_standing(place: &Place, progress: &v1::SweepProgress) -> bool {
    progress.state() == v1::SweepState::Running
        && (is_file(place) || (progress.workers == 0 && progress.rungs.iter().any(|rung| rung.ready > 0)))
}

/// Whether it is a store of one process: where that is gone, nobody plans, and nobody takes leases back.
fn is_file(place: &Place) -> bool {
    matches!(place, Place::Store { location, .. } if location.file().is_some())
}

/// What keeps workers and judges from the jobs that wait, a line each, or a whole store from being worked on; nothing while
/// somebody works on the sweep.
pub(super) async fn reasons(
    connection: &Connection,
    place: &Place,
    progress: &v1::SweepProgress,
) -> Result<Vec<String>> {
    if progress.state() != v1::SweepState::Running || (progress.workers > 0 && !is_file(place)) {
        return Ok(Vec::new());
    }
    let wanted = |kind| match kind {
        v1::WorkerKind::Judge => waits(progress, |rung| rung == v1::Rung::Judgement),
        _ => waits(progress, |rung| rung != v1::Rung::Judgement),
    };
    let response = connection.sweeps().list_workers(v1::ListWorkersRequest {}).await.map_err(explain)?;
    let present: Vec<_> = response
        .into_inner()
        .workers
        .into_iter()
        .filter(|worker| !worker.gone)
        .filter_map(|worker| worker.status)
        .filter(|status| status.state() != v1::WorkerState::Stopped)
        .collect();
    if present.is_empty() && is_file(place) {
        return Ok(vec![format!("nobody works on it; 'avsweep run FILE{}' goes on", place.flag())]);
    }
    if progress.workers > 0 {
        return Ok(Vec::new());
    }
    let kinds = [(v1::WorkerKind::Worker, "worker"), (v1::WorkerKind::Judge, "judge")];
    let missing = kinds
        .into_iter()
        .filter(|(kind, _)| wanted(*kind) && !present.iter().any(|status| status.kind() == *kind));
    let problems = present.iter().filter(|status| wanted(status.kind()));
    Ok(missing
        .map(|(_, name)| format!("no {name} is there; 'avsweep {name}' starts one"))
        .chain(problems.filter_map(|status| Some(format!("{}: {}", status.worker, status.problem.as_ref()?))))
        .collect())
}

fn waits(progress: &v1::SweepProgress, of: impl Fn(v1::Rung) -> bool) -> bool {
    progress.rungs.iter().any(|rung| rung.ready > 0 && of(rung.rung()))
}

#[cfg(test)]
mod tests {
    use crate::arguments::StoreLocation;

    use super::*;

    #[test]
    fn held_jobs_hide_no_standstill_where_nobody_takes_leases_back() {
        let place = |text: &str| Place::Store {
            location: text.parse::<StoreLocation>().expect("every text names a store"),
            named: true,
        };
        let (file, served) = (place("sweeps.db"), place("postgres://host/sweeps"));
        let rungs = vec![v1::RungProgress { ready: 1, leased: 1, ..v1::RungProgress::default() }];
        let state = v1::SweepState::Running.into();
        let held = v1::SweepProgress { state, workers: 1, rungs, ..v1::SweepProgress::default() };
        assert!(is_standing(&file, &held) && !is_standing(&served, &held));
        let waiting = v1::SweepProgress { workers: 0, ..held.clone() };
        assert!(is_standing(&file, &waiting) && is_standing(&served, &waiting));
        let done = v1::SweepProgress { state: v1::SweepState::Done.into(), ..held };
        assert!(!is_standing(&file, &done));
    }
}
