//! Strategies as sweep files ask for them.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{SweepText, avsweep, fail, json, succeed};

const SWEEP: &str = "search";

/// A sweep with a strategy, over the full grid's steps; nothing is generated.
fn searching(strategy: &str) -> SweepText {
    SweepText::new(SWEEP, "0.1").with(
        "evaluation: {search_queries: 12, confirm_queries: 6, max_new_tokens: 24}",
        &format!(
            "strategy: {strategy}\n\
             evaluation: {{generation: none, search_queries: 12, confirm_queries: 6}}"
        ),
    )
}

/// The sweep's line of `sweep ls`, which models nothing and so is quick.
fn show(folder: &Path) -> Option<Value> {
    let listed =
        avsweep(folder).args(["sweep", "ls", "--output", "json"]).output().expect("the binary starts");
    let sweeps: Vec<Value> = serde_json::from_slice(&listed.stdout).ok()?;
    sweeps.into_iter().find(|sweep| sweep["name"] == SWEEP)
}

fn points_done(shown: &Value) -> u64 {
    shown["points_done"].as_u64().expect("a count of points")
}

fn start(folder: &Path) -> Child {
    let mut command = avsweep(folder);
    command.args(["run", "sweep.yaml"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary starts")
}

#[test]
fn a_search_that_is_killed_and_run_again_visits_the_points_of_an_undisturbed_one() {
    let sweep = searching("{kind: bayesian, budget: 40, min_gain: 0}");
    let export = |folder: &Path| succeed(avsweep(folder).args(["export", SWEEP, "--format", "csv"]));
    let undisturbed = TempDir::new().expect("a temporary folder");
    sweep.write(undisturbed.path());
    succeed(avsweep(undisturbed.path()).args(["run", "sweep.yaml"]));
    let whole = show(undisturbed.path()).expect("the sweep is there");
    assert_eq!(
        (points_done(&whole), &whole["points_budget"], &whole["state"]),
        (40, &40.into(), &"done".into())
    );

    let killed = TempDir::new().expect("a temporary folder");
    sweep.write(killed.path());
    // In the design, at its end, and amid the model's choices.
    for at_least in [2, 9, 17, 23, 31] {
        let mut child = start(killed.path());
        let deadline = Instant::now() + Duration::from_secs(180);
        while show(killed.path()).is_none_or(|shown| points_done(&shown) < at_least) {
            assert!(Instant::now() < deadline, "waited three minutes for {at_least} points");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().expect("SIGKILL reaches the child");
        child.wait().expect("the child can be waited for");
    }
    let left = show(killed.path()).expect("the sweep is there");
    assert_eq!(left["state"], "running", "the last kill met a running search");
    succeed(avsweep(killed.path()).args(["run", "sweep.yaml"]));
    assert_eq!(export(killed.path()), export(undisturbed.path()));
}

#[test]
fn every_strategy_ends_with_an_answer_for_every_target() {
    for (strategy, points) in [
        ("{kind: hierarchical, levels: 3, budget: 60}", None),
        ("{kind: sobol, budget: 25}", Some(25)),
        ("{kind: random, budget: 20, seed: 5}", Some(20)),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        searching(strategy).write(folder.path());
        let best = json(avsweep(folder.path()).args(["run", "sweep.yaml"]));
        assert_eq!(best["targets"].as_array().map(Vec::len), Some(27), "{strategy}");
        let shown = show(folder.path()).expect("the sweep is there");
        assert_eq!(shown["state"], "done", "{strategy}");
        match points {
            Some(points) => {
                assert_eq!(
                    (points_done(&shown), &shown["points_planned"]),
                    (points, &points.into()),
                    "{strategy}"
                );
            }
            None => {
                assert_eq!((&shown["points_planned"], &shown["points_budget"]), (&Value::Null, &60.into()));
                assert!((20..=60).contains(&points_done(&shown)), "{strategy}: {shown}");
            }
        }
        assert_eq!(shown["duplicate_results"], 0, "{strategy}");
        // How it converged, in at most eight steps, the last one being now.
        let shown = json(avsweep(folder.path()).args(["sweep", "show", SWEEP]));
        let steps = shown["convergence"]["steps"].as_array().expect("steps");
        assert_eq!((shown["convergence"]["targets"].as_u64(), steps.len()), (Some(27), 8), "{strategy}");
        assert_eq!(steps[7]["evaluations"], shown["points_done"], "{strategy}");
        let regret = |step: &Value| step["mean"].as_f64().expect("a regret");
        assert!(regret(&steps[7]) < regret(&steps[0]), "{strategy}: {steps:?}");
    }
}

#[test]
fn a_strategy_that_is_wrong_is_refused_with_file_and_key() {
    for (strategy, wanted) in [
        ("{kind: bayesien}", "strategy.kind"),
        ("{kind: bayesian, budgets: 40}", "strategy.budgets: unknown key (did you mean 'budget'?)"),
        ("{kind: bayesian, budget: 0}", "strategy.budget: 0"),
        ("{kind: bayesian, width: 2}", "'width' belongs to hierarchical; the kind is bayesian"),
        (
            "{kind: bayesian, budget: 5, initial: 9}",
            "strategy.initial is 9; at most the budget, 5, is wanted",
        ),
        ("{kind: bayesian, targets: ['medical=expert']}", "says nothing of domain 'legal'"),
        ("{kind: grid, seed: 1}", "'seed' belongs to bayesian, random, sobol; the kind is grid"),
        ("{kind: sobol}", "'budget' is missing"),
        ("{kind: hierarchical, levels: 9}", "strategy.levels = 9"),
        ("{kind: hierarchical, finer: 40}", "strategy.finer = 40"),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        searching(strategy).write(folder.path());
        let error = fail(avsweep(folder.path()).args(["run", "sweep.yaml"]));
        assert!(
            error.contains(wanted) && error.contains("sweep.yaml"),
            "{strategy} should say '{wanted}':\n{error}"
        );
        assert!(!folder.path().join("test.db").exists(), "a refused sweep makes no store");
    }
}

#[test]
fn a_raced_sweep_has_the_same_best_points_for_measurably_fewer_evaluations() {
    let sweep = |racing: &str| {
        SweepText::new(SWEEP, "0.5").with(
            "evaluation: {search_queries: 12, confirm_queries: 6, max_new_tokens: 24}",
            &format!("evaluation: {{generation: none, search_queries: 20, confirm_queries: 6{racing}}}"),
        )
    };
    let run = |text: &SweepText| {
        let folder = TempDir::new().expect("a temporary folder");
        text.write(folder.path());
        let best = json(avsweep(folder.path()).args(["run", "sweep.yaml"]));
        let shown = show(folder.path()).expect("the sweep is there");
        let targets = best["targets"].as_array().expect("targets").iter();
        let points: Vec<_> = targets.map(|target| target["coefficients"].clone()).collect();
        (points, shown, folder)
    };
    let number = |shown: &Value, key: &str| shown[key].as_u64().expect("a count");
    let (wanted, whole, _folder) = run(&sweep(""));
    assert_eq!((number(&whole, "points_raced"), number(&whole, "evaluations_saved")), (0, 0));

    let racing = sweep(", racing: {block: 4, error: 0}");
    let (points, shown, folder) = run(&racing);
    assert_eq!(points, wanted);
    assert_eq!(shown["state"], "done");
    let (raced, saved) = (number(&shown, "points_raced"), number(&shown, "evaluations_saved"));
    assert_eq!(points_done(&shown) + raced, 125);
    // 125 points on 60 search queries; the finalists' confirm queries come on top in both.
    assert!(saved > 125 * 60 / 10, "{saved} evaluations were saved");
    assert!(number(&shown, "results") + 125 * 60 / 10 < number(&whole, "results"), "{shown}");
    assert_eq!(shown["duplicate_results"], 0);

    // And it says so: before, in the facts, on export; a record of the whole grid it is not.
    let check = succeed(avsweep(folder.path()).args(["run", "sweep.yaml", "--check"]));
    assert!(check.contains("given up early"), "{check}");
    let facts = succeed(avsweep(folder.path()).args(["sweep", "show", SWEEP]));
    assert!(facts.contains(&format!("{raced} points given up early, {saved} evaluations saved")), "{facts}");
    let export =
        avsweep(folder.path()).args(["export", SWEEP, "--format", "csv"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&export.stderr);
    assert!(said.contains(&format!("{raced} points were given up early")), "{said}");
    let grid = fail(avsweep(folder.path()).args(["export", SWEEP, "--format", "grid", "--out", "x.avgrid"]));
    assert!(grid.contains("no evaluation.racing"), "{grid}");
}

#[test]
fn racing_that_does_not_fit_is_refused_with_file_and_key() {
    for (strategy, racing, wanted) in [
        ("{kind: bayesian}", "{}", "evaluation.racing does not go with strategy 'bayesian'"),
        ("{kind: grid}", "{block: 0}", "evaluation.racing.block: 0"),
        ("{kind: grid}", "{error: 1}", "evaluation.racing.error is 1; a number from 0 to below 1 is wanted"),
        ("{kind: grid}", "{blocks: 5}", "evaluation.racing.blocks: unknown key (did you mean 'block'?)"),
        (
            "{kind: grid}",
            "{}, likelihood: none, generation: all",
            "evaluation.racing needs 'likelihood: all'",
        ),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        let sweep = SweepText::new(SWEEP, "0.5").with(
            "evaluation: {search_queries: 12, ",
            &format!("strategy: {strategy}\nevaluation: {{racing: {racing}, search_queries: 12, "),
        );
        sweep.write(folder.path());
        let error = fail(avsweep(folder.path()).args(["run", "sweep.yaml"]));
        assert!(
            error.contains(wanted) && error.contains("sweep.yaml"),
            "{strategy} {racing} should say '{wanted}':\n{error}"
        );
        assert!(!folder.path().join("test.db").exists(), "a refused sweep makes no store");
    }
}
