//! Searches: the points planned are those that the strategy chooses by what had been measured, and no race loses a leader.

use std::collections::BTreeSet;

use avsweep_domain::{
    Coverage, JobState, Label, Normalisation, Point, Query, QuerySet, Reading, Rung, Strategy,
    SweepDefinition, SweepId, Target, Wanted,
};
use avsweep_search::strategy::{Decision, History, Measured, Problem, known_point, next_points};
use avsweep_store::{Choice, NewJob, Plan};

use super::{Laws, ensure};
use crate::values;

/// What is measured at a point in the end: log-probabilities, and judged responses at each level of each domain.
type Measurement = (Point, Vec<f32>, Vec<u32>);

/// The rungs that a sweep's points are chosen by; the first one's jobs come with the point.
fn rungs(definition: &SweepDefinition) -> Vec<Rung> {
    let mut rungs = Vec::new();
    if definition.evaluation.likelihood != Coverage::None {
        rungs.push(Rung::Likelihood);
    }
    if definition.search_reading() == Reading::Judgement {
        rungs.extend([Rung::Generation, Rung::Judgement]);
    }
    rungs
}

fn search_queries(definition: &SweepDefinition) -> impl Iterator<Item = &Query> {
    let ordinals = definition.slice(QuerySet::Search).ordinals();
    ordinals.filter_map(|ordinal| Some(definition.queries().nth(ordinal as usize)?.query))
}

fn measurement(definition: &SweepDefinition, point: &Point) -> Measurement {
    let recipe = definition.recipe_fingerprint();
    let log_probs = search_queries(definition).flat_map(|query| {
        let score = values::score(recipe, point, query);
        score.0.iter().map(|score| Normalisation::Mean.apply(score) as f32).collect::<Vec<_>>()
    });
    let mut judged = Vec::new();
    for domain in &definition.domains {
        let labels = domain
            .search
            .iter()
            .map(|query| values::verdict(query, &values::response(recipe, point, query).text).label);
        let labels: Vec<Label> = labels.collect();
        judged.extend((0..definition.levels.len()).map(|level| {
            let at_level =
                |label: &&Label| matches!(label, Label::Level(found) if usize::from(found.0) == level);
            labels.iter().filter(at_level).count() as u32
        }));
    }
    (point.clone(), log_probs.collect(), judged)
}

/// What a target makes of a point's likelihoods: the share of queries at the wanted level in the weakest domain.
fn value(definition: &SweepDefinition, target: &Target, point: &Point) -> f64 {
    let recipe = definition.recipe_fingerprint();
    let rates = definition.domains.iter().zip(target.wanted()).map(|(domain, wanted)| {
        let at_level = domain.search.iter().filter(|query| {
            let level = values::score(recipe, point, query).level(Normalisation::Mean);
            level.map(Wanted::Level) == Some(*wanted)
        });
        at_level.count() as f64 / domain.search.len() as f64
    });
    rates.fold(1.0, f64::min)
}

impl Laws {
    /// A plan's new points are those that the strategy says come next, each once. `new` are the jobs that were not there
    /// before, in the order of the plan.
    pub(super) fn points_are_the_strategys(
        &mut self,
        sweep: SweepId,
        plan: &Plan,
        new: &[&NewJob],
    ) -> Result<(), String> {
        let definition = self.definition(sweep)?;
        let first = rungs(&definition).first().copied().ok_or("its points are chosen by nothing")?;
        // A point's first job.
        let opens = |job: &&&NewJob| job.rung == first && job.slice.start == 0;
        let points: Vec<Point> = new.iter().filter(opens).map(|job| job.point.clone()).collect();
        if matches!(definition.strategy, Strategy::Hierarchical(_) | Strategy::Bayesian(_)) {
            match &plan.choice {
                Some(choice) => self.choice_can_be_taken_again(sweep, &definition, choice)?,
                None => {
                    ensure(points.is_empty(), || format!("{points:?} were planned and nobody chose them"))?;
                }
            }
            let chosen = plan.choice.as_ref().map_or(&[][..], |choice| &choice.points);
            ensure(points == chosen, || format!("{chosen:?} were chosen, {points:?} planned"))?;
        } else {
            let problem = Problem::of(&definition);
            let place = self.proposed.get(&sweep).map_or(0, Vec::len) as u64;
            for (index, point) in (place..).zip(&points) {
                let wanted = known_point(&problem, index);
                ensure(wanted.as_ref() == Some(point), || {
                    format!("point {point} was planned at place {index}, where {wanted:?} is wanted")
                })?;
            }
        }
        self.proposed.entry(sweep).or_default().extend(points);
        Ok(())
    }

    /// A recorded choice is what the strategy makes of what the record says it had seen, and that had been acknowledged.
    fn choice_can_be_taken_again(
        &self,
        sweep: SweepId,
        definition: &SweepDefinition,
        choice: &Choice,
    ) -> Result<(), String> {
        let before = self.proposed.get(&sweep).map_or(&[][..], Vec::as_slice);
        ensure(before.len() as u64 == choice.proposed, || {
            format!("{} points were proposed before; the record says {}", before.len(), choice.proposed)
        })?;
        let open: BTreeSet<&Point> = choice.pending.iter().chain(&choice.given_up).collect();
        let unknown = open.iter().find(|point| !before.contains(point));
        ensure(unknown.is_none(), || format!("{unknown:?} is pending or given up and was never proposed"))?;
        let recipe = definition.recipe_fingerprint();
        let mut seen = Vec::new();
        for point in before.iter().filter(|point| !open.contains(point)) {
            for (rung, query) in rungs(definition)
                .into_iter()
                .flat_map(|rung| search_queries(definition).map(move |q| (rung, q)))
            {
                let known = self.acknowledged.has(recipe, point, rung, query)
                    || (rung == Rung::Judgement && self.acknowledged.is_judged(recipe, point, query));
                ensure(known, || {
                    format!(
                        "{point} counts as measured, and the {rung} result of '{}' was not reported",
                        query.id
                    )
                })?;
            }
            seen.push(measurement(definition, point));
        }
        let by_verdicts = definition.search_reading() == Reading::Judgement;
        let measured: Vec<Measured<'_>> = seen
            .iter()
            .map(|(point, log_probs, judged)| Measured {
                point,
                log_probs,
                judged: by_verdicts.then_some(judged.as_slice()),
            })
            .collect();
        let history = History {
            proposed: choice.proposed,
            measured: &measured,
            pending: &choice.pending,
            given_up: &choice.given_up,
        };
        let again = next_points(&Problem::of(definition), &history, choice.asked as usize);
        ensure(again == Decision::Propose(choice.points.clone()), || {
            format!("{:?} were chosen; taken again the decision is {again:?}", choice.points)
        })
    }

    /// With an error of 0 every target's best point of the whole grid is as good as the best one that no race gave up.
    pub(crate) fn no_race_lost_a_leader(&self) -> Result<(), String> {
        for (id, sweep) in &self.seen.sweeps {
            let definition = self.definition(*id)?;
            if definition.evaluation.racing.is_none_or(|racing| racing.error > 0.0) {
                continue;
            }
            let raced: BTreeSet<&Point> = sweep
                .jobs
                .values()
                .filter(|job| job.state == JobState::Raced)
                .map(|job| &job.job.point)
                .collect();
            let points = self.proposed.get(id).map_or(&[][..], Vec::as_slice);
            for target in Target::all(definition.domains.len(), &definition.levels) {
                let best = |with_raced: bool| {
                    let among = points.iter().filter(|point| with_raced || !raced.contains(point));
                    among.map(|point| value(&definition, &target, point)).fold(f64::NEG_INFINITY, f64::max)
                };
                ensure(best(true) <= best(false), || {
                    format!(
                        "a race gave up the best point of {target:?}: {} instead of {}",
                        best(false),
                        best(true)
                    )
                })?;
            }
        }
        Ok(())
    }
}
