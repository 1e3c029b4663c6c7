//! Whose jobs a claim takes: the order of sweeps.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use avsweep_domain::{Fingerprint, LeaseToken, SweepId};

use crate::LeaseClaim;

/// A running sweep that has ready jobs of the rungs claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) sweep: SweepId,
    pub(crate) priority: i32,
    /// Its leased jobs of the rungs claimed.
    pub(crate) leased: u64,
}

/// The sweeps that a claim takes jobs from, first to last (see [`crate::Store::lease`]).
///
/// The same in every form of the store: the database says what there is, this decides.
pub(crate) fn order(claim: &LeaseClaim, mut candidates: Vec<Candidate>) -> Vec<SweepId> {
    candidates.retain(|candidate| !claim.except.contains(&candidate.sweep));
    candidates.sort_by_cached_key(|candidate| {
        (
            Reverse(candidate.priority),
            claim.prefers != Some(candidate.sweep),
            candidate.leased,
            draw(claim.token, candidate.sweep),
        )
    });
    candidates.into_iter().map(|candidate| candidate.sweep).collect()
}

/// A candidate with what there is to take of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) candidate: Candidate,
    /// Its ready jobs of the rungs claimed.
    pub(crate) ready: u64,
}

/// What a claim among several gets of a sweep: its ready jobs, in the order in which they are given out, from the one
/// after the `first` to the `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Which of the claims.
    pub(crate) claim: usize,
    pub(crate) sweep: SweepId,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// Deals several claims of the same rungs what they would get one after the other, in order.
pub(crate) fn deal(claims: &[&LeaseClaim], mut standings: Vec<Standing>) -> Vec<Share> {
    let mut shares = Vec::new();
    let mut given: BTreeMap<SweepId, u64> = BTreeMap::new();
    for (index, claim) in claims.iter().enumerate() {
        let mut wanted = u64::from(claim.max_jobs);
        let candidates = standings.iter().filter(|standing| standing.ready > 0);
        for sweep in order(claim, candidates.map(|standing| standing.candidate).collect()) {
            let Some(standing) = standings.iter_mut().find(|standing| standing.candidate.sweep == sweep)
            else {
                continue;
            };
            let taken = wanted.min(standing.ready);
            if taken == 0 {
                break;
            }
            standing.ready -= taken;
            standing.candidate.leased += taken;
            wanted -= taken;
            let given = given.entry(sweep).or_default();
            shares.push(Share { claim: index, sweep, first: *given, last: *given + taken });
            *given += taken;
        }
    }
    shares
}

/// A number that depends on the claim and the sweep alone: a claim finds the same order again, others find others.
pub(crate) fn draw(token: LeaseToken, sweep: SweepId) -> [u8; 32] {
    let mut content = [0; 24];
    content[..16].copy_from_slice(token.as_bytes());
    content[16..].copy_from_slice(&sweep.0.to_le_bytes());
    *Fingerprint::of(&content).as_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use avsweep_domain::{Rung, WorkerId};

    use super::*;

    fn claim(seed: u8) -> LeaseClaim {
        LeaseClaim {
            worker: WorkerId("w".to_owned()),
            rungs: vec![Rung::Likelihood],
            max_jobs: 1,
            duration: Duration::from_secs(1),
            token: LeaseToken::from_bytes([seed; 16]),
            except: vec![SweepId(9)],
            prefers: Some(SweepId(3)),
        }
    }

    fn candidate(sweep: i64, priority: i32, leased: u64) -> Candidate {
        Candidate { sweep: SweepId(sweep), priority, leased }
    }

    #[test]
    fn priority_then_preference_then_the_smaller_share_decide() {
        let candidates = vec![
            candidate(1, 0, 4),
            candidate(2, 0, 2),
            candidate(3, 0, 7),
            candidate(4, 5, 90),
            candidate(9, 9, 0),
        ];
        assert_eq!(order(&claim(1), candidates), [4, 3, 2, 1].map(SweepId));
    }

    #[test]
    fn several_claims_get_what_they_would_one_after_the_other() {
        let standing = |sweep, priority, leased, ready| Standing {
            candidate: candidate(sweep, priority, leased),
            ready,
        };
        let asking = |max_jobs, prefers: Option<i64>| LeaseClaim {
            max_jobs,
            prefers: prefers.map(SweepId),
            ..claim(1)
        };
        let claims = [asking(2, None), asking(1, None), asking(3, Some(3)), asking(9, None), asking(1, None)];
        // One of a higher priority with little left; two of equal priority, of which one is behind by two jobs.
        let standings = vec![standing(1, 5, 40, 1), standing(2, 0, 0, 5), standing(3, 0, 2, 5)];
        let share = |claim, sweep, first, last| Share { claim, sweep: SweepId(sweep), first, last };
        assert_eq!(
            deal(&claims.iter().collect::<Vec<_>>(), standings),
            [
                share(0, 1, 0, 1),
                share(0, 2, 0, 1),
                share(1, 2, 1, 2),
                share(2, 3, 0, 3),
                share(3, 2, 2, 5),
                share(3, 3, 3, 5),
            ]
        );
        assert_eq!(deal(&claims.iter().collect::<Vec<_>>(), Vec::new()), []);
    }

    #[test]
    fn equal_shares_are_drawn_by_the_claim() {
        let firsts: std::collections::HashSet<_> = (0..64)
            .filter_map(|seed| {
                let claim = LeaseClaim { prefers: None, ..claim(seed) };
                let found = order(&claim, (1..=4).map(|sweep| candidate(sweep, 0, 3)).collect());
                assert_eq!(order(&claim, (1..=4).rev().map(|sweep| candidate(sweep, 0, 3)).collect()), found);
                found.first().copied()
            })
            .collect();
        assert_eq!(firsts.len(), 4);
    }
}
