//! The best point for each target, with everything that is known of it.

use avsweep_domain::{
    Aggregate, Level, LevelRate, Point, PointId, PointTallies, QuerySet, Reading, SetTallies,
    SweepDefinition, Target,
};

use crate::{Ranking, SearchError};

/// A target's best point.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The target.
    pub target: Target,
    /// Its best point; `None` when no point has been measured in full.
    pub best: Option<BestPoint>,
}

/// A point with the rates that a target asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct BestPoint {
    /// The point's id in the store.
    pub id: PointId,
    /// The point.
    pub point: Point,
    /// One entry per domain, in the sweep's order.
    pub domains: Vec<DomainAnswer>,
    /// Aggregate on the search queries, which the point was chosen by.
    pub search: f64,
    /// Aggregate on the reported queries; `None` while a wanted domain has no result there.
    pub reported: Option<f64>,
    /// Aggregate of the judged responses to the reported queries; `None` while a wanted domain has none.
    pub judged: Option<f64>,
    /// Every wanted domain's dominant level on the reported queries is the wanted one; `None` while a wanted domain has
    /// no result there.
    pub achieved: Option<bool>,
}

/// What is known of one domain at a point. All rates are of the wanted level and `None` where it is free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DomainAnswer {
    /// The level that is wanted; `None` where the domain is free.
    pub level: Option<Level>,
    /// On the search queries.
    pub search: Option<LevelRate>,
    /// On the reported queries ([`SweepDefinition::reported_set`]); `None` while nothing is measured there.
    pub reported: Option<LevelRate>,
    /// On judged responses to the reported queries; `None` while none is judged.
    pub judged: Option<LevelRate>,
}

/// The best point for each target, in the targets' order.
///
/// # Errors
/// When a target does not fit the sweep, or refers to a base that is not measured.
pub fn best(
    definition: &SweepDefinition,
    history: &[PointTallies],
    targets: &[Target],
    aggregate: Aggregate,
    reading: Reading,
) -> Result<Vec<Answer>, SearchError> {
    let ranking = Ranking::new(definition, history, reading);
    targets.iter().map(|target| ranking.answer(target, aggregate)).collect()
}

impl Ranking<'_> {
    /// A target's best point.
    ///
    /// # Errors
    /// When the target does not fit the sweep, or refers to a base that is not measured.
    pub fn answer(&self, target: &Target, aggregate: Aggregate) -> Result<Answer, SearchError> {
        let wanted = self.wanted_levels(target)?;
        let best = self.leaders(target, aggregate, 1)?;
        let best = best.first().map(|tallies| self.describe(tallies, &wanted, aggregate));
        Ok(Answer { target: target.clone(), best })
    }

    /// What a target finds at one point, whether that is the best or not.
    ///
    /// # Errors
    /// When the target does not fit the sweep, or refers to a base that is not measured.
    pub fn answer_at(
        &self,
        target: &Target,
        aggregate: Aggregate,
        point: &Point,
    ) -> Result<Answer, SearchError> {
        let wanted = self.wanted_levels(target)?;
        let best = self.at(point).map(|tallies| self.describe(tallies, &wanted, aggregate));
        Ok(Answer { target: target.clone(), best })
    }

    fn describe(&self, tallies: &PointTallies, wanted: &[Option<Level>], aggregate: Aggregate) -> BestPoint {
        let reading = self.reading();
        let reported_set = reported(self.definition(), tallies);
        let rate =
            |set: &SetTallies, reading, domain, level: Option<Level>| set.rate(reading, domain, level?);
        let domains: Vec<DomainAnswer> = wanted
            .iter()
            .enumerate()
            .map(|(domain, level)| DomainAnswer {
                level: *level,
                search: rate(&tallies.search, reading, domain, *level),
                reported: rate(reported_set, reading, domain, *level),
                judged: rate(reported_set, Reading::Judgement, domain, *level),
            })
            .collect();
        let sum_up = |rate: fn(&DomainAnswer) -> Option<LevelRate>| {
            let rates: Option<Vec<f64>> = domains
                .iter()
                .filter(|domain| domain.level.is_some())
                .map(|domain| rate(domain).map(|rate| rate.rate))
                .collect();
            rates.map(|rates| aggregate.of(rates))
        };
        let reported = sum_up(|domain| domain.reported);
        let achieved = reported.map(|_| {
            wanted
                .iter()
                .enumerate()
                .all(|(domain, level)| level.is_none() || reported_set.dominant(reading, domain) == *level)
        });
        BestPoint {
            id: tallies.id,
            point: tallies.point.clone(),
            search: sum_up(|domain| domain.search).unwrap_or(0.0),
            reported,
            judged: sum_up(|domain| domain.judged),
            domains,
            achieved,
        }
    }
}

/// The tallies of the set that chosen points are reported on.
fn reported<'t>(definition: &SweepDefinition, tallies: &'t PointTallies) -> &'t SetTallies {
    match definition.reported_set() {
        QuerySet::Search => &tallies.search,
        QuerySet::Confirm => &tallies.confirm,
    }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::{Normalisation, Wanted};

    use super::*;
    use crate::fixture::{definition, judged, likelihood, point_tallies};

    const READING: Reading = Reading::Likelihood(Normalisation::Mean);

    fn target(levels: [u8; 2]) -> Target {
        Target::new(levels.map(|level| Wanted::Level(Level(level))).to_vec())
    }

    #[test]
    fn an_answer_reports_the_confirm_queries_and_whether_the_target_is_achieved() {
        let definition = definition(2, 10, 5);
        let mut chosen = point_tallies(1, &[100, 0], &[[0, 1, 9], [8, 2, 0]]);
        chosen.confirm.likelihood = Some(likelihood(&[[0, 1, 4], [3, 2, 0]]));
        chosen.confirm.judgement = Some(judged(&[[0, 0, 3], [5, 0, 0]], &[2, 0]));
        let history = [point_tallies(2, &[0, 0], &[[0, 9, 1], [1, 8, 1]]), chosen];
        let answers = best(&definition, &history, &[target([2, 0])], Aggregate::Min, READING)
            .expect("a fitting target");
        let best = answers[0].best.clone().expect("two measured points");
        assert_eq!(
            (best.id, best.search, best.reported, best.judged),
            (PointId(1), 0.8, Some(0.6), Some(0.6))
        );
        assert_eq!(best.achieved, Some(true));
        assert_eq!(best.domains[0].judged, Some(LevelRate::new(3, 5)), "an unclear response counts in n");
        assert_eq!(best.domains[1].search, Some(LevelRate::new(8, 10)));
    }

    #[test]
    fn whether_a_target_is_achieved_is_unknown_before_its_reported_queries_are_measured() {
        let definition = definition(2, 10, 5);
        let history = [point_tallies(1, &[0, 0], &[[0, 0, 10], [10, 0, 0]])];
        let answers = best(&definition, &history, &[target([2, 0])], Aggregate::Min, READING)
            .expect("a fitting target");
        let best = answers[0].best.clone().expect("a measured point");
        assert_eq!((best.search, best.reported, best.judged, best.achieved), (1.0, None, None, None));
    }

    #[test]
    fn without_confirm_queries_the_search_queries_are_reported() {
        let definition = definition(2, 10, 0);
        let history = [point_tallies(1, &[0, 0], &[[0, 0, 10], [10, 0, 0]])];
        let answers = best(&definition, &history, &[target([2, 0])], Aggregate::Min, READING)
            .expect("a fitting target");
        let best = answers[0].best.clone().expect("a measured point");
        assert_eq!((best.reported, best.achieved), (Some(1.0), Some(true)));
    }

    #[test]
    fn a_free_domain_is_left_out_of_everything() {
        let definition = definition(2, 10, 5);
        let mut only = point_tallies(1, &[0, 0], &[[0, 0, 10], [4, 3, 3]]);
        only.confirm.likelihood = Some(likelihood(&[[0, 0, 5], [2, 2, 1]]));
        let target = Target::new(vec![Wanted::Level(Level(2)), Wanted::Free]);
        let answers =
            best(&definition, &[only], &[target], Aggregate::Product, READING).expect("a fitting target");
        let best = answers[0].best.clone().expect("a measured point");
        assert_eq!((best.search, best.reported, best.achieved), (1.0, Some(1.0), Some(true)));
        assert_eq!((best.domains[1].level, best.domains[1].search), (None, None));
    }

    #[test]
    fn no_measured_point_is_no_answer_and_no_error() {
        let definition = definition(2, 10, 5);
        let partly = point_tallies(1, &[0, 0], &[[0, 0, 9], [10, 0, 0]]);
        let answers = best(&definition, &[partly], &[target([2, 0])], Aggregate::Min, READING)
            .expect("a fitting target");
        assert_eq!(answers[0].best, None);
    }
}
