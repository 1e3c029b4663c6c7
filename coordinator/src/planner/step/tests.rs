//! Laws of the planner's decision.

use avsweep_domain::{
    BayesianSettings, Coefficient, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint,
    JudgeProvider, JudgeSettings, Ladder, Levels, Message, ModelSource, Query, Range, Role, Space, Strategy,
    Ticks, VectorSource,
};

use super::*;

const LOW_WATER: u64 = 10;

fn definition(likelihood: Coverage, generation: Coverage, confirm: usize) -> SweepDefinition {
    let queries = |prefix: &str, count: usize| {
        let queries = (0..count).map(|index| Query {
            id: format!("{prefix}{index}"),
            messages: vec![Message { role: Role::User, content: "?".to_owned() }],
            references: ["a", "b", "c"].map(str::to_owned).to_vec(),
        });
        queries.collect::<Vec<_>>()
    };
    let fingerprint = Fingerprint::of(b"x");
    let range = Range::new(Ticks::ZERO, Ticks::new(100), Ticks::new(100)).expect("divides");
    let definition = SweepDefinition {
        name: "steps".to_owned(),
        model: ModelSource { path: String::new(), dtype: Dtype::F32, fingerprint },
        vectors: vec![VectorSource { name: "v".to_owned(), path: String::new(), fingerprint }],
        space: Space::new(vec![Coefficient { name: "a".to_owned(), vector: 0, tensors: None, range }])
            .expect("one name"),
        levels: Levels::default(),
        domains: vec![DomainDefinition {
            name: "d".to_owned(),
            search: queries("s", 3),
            confirm: queries("c", confirm),
        }],
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood,
            generation,
            finalists_per_target: 1,
            decode: DecodeSettings::greedy(8),
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings { provider: JudgeProvider::Reference { threshold: 0.5 }, rubric: String::new() },
    };
    definition.check().expect("a valid definition");
    definition
}

pub(crate) fn usual() -> SweepDefinition {
    definition(Coverage::All, Coverage::Finalists, 2)
}

fn counts(ready: u64, leased: u64, done: u64, parked: u64) -> RungCounts {
    RungCounts { ready, leased, done, parked, raced: 0 }
}

fn snapshot(strategy: StrategyState) -> Snapshot {
    let totals = SweepTotals::default();
    Snapshot { totals, strategy, workers: 0, finalists_settled: false, judgements_settled: false }
}

#[test]
fn points_are_proposed_only_when_few_jobs_wait() {
    let mut now = snapshot(StrategyState::Open);
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Propose);
    now.totals.likelihood = counts(9, 500, 0, 0);
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Propose, "leased jobs do not wait");
    now.totals.likelihood = counts(10, 0, 0, 0);
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Wait);
    now.totals.likelihood = counts(0, 0, 0, 0);
    assert_eq!(plan_step(&usual(), &now, 0), Step::Propose, "a low water of none would never start");
}

#[test]
fn a_strategy_that_decides_from_results_is_asked_when_a_worker_would_have_nothing_to_do() {
    let definition = SweepDefinition { strategy: Strategy::Bayesian(BayesianSettings::default()), ..usual() };
    let mut now = snapshot(StrategyState::Open);
    for (workers, wanted) in [(0, 1), (1, 1), (3, 3)] {
        now.workers = workers;
        for open in 0..5 {
            now.totals.likelihood = counts(open / 2, open - open / 2, 7, 1);
            let step = if open < wanted { Step::Propose } else { Step::Wait };
            assert_eq!(plan_step(&definition, &now, LOW_WATER), step, "{workers} workers, {open} open jobs");
        }
    }
    // What is generated at a point keeps its worker busy too; what is judged does not.
    now.workers = 1;
    now.totals.likelihood = counts(0, 0, 8, 0);
    now.totals.generation = counts(0, 1, 0, 0);
    assert_eq!(plan_step(&definition, &now, LOW_WATER), Step::Wait);
    now.totals.generation = counts(0, 0, 1, 0);
    now.totals.judgement = counts(1, 0, 0, 0);
    assert_eq!(plan_step(&definition, &now, LOW_WATER), Step::Propose);
}

#[test]
fn a_strategy_that_waits_is_not_asked_again() {
    assert_eq!(plan_step(&usual(), &snapshot(StrategyState::Waiting), LOW_WATER), Step::Wait);
}

#[test]
fn without_likelihoods_the_generation_rung_is_kept_supplied() {
    let definition = definition(Coverage::None, Coverage::All, 2);
    let mut now = snapshot(StrategyState::Open);
    now.totals.generation = counts(10, 0, 0, 0);
    assert_eq!(plan_step(&definition, &now, LOW_WATER), Step::Wait);
    now.totals.generation = counts(2, 0, 0, 0);
    assert_eq!(plan_step(&definition, &now, LOW_WATER), Step::Propose);
}

#[test]
fn finalists_are_chosen_once_every_likelihood_job_is_done_or_parked() {
    let mut now = snapshot(StrategyState::Finished);
    now.totals.likelihood = counts(0, 1, 8, 0);
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Wait);
    now.totals.likelihood = counts(0, 0, 8, 1);
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::PlanFinalists);
    now.finalists_settled = true;
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Finish);
}

#[test]
fn where_verdicts_decide_finalists_are_chosen_when_nothing_is_open() {
    let mut laddered = usual();
    laddered.evaluation.ladder = Some(Ladder { confidence: 0.9, most: 10 });
    let judged = SweepDefinition {
        strategy: Strategy::Bayesian(BayesianSettings::default()),
        ..definition(Coverage::All, Coverage::All, 2)
    };
    let scored = SweepDefinition { strategy: Strategy::Grid, ..judged.clone() };
    let mut now = snapshot(StrategyState::Finished);
    now.totals.likelihood = counts(0, 0, 9, 0);
    for definition in [&laddered, &judged] {
        assert_eq!(plan_step(definition, &now, LOW_WATER), Step::PlanFinalists);
    }
    for rung in 0..2 {
        let totals = &mut now.totals;
        (totals.generation, totals.judgement) = (counts(0, 0, 3, 0), counts(0, 0, 3, 0));
        *[&mut totals.generation, &mut totals.judgement][rung] = counts(0, 1, 3, 0);
        for definition in [&laddered, &judged] {
            assert_eq!(plan_step(definition, &now, LOW_WATER), Step::Wait);
        }
        for definition in [&usual(), &scored] {
            assert_eq!(plan_step(definition, &now, LOW_WATER), Step::PlanFinalists, "no text decides");
        }
    }
}

#[test]
fn finalists_that_would_get_nothing_are_not_chosen() {
    let now = snapshot(StrategyState::Finished);
    for (likelihood, generation) in [(Coverage::All, Coverage::None), (Coverage::All, Coverage::All)] {
        let definition = definition(likelihood, generation, 0);
        assert_eq!(plan_step(&definition, &now, LOW_WATER), Step::Finish);
    }
    let definition = definition(Coverage::None, Coverage::All, 2);
    assert_eq!(plan_step(&definition, &now, LOW_WATER), Step::Finish);
}

#[test]
fn a_generation_job_that_is_done_gets_its_judgement_before_anything_else() {
    let mut now = snapshot(StrategyState::Open);
    now.totals.generation = counts(0, 0, 2, 0);
    now.totals.judgement = counts(0, 0, 1, 0);
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Judge);
    now.totals.judgement = counts(0, 0, 1, 1);
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Propose, "a parked judgement is planned too");
}

#[test]
fn a_store_that_counts_otherwise_does_not_trap_the_planner() {
    let mut now = snapshot(StrategyState::Finished);
    now.finalists_settled = true;
    now.totals.generation = counts(0, 0, 2, 0);
    now.judgements_settled = true;
    assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Finish);
}

#[test]
fn a_sweep_finishes_only_when_no_job_is_open() {
    let mut now = snapshot(StrategyState::Finished);
    now.finalists_settled = true;
    for open in [counts(1, 0, 0, 0), counts(0, 1, 0, 0)] {
        for rung in 0..3 {
            let totals = &mut now.totals;
            (totals.likelihood, totals.generation, totals.judgement) = Default::default();
            *[&mut totals.likelihood, &mut totals.generation, &mut totals.judgement][rung] = open;
            assert_eq!(plan_step(&usual(), &now, LOW_WATER), Step::Wait);
        }
    }
}
