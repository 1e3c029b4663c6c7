//! Jobs that want more memory than is here: left to others first, and failed once they come back undone.

use std::collections::BTreeMap;
use std::time::Duration;

use avsweep_domain::SweepId;
use tokio::time::Instant;

/// After so long it may be that a larger worker has come.
const ALONE: Duration = Duration::from_secs(60 * 60);

/// What this worker knows of the sweeps with such jobs.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    sweeps: BTreeMap<SweepId, Shortage>,
}

#[derive(Debug)]
enum Shortage {
    /// These jobs were left to others, and when.
    Left(BTreeMap<i64, Instant>),
    /// One that was left came back undone: no job of the sweep is left to others, up to this time.
    Alone(Instant),
}

impl Shortages {
    /// Whether a job that does not fit here is left to others, with its sweep, for a while. If not, it has failed. Jobs
    /// that are given back are the first to be leased again, so nobody larger was free for one that comes back: either
    /// nobody is there, or all were busy for the whole while. From here both look the same.
    pub(super) fn leaves(&mut self, sweep: SweepId, job: i64) -> bool {
        let now = Instant::now();
        let shortage = self.sweeps.entry(sweep).or_insert_with(|| Shortage::Left(BTreeMap::new()));
        match shortage {
            Shortage::Alone(until) if *until > now => return false,
            Shortage::Alone(_) => *shortage = Shortage::Left([(job, now)].into()),
            Shortage::Left(jobs) => {
                // One that was left long ago may have been lost by another since.
                if jobs.insert(job, now).is_some_and(|left| now < left + ALONE) {
                    *shortage = Shortage::Alone(now + ALONE);
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn jobs_are_left_until_one_comes_back_and_again_when_others_may_have_come() {
        let (mut shortages, sweep) = (Shortages::default(), SweepId(1));
        assert!(shortages.leaves(sweep, 1) && shortages.leaves(sweep, 2));
        assert!(!shortages.leaves(sweep, 1));
        // Nobody else took it: the next job need not be left as well.
        assert!(!shortages.leaves(sweep, 3));
        assert!(shortages.leaves(SweepId(2), 3));
        tokio::time::advance(ALONE).await;
        assert!(shortages.leaves(sweep, 3) && !shortages.leaves(sweep, 3));
        tokio::time::advance(ALONE).await;
        assert!(shortages.leaves(sweep, 4));
        tokio::time::advance(ALONE).await;
        assert!(shortages.leaves(sweep, 4), "somebody else may have lost it");
    }
}
