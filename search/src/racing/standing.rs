//! Who is ahead in a race: the best values so far, by target.

use avsweep_domain::{Level, Normalisation, Point, PointTallies, Reading};

use super::{Asked, Race};
use crate::problem::{History, Problem};

/// By how much a value must fall short to be out of reach: a point that ties is kept, for ties are decided otherwise.
const SHORT: f64 = 1e-9;

/// The best values of every target among the points measured in full.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    wants: Vec<Vec<Option<Level>>>,
    /// How many leaders a target has.
    places: usize,
    /// Per target, the best first.
    leaders: Vec<Vec<(f64, Point)>>,
}

impl Standing {
    /// Nobody is measured yet. `places`: a point stays in the race while it can be among so many leaders of a target.
    pub fn new(problem: &Problem, places: usize) -> Self {
        let wants = problem.wants(&History::default());
        let leaders = vec![Vec::new(); wants.len()];
        Self { wants, places: places.max(1), leaders }
    }

    /// Takes in a point; one that is not measured in full, or is known, changes nothing.
    pub fn add(&mut self, problem: &Problem, tallies: &PointTallies) {
        let Some(rates) = rates(problem, tallies) else {
            return;
        };
        for (wanted, leaders) in self.wants.iter().zip(&mut self.leaders) {
            let value = problem.value(wanted, &rates);
            if leaders.iter().any(|(_, point)| *point == tallies.point) {
                continue;
            }
            let place = leaders.partition_point(|(other, _)| *other >= value);
            if place < self.places {
                leaders.truncate(self.places - 1);
                leaders.insert(place, (value, tallies.point.clone()));
            }
        }
    }

    /// Takes in what another standing of the same race knows.
    pub fn merge(&mut self, other: Self) {
        for (leaders, others) in self.leaders.iter_mut().zip(other.leaders) {
            for (value, point) in others {
                if leaders.iter().any(|(_, known)| *known == point) {
                    continue;
                }
                let place = leaders.partition_point(|(known, _)| *known >= value);
                if place < self.places {
                    leaders.truncate(self.places - 1);
                    leaders.insert(place, (value, point));
                }
            }
        }
    }

    /// Whether a point of which this was asked can be among no target's leaders, but with the race's error.
    pub fn is_out_of_reach(&self, race: &Race<'_>, asked: &[Asked]) -> bool {
        let bars: Vec<f64> = self
            .leaders
            .iter()
            .map(|leaders| leaders.get(self.places - 1).map_or(f64::NEG_INFINITY, |(value, _)| value - SHORT))
            .collect();
        race.is_out_of_reach(asked, &self.wants, &bars)
    }
}

/// The rates (`domains × levels`) that a point is ranked by; `None` unless all its search queries are scored.
fn rates(problem: &Problem, tallies: &PointTallies) -> Option<Vec<f64>> {
    let mut rates = Vec::with_capacity(problem.domains().len() * problem.levels());
    for (domain, shape) in problem.domains().iter().enumerate() {
        let (counts, n) = tallies.search.counts(Reading::Likelihood(Normalisation::Mean), domain)?;
        if n as usize != shape.queries || counts.len() != problem.levels() {
            return None;
        }
        rates.extend(counts.iter().map(|count| f64::from(*count) / f64::from(n.max(1))));
    }
    Some(rates)
}

#[cfg(test)]
mod tests {
    use avsweep_domain::Racing;

    use super::*;
    use crate::fixture::{definition, point_tallies};

    const RULE: Racing = Racing { block: 2, error: 0.0, seed: 0 };

    fn asked(counts: [[u32; 3]; 2]) -> Vec<Asked> {
        counts.map(|counts| Asked { queries: counts.iter().sum(), counts: counts.to_vec() }).to_vec()
    }

    /// Points that are at one level throughout: every target's best value is 1.
    fn perfect(problem: &Problem) -> Standing {
        let mut standing = Standing::new(problem, 1);
        for number in 0..9 {
            let mut counts = [[0; 3]; 2];
            counts[0][number / 3] = 10;
            counts[1][number % 3] = 10;
            standing.add(problem, &point_tallies(number as i64 + 1, &[number as i32, 0], &counts));
        }
        standing
    }

    #[test]
    fn a_point_that_can_still_tie_stays_in_the_race() {
        let problem = Problem::of(&definition(2, 10, 5));
        let race = Race::new(&problem, RULE).expect("a rule");
        let standing = perfect(&problem);
        assert!(!standing.is_out_of_reach(&race, &asked([[0, 2, 0], [2, 0, 0]])));
        assert!(standing.is_out_of_reach(&race, &asked([[0, 1, 1], [2, 0, 0]])));
        let nobody = Standing::new(&problem, 1);
        assert!(!nobody.is_out_of_reach(&race, &asked([[1, 1, 1], [1, 1, 1]])));
    }

    #[test]
    fn with_several_places_the_last_of_them_is_what_must_be_reached() {
        let problem = Problem::of(&definition(2, 10, 5));
        let race = Race::new(&problem, RULE).expect("a rule");
        let mut standing = Standing::new(&problem, 2);
        let mut again = Standing::new(&problem, 2);
        for number in 0..9 {
            let mut counts = [[0; 3]; 2];
            counts[0][number / 3] = 10;
            counts[1][number % 3] = 10;
            let point = |x| point_tallies(number as i64 + 1, &[number as i32, x], &counts);
            // The same point twice takes one place.
            standing.add(&problem, &point(0));
            standing.add(&problem, &point(0));
            again.add(&problem, &point(1));
        }
        let middling = asked([[0, 1, 1], [2, 0, 0]]);
        assert!(!standing.is_out_of_reach(&race, &middling));
        standing.merge(again.clone());
        standing.merge(again);
        assert!(standing.is_out_of_reach(&race, &middling));
    }

    #[test]
    fn a_partly_measured_point_leads_nothing() {
        let problem = Problem::of(&definition(2, 10, 5));
        let mut standing = Standing::new(&problem, 1);
        let partly = point_tallies(1, &[1, 0], &[[3, 0, 0], [10, 0, 0]]);
        standing.add(&problem, &partly);
        assert_eq!(standing, Standing::new(&problem, 1));
    }
}
