//! Recorded grids: exported from a sweep, and searched again without a model.

use std::fs;
use std::path::Path;

use crate::support::{SweepText, avsweep, fail, json, misuse, pocket, succeed};
use serde_json::Value;
use tempfile::TempDir;

/// The pocket family's full grid, as committed.
fn recorded() -> String {
    pocket().join("pocket.avgrid").display().to_string()
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect()
}

#[test]
fn an_exported_grid_holds_what_the_sweep_measured() {
    let folder = TempDir::new().expect("a temporary folder");
    SweepText::new("recorded", "1")
        .with("max_new_tokens: 24", "generation: all, max_new_tokens: 8")
        .write(folder.path());
    succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    // A point between the grid's is no part of the record.
    succeed(avsweep(folder.path()).args(["sample", "recorded", "--point=0.25,0,-0.3"]));
    succeed(avsweep(folder.path()).args(["export", "recorded", "--format", "grid", "-o", "recorded.avgrid"]));
    let piped =
        avsweep(folder.path()).args(["export", "recorded", "--format", "grid"]).output().expect("it starts");
    assert_eq!(piped.stdout, fs::read(folder.path().join("recorded.avgrid")).expect("written"));

    for rung in ["likelihood", "judgement"] {
        let replayed = json(avsweep(folder.path()).args([
            "replay",
            "recorded.avgrid",
            "--strategy",
            "grid",
            "--rung",
            rung,
        ]));
        assert_eq!(replayed["points"], 27);
        assert_eq!(replayed["runs"][0]["evaluations"], 27);
        assert_eq!(replayed["domains"][0]["queries"], 12);
        assert!(numbers(&replayed["runs"][0]["worst_regret"])[26] < 1e-9, "the whole grid leaves no regret");
        let reading = if rung == "judgement" { "judgement" } else { "mean" };
        let best =
            json(avsweep(folder.path()).args(["best", "recorded", "--all-targets", "--reading", reading]));
        let targets = best["targets"].as_array().expect("targets");
        assert_eq!(targets.len(), 27);
        for (answer, target) in targets.iter().zip(replayed["targets"].as_array().expect("targets")) {
            assert_eq!(answer["target"], target["target"]);
            let (found, recorded) = (answer["search_aggregate"].as_f64(), target["best"].as_f64());
            let gap = found.expect("a number") - recorded.expect("a number");
            assert!(gap.abs() < 1e-9, "{rung}: {answer} but {target}");
        }
    }
}

#[test]
fn a_grid_with_missing_points_is_not_exported() {
    let folder = TempDir::new().expect("a temporary folder");
    let export = |name: &str| {
        fail(avsweep(folder.path()).args(["export", name, "--format", "grid", "-o", "out.avgrid"]))
    };
    let sweep = SweepText::new("started", "1");
    sweep.write(folder.path());
    succeed(avsweep(folder.path()).args(["sweep", "create", "sweep.yaml"]));
    let error = export("started");
    assert!(error.contains("27 of the grid's 27 points") && error.contains("(-1,-1,-1)"), "{error}");
    assert!(error.contains("avsweep sweep show started"), "says what to do: {error}");
    sweep
        .with("name: started", "name: unscored")
        .with("max_new_tokens: 24", "likelihood: none, generation: all")
        .write(folder.path());
    succeed(avsweep(folder.path()).args(["sweep", "create", "sweep.yaml"]));
    let error = export("unscored");
    assert!(error.contains("likelihood: none"), "{error}");
    assert!(!folder.path().join("out.avgrid").exists(), "nothing is written");
}

#[test]
fn bayesian_search_finds_every_target_of_the_pocket_grid_within_81_evaluations() {
    let folder = TempDir::new().expect("a temporary folder");
    let replay = || {
        json(avsweep(folder.path()).args([
            "replay",
            &recorded(),
            "--strategy",
            "bayesian",
            "--budget",
            "81",
            "--seed",
            "1",
        ]))
    };
    let replayed = replay();
    assert_eq!(replayed["points"], 9261);
    let run = &replayed["runs"][0];
    assert!(run["evaluations"].as_u64().expect("a number") <= 81);
    let all_equal_after = run["all_equal_after"].as_u64();
    assert!(all_equal_after.is_some_and(|after| after <= 81), "{all_equal_after:?}");
    let targets = replayed["targets"].as_array().expect("targets");
    assert!(targets.iter().all(|target| target["equal"] == 1), "{targets:?}");
    assert_eq!(run["points"], replay()["runs"][0]["points"], "the same search again visits the same points");
}

#[test]
fn every_strategy_replays_and_prints_its_regret() {
    let folder = TempDir::new().expect("a temporary folder");
    for settings in [
        &["--strategy", "sobol", "--budget", "40", "--seeds", "3"][..],
        &["--strategy", "random", "--budget", "40", "--target", "medical=expert,legal=any,financial=base"],
        &["--strategy", "hierarchical", "--budget", "130", "--aggregate", "mean"],
        &["--strategy", "bayesian", "--budget", "30", "--in-flight", "4", "--at", "27,30"],
    ] {
        let table = succeed(avsweep(folder.path()).args(["replay", &recorded()]).args(settings));
        assert!(table.contains("worst regret") && table.contains("grid's best"), "{table}");
        let curve = json(avsweep(folder.path()).args(["replay", &recorded()]).args(settings));
        for run in curve["runs"].as_array().expect("runs") {
            let worst = numbers(&run["worst_regret"]);
            assert!(worst.is_sorted_by(|earlier, later| earlier >= later), "regret never grows: {worst:?}");
            let mut points: Vec<&str> =
                run["points"].as_array().expect("points").iter().filter_map(Value::as_str).collect();
            let visited = points.len();
            points.sort_unstable();
            points.dedup();
            assert_eq!(points.len(), visited, "no point is measured twice");
        }
    }
}

#[test]
fn a_strategy_file_says_the_same_as_flags() {
    let folder = TempDir::new().expect("a temporary folder");
    let target = "medical=expert,legal=avoidance,financial=generic";
    fs::write(
        folder.path().join("strategy.yaml"),
        format!("{{kind: bayesian, budget: 25, seed: 3, aggregate: mean, targets: [\"{target}\"]}}\n"),
    )
    .expect("writable");
    let by_file =
        json(avsweep(folder.path()).args(["replay", &recorded(), "--strategy-file", "strategy.yaml"]));
    let by_flags = json(
        avsweep(folder.path())
            .args(["replay", &recorded(), "--strategy", "bayesian", "--budget", "25", "--seed", "3"])
            .args(["--aggregate", "mean", "--target", target]),
    );
    for part in ["strategy", "targets", "regret", "aggregate"] {
        assert_eq!(by_file[part], by_flags[part]);
    }
    assert_eq!(by_file["runs"][0]["points"], by_flags["runs"][0]["points"]);
}

#[test]
fn a_file_that_is_no_whole_grid_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let bytes = fs::read(recorded()).expect("the pocket grid is committed");
    let replay = |bytes: &[u8]| {
        fs::write(folder.path().join("given.avgrid"), bytes).expect("writable");
        fail(avsweep(folder.path()).args(["replay", "given.avgrid", "--strategy", "sobol"]))
    };
    let error = replay(b"name: pocket-grid\n");
    assert!(error.contains("given.avgrid") && error.contains("no recorded grid"), "{error}");
    let error = replay(&bytes[..bytes.len() / 2]);
    assert!(error.contains("given.avgrid") && error.contains("cut off"), "{error}");
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    let error = replay(&damaged);
    assert!(error.contains("checksum") && error.contains("damaged"), "{error}");
    let error = fail(avsweep(folder.path()).args(["replay", "nowhere.avgrid", "--strategy", "sobol"]));
    assert!(error.contains("nowhere.avgrid"), "{error}");
}

#[test]
fn a_strategy_that_does_not_fit_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let replay =
        |arguments: &[&str]| misuse(avsweep(folder.path()).args(["replay", &recorded()]).args(arguments));
    for strategy in ["bayesian", "sobol", "random"] {
        let error = replay(&["--strategy", strategy, "--budget", "0"]);
        assert!(error.contains("budget") && error.contains('0') && error.contains('1'), "{error}");
    }
    let error = replay(&["--strategy", "bayesian", "--width", "2"]);
    assert!(error.contains("'width'") && error.contains("hierarchical"), "{error}");
    let error = replay(&["--strategy", "grid", "--budget", "5"]);
    assert!(error.contains("'budget'") && error.contains("grid"), "{error}");
    let error = replay(&["--strategy", "hierarchical", "--levels", "9"]);
    assert!(error.contains("wider than every coefficient's range"), "{error}");
    let error = replay(&["--strategy", "bayesian", "--target", "medical=export,legal=any,financial=any"]);
    assert!(error.contains("did you mean 'expert'?"), "{error}");
    replay(&["--budget", "9"]);
    let error = fail(avsweep(folder.path()).args([
        "replay",
        &recorded(),
        "--strategy",
        "grid",
        "--rung",
        "judgement",
    ]));
    assert!(error.contains("no judged levels") && error.contains("generation: all"), "{error}");
}

#[test]
fn a_bad_strategy_file_names_file_and_key() {
    let folder = TempDir::new().expect("a temporary folder");
    let replay = |text: &str| {
        fs::write(folder.path().join("strategy.yaml"), text).expect("writable");
        let error =
            fail(avsweep(folder.path()).args(["replay", &recorded(), "--strategy-file", "strategy.yaml"]));
        assert!(error.contains("strategy.yaml"), "{error}");
        error
    };
    let error = replay("{kind: bayesian, bugdet: 20}");
    assert!(error.contains("bugdet: unknown key") && error.contains("did you mean 'budget'?"), "{error}");
    let error = replay("{kind: bayesain}");
    assert!(error.contains("bayesain"), "{error}");
    let error = replay("just words");
    assert!(error.contains("kind: bayesian"), "says what is wanted: {error}");
    let error = replay("{kind: hierarchical, finer: 1}");
    assert!(error.contains("finer is 1"), "{error}");
    assert!(!Path::new(&folder.path().join("test.db")).exists(), "a replay needs no store");
}
