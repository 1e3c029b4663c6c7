//! What a strategy that decides from results has seen of its sweep.

use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{Point, Strategy, SweepDefinition};
use avsweep_search::SearchRung;
use avsweep_search::strategy::{Decision, History, Measured, Problem, Waves};
use avsweep_store::{Choice, RungCounts, SearchPoint, SearchState, SweepTotals};

/// Whether a strategy's points depend on results: then they are chosen one by one, as workers become free.
pub(crate) fn is_adaptive(strategy: &Strategy) -> bool {
    match strategy {
        Strategy::Hierarchical(_) | Strategy::Bayesian(_) => true,
        Strategy::Grid | Strategy::Random(_) | Strategy::Sobol(_) => false,
    }
}

/// Jobs of a sweep that are done or raced, and those that are parked. While no count changes, no point's state does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Closed([(u64, u64); 3]);

impl Closed {
    pub(super) fn of(totals: &SweepTotals) -> Self {
        let closed = |counts: &RungCounts| (counts.done, counts.raced + counts.parked);
        Self([closed(&totals.likelihood), closed(&totals.generation), closed(&totals.judgement)])
    }
}

/// What a strategy said when it had no more points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It wants results first.
    Waits,
    /// It has nothing more to propose.
    Finished,
}

/// What was measured at a point.
#[derive(Clone, Debug, PartialEq)]
struct Measurement {
    log_probs: Vec<f32>,
    judged: Option<Vec<u32>>,
}

/// The proposed points and what came of them; a copy of what the store has, which can be forgotten at any time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    measured: BTreeMap<Point, Measurement>,
    pending: BTreeSet<Point>,
    given_up: BTreeSet<Point>,
    /// Given up too, for good.
    raced: BTreeSet<Point>,
    pub(super) waves: Waves,
    /// The counts before the store was last read.
    pub(super) at: Closed,
    /// What the strategy said about just this.
    pub(super) rest: Option<Rest>,
}

impl Seen {
    /// Points that may still change.
    pub(super) fn unsettled(&self) -> Vec<Point> {
        self.pending.union(&self.given_up).cloned().collect()
    }

    /// Takes in what the store says of some points, as it was at these counts or later.
    pub(super) fn learn(&mut self, points: Vec<SearchPoint>, at: Closed) {
        self.at = at;
        for SearchPoint { point, state } in points {
            let (was_pending, was_given_up) = (self.pending.remove(&point), self.given_up.remove(&point));
            let is_given_up = matches!(state, SearchState::GivenUp | SearchState::Raced);
            let is_news = match state {
                SearchState::Pending => {
                    self.pending.insert(point);
                    !was_pending
                }
                SearchState::GivenUp => {
                    self.given_up.insert(point);
                    !was_given_up
                }
                SearchState::Raced => self.raced.insert(point),
                SearchState::Measured { log_probs, judged } => {
                    self.measured.insert(point, Measurement { log_probs, judged });
                    true
                }
            };
            if is_news {
                self.rest = None;
                if was_given_up || is_given_up {
                    self.waves.forget();
                }
            }
        }
    }

    /// The strategy's next points, at most `limit`, by what was seen; and what is then left of its wave.
    pub(super) fn decide(&self, definition: &SweepDefinition, limit: usize) -> (Decision, Waves) {
        let problem = Problem::of(definition);
        // Where points are chosen by likelihoods, verdicts come at any time and decide nothing.
        let by_verdicts = problem.rung() == SearchRung::Judgement;
        let measured: Vec<_> = self
            .measured
            .iter()
            .map(|(point, measurement)| Measured {
                point,
                log_probs: &measurement.log_probs,
                judged: measurement.judged.as_deref().filter(|_| by_verdicts),
            })
            .collect();
        let (pending, given_up): (Vec<_>, Vec<_>) =
            (self.pending.iter().cloned().collect(), self.never_measured());
        let history = History {
            proposed: self.proposed(),
            measured: &measured,
            pending: &pending,
            given_up: &given_up,
        };
        let mut waves = self.waves.clone();
        (waves.next_points(&problem, &history, limit), waves)
    }

    /// The record of a decision from what was seen.
    pub(super) fn choice(&self, limit: usize, points: Vec<Point>) -> Choice {
        Choice {
            proposed: self.proposed(),
            asked: u32::try_from(limit).unwrap_or(u32::MAX),
            pending: self.pending.iter().cloned().collect(),
            given_up: self.never_measured(),
            points,
        }
    }

    /// Takes in points that were just planned.
    pub(super) fn planned(&mut self, points: Vec<Point>) {
        self.pending.extend(points);
        self.rest = None;
    }

    fn never_measured(&self) -> Vec<Point> {
        self.given_up.union(&self.raced).cloned().collect()
    }

    fn proposed(&self) -> u64 {
        (self.measured.len() + self.pending.len() + self.given_up.len() + self.raced.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::{HierarchicalSettings, Ticks};

    use super::*;
    use crate::planner::step::tests::usual;

    fn at(ticks: i32, state: SearchState) -> SearchPoint {
        SearchPoint { point: Point::new(vec![Ticks::new(ticks)]), state }
    }

    fn measured() -> SearchState {
        SearchState::Measured { log_probs: vec![-1.0], judged: None }
    }

    #[test]
    fn a_parked_point_that_is_tried_again_is_pending_and_then_measured() {
        let mut seen = Seen::default();
        for (state, left) in
            [(SearchState::Pending, 1), (SearchState::GivenUp, 1), (SearchState::Pending, 1), (measured(), 0)]
        {
            seen.rest = Some(Rest::Waits);
            seen.learn(vec![at(1, state)], Closed::default());
            assert_eq!((seen.rest, seen.proposed(), seen.unsettled().len()), (None, 1, left));
        }
    }

    #[test]
    fn a_raced_point_counts_as_given_up_and_is_not_looked_at_again() {
        let mut seen = Seen::default();
        seen.learn(vec![at(1, SearchState::Pending)], Closed::default());
        seen.rest = Some(Rest::Waits);
        seen.learn(vec![at(1, SearchState::Raced)], Closed::default());
        assert_eq!((seen.rest, seen.proposed(), seen.unsettled().len()), (None, 1, 0));
        assert_eq!(seen.choice(1, Vec::new()).given_up.len(), 1);
    }

    #[test]
    fn what_is_left_of_a_wave_is_forgotten_once_when_a_point_is_given_up_or_wanted_again() {
        let strategy = Strategy::Hierarchical(HierarchicalSettings::default());
        let definition = SweepDefinition { strategy, ..usual() };
        let mut seen = Seen::default();
        let (_, wave) = seen.decide(&definition, 1);
        assert_ne!(wave, Waves::default());
        for (point, state, forgets) in [
            (1, SearchState::Pending, false),
            (1, SearchState::GivenUp, true),
            (1, SearchState::GivenUp, false),
            (1, SearchState::Pending, true),
            (1, SearchState::Pending, false),
            (1, SearchState::GivenUp, true),
            (1, measured(), true),
            (2, SearchState::Pending, false),
            (2, SearchState::Raced, true),
            (2, SearchState::Raced, false),
            (3, measured(), false),
        ] {
            seen.waves = wave.clone();
            seen.learn(vec![at(point, state.clone())], Closed::default());
            assert_eq!(seen.waves == Waves::default(), forgets, "point {point}: {state:?}");
        }
    }

    #[test]
    fn what_the_strategy_said_stands_until_a_point_changes() {
        let mut seen = Seen::default();
        seen.learn(
            vec![at(1, measured()), at(2, SearchState::Pending), at(3, SearchState::GivenUp)],
            Closed::default(),
        );
        seen.rest = Some(Rest::Finished);
        // Jobs on other queries were closed.
        let later = Closed([(9, 0); 3]);
        seen.learn(vec![at(2, SearchState::Pending), at(3, SearchState::GivenUp)], later);
        assert_eq!((seen.rest, seen.at), (Some(Rest::Finished), later));
        let record = seen.choice(1, Vec::new());
        assert_eq!((record.proposed, record.pending.len(), record.given_up.len()), (3, 1, 1));
    }
}
