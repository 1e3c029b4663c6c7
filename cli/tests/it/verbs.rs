//! Every verb on a small sweep of the pocket family, as a user would run it.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::processes::{Process, until};
use crate::support::{SweepText, avsweep, fail, json, misuse, pocket, stderr, succeed};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

/// A finished sweep that the tests of this file read.
fn finished() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = TempDir::new().expect("a temporary folder");
            SweepText::new("verbs", "0.5").write(folder.path());
            succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
            folder
        })
        .path()
}

/// For those tests that work on its store instead of only reading: a store has one process that does.
fn working() -> MutexGuard<'static, ()> {
    static WORKING: Mutex<()> = Mutex::new(());
    WORKING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_finished_sweep_says_so_and_running_it_again_evaluates_nothing() {
    let folder = finished();
    let _working = working();
    let before = json(avsweep(folder).args(["sweep", "show", "verbs"]));
    assert_eq!(before["state"], "done");
    assert_eq!(before["points_done"], 125);
    succeed(avsweep(folder).args(["run", "sweep.yaml"]));
    let after = json(avsweep(folder).args(["sweep", "show", "verbs"]));
    assert_eq!(before["results"], after["results"]);
    assert_eq!(after["duplicate_results"], 0);
    let listed = json(avsweep(folder).args(["sweep", "ls"]));
    assert_eq!(listed[0]["name"], "verbs");
}

#[test]
fn all_targets_are_answered_on_confirm_queries_with_n_and_interval() {
    let best = json(avsweep(finished()).args(["best", "verbs", "--all-targets"]));
    assert_eq!(best["reported_on"], "confirm");
    let targets = best["targets"].as_array().expect("targets");
    assert_eq!(targets.len(), 27);
    for target in targets {
        let domains = target["domains"].as_array().expect("domains");
        let mut weakest = 1.0f64;
        for domain in domains {
            let confirm = &domain["confirm"];
            assert_eq!(confirm["n"], 6, "{target}");
            let (rate, low, high) = (
                confirm["rate"].as_f64().expect("a rate"),
                confirm["interval"]["low"].as_f64().expect("a number"),
                confirm["interval"]["high"].as_f64().expect("a number"),
            );
            assert!(low <= rate && rate <= high, "{target}");
            weakest = weakest.min(rate);
        }
        assert_eq!(
            target["confirm_aggregate"].as_f64(),
            Some(weakest),
            "min is the weakest domain: {target}"
        );
    }
}

/// The chosen point is the best one by an independent count over the exported results.
#[test]
fn the_chosen_point_is_the_best_of_the_exported_results() {
    let folder = finished();
    let csv = succeed(avsweep(folder).args(["export", "verbs", "--format", "csv"]));
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().expect("a header").clone();
    let column = |name: &str| header.iter().position(|heading| heading == name).expect("the column is there");
    let (domain, set, rung, level) = (column("domain"), column("set"), column("rung"), column("level"));
    let wanted = [("medical", "expert"), ("legal", "avoidance"), ("financial", "generic")];
    let mut hits = std::collections::BTreeMap::<String, [f64; 3]>::new();
    for record in reader.records() {
        let record = record.expect("a record");
        if &record[set] != "search" || &record[rung] != "likelihood" {
            continue;
        }
        let point = format!("{},{},{}", &record[0], &record[1], &record[2]);
        let counts = hits.entry(point).or_default();
        for (index, (name, label)) in wanted.iter().enumerate() {
            if &record[domain] == *name && &record[level] == *label {
                counts[index] += 1.0 / 12.0;
            }
        }
    }
    assert_eq!(hits.len(), 125);
    let weakest = |rates: &[f64; 3]| rates.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = hits.values().map(weakest).fold(0.0, f64::max);
    let target = "medical=expert,legal=avoidance,financial=generic";
    let best = json(avsweep(folder).args(["best", "verbs", "--target", target]));
    let answer = &best["targets"][0];
    let found = answer["search_aggregate"].as_f64().expect("a number");
    assert!((found - highest).abs() < 1e-9, "{found} instead of {highest}");
    let point: Vec<String> = answer["coefficients"]
        .as_array()
        .expect("coefficients")
        .iter()
        .map(|value| value.as_f64().expect("a number").to_string())
        .collect();
    assert!((weakest(&hits[&point.join(",")]) - highest).abs() < 1e-9);
}

#[test]
fn aggregates_and_readings_can_be_chosen_afterwards() {
    let best = |arguments: &[&str]| {
        json(
            avsweep(finished())
                .args(["best", "verbs", "--target", "medical=expert,legal=any,financial=base"])
                .args(arguments),
        )
    };
    for aggregate in ["min", "mean", "product"] {
        let answer = &best(&["--aggregate", aggregate])["targets"][0];
        let wanted: Vec<f64> = answer["domains"]
            .as_array()
            .expect("domains")
            .iter()
            .filter_map(|domain| domain["confirm"]["rate"].as_f64())
            .collect();
        assert_eq!(wanted.len(), 2, "a free domain has no rate");
        let by_hand = match aggregate {
            "min" => wanted[0].min(wanted[1]),
            "mean" => (wanted[0] + wanted[1]) / 2.0,
            _ => wanted[0] * wanted[1],
        };
        assert!((answer["confirm_aggregate"].as_f64().expect("a number") - by_hand).abs() < 1e-12);
    }
    for aggregate in ["min", "mean", "product"] {
        for reading in ["mean", "sum", "per-byte"] {
            let best = json(avsweep(finished()).args([
                "best",
                "verbs",
                "--all-targets",
                "--aggregate",
                aggregate,
                "--reading",
                reading,
            ]));
            let targets = best["targets"].as_array().expect("targets");
            assert_eq!(targets.len(), 27);
            for target in targets {
                assert!(
                    target["achieved"].is_boolean(),
                    "{aggregate} by {reading} has no confirm rates: {target}"
                );
            }
        }
    }
    let error = fail(avsweep(finished()).args(["best", "verbs", "--all-targets", "--reading", "judgement"]));
    assert!(error.contains("generation: all"), "{error}");
}

#[test]
fn a_sample_is_generated_judged_and_kept() {
    let folder = finished();
    let _working = working();
    let sample = || json(avsweep(folder).args(["sample", "verbs", "--point=0.25,0,-0.3"]));
    let first = sample();
    let responses = first["responses"].as_array().expect("responses");
    assert_eq!(responses.len(), 9, "three queries of each domain");
    assert!(responses.iter().all(|response| !response["response"].as_str().expect("text").trim().is_empty()));
    assert_eq!(first, sample(), "what is stored is not generated again");
    let id = responses[0]["query"].as_str().expect("an id");
    let one = json(avsweep(folder).args(["sample", "verbs", "--point=0.25,0,-0.3", "--query", id]));
    assert_eq!(one["responses"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["responses"][0]["response"], responses[0]["response"]);
    let error = misuse(avsweep(folder).args(["sample", "verbs", "--point=0.25,0"]));
    assert!(error.contains("2 values") && error.contains("alpha,beta,gamma"), "{error}");
    let error = misuse(avsweep(folder).args(["sample", "verbs", "--point=0,0,0", "--query", "nobody"]));
    assert!(error.contains("no query 'nobody'"), "{error}");
}

#[test]
fn both_export_formats_hold_the_same_results_in_the_same_order() {
    let folder = TempDir::new().expect("a temporary folder");
    let sweep = SweepText::new("exported", "1");
    sweep.write(folder.path());
    succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    let csv = succeed(avsweep(folder.path()).args(["export", "exported", "--format", "csv"]));
    let lines = succeed(avsweep(folder.path()).args(["export", "exported", "--format", "json"]));
    let rows: Vec<csv::StringRecord> =
        csv::Reader::from_reader(csv.as_bytes()).records().map(|record| record.expect("a record")).collect();
    let objects: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON Lines")).collect();
    assert_eq!(rows.len(), objects.len());
    assert!(rows.len() > 27 * 36, "27 points with 36 search queries each, and finalists");
    for (row, object) in rows.iter().zip(&objects) {
        assert_eq!(row[5], *object["query"].as_str().expect("an id"));
        assert_eq!(row[6], *object["rung"].as_str().expect("a rung"));
        let alpha: f64 = row[0].parse().expect("a number");
        assert_eq!(Some(alpha), object["point"]["alpha"].as_f64());
        if &row[6] == "likelihood" {
            let sum: f64 = row[8].parse().expect("a number");
            assert_eq!(Some(sum), object["scores"]["avoidance"]["log_prob_sum"].as_f64());
        }
    }
    let rungs: std::collections::BTreeSet<_> = rows.iter().map(|row| row[6].to_owned()).collect();
    assert_eq!(rungs.into_iter().collect::<Vec<_>>(), ["generation", "judgement", "likelihood"]);
}

#[test]
fn the_table_of_all_targets_fits_a_hundred_columns() {
    let table = succeed(avsweep(finished()).args(["best", "verbs", "--all-targets"]));
    let rows: Vec<&str> = table.lines().take(29).collect();
    assert_eq!(rows.iter().filter(|row| row.ends_with("yes") || row.ends_with("no")).count(), 27, "{table}");
    for row in rows {
        assert!(row.chars().count() <= 100, "{} columns: {row}", row.chars().count());
    }
}

#[test]
fn a_checked_file_tells_how_much_there_is_to_do() {
    let folder = TempDir::new().expect("a temporary folder");
    SweepText::new("counted", "0.5").write(folder.path());
    let counts = json(avsweep(folder.path()).args(["run", "sweep.yaml", "--check"]));
    assert_eq!(counts["points"], 125);
    assert_eq!(counts["jobs"], 125);
    assert_eq!(counts["queries_per_point"], 36);
    assert_eq!(counts["evaluations"], 125 * 36);
    assert!(!folder.path().join("test.db").exists(), "a check makes no store");
}

#[test]
fn a_sweep_that_nobody_would_run_is_not_created() {
    let folder = TempDir::new().expect("a temporary folder");
    SweepText::new("lonely", "1").write(folder.path());
    let mut create = avsweep(folder.path());
    create.env_remove("AVSWEEP_STORE").args(["sweep", "create", "sweep.yaml"]);
    let error = misuse(&mut create);
    assert!(error.contains("avsweep run sweep.yaml") && error.contains("--coordinator"), "{error}");
    assert!(!folder.path().join("avsweep.db").exists(), "no store is made either");
}

#[test]
fn a_sweep_of_a_store_is_steered_without_a_coordinator() {
    let folder = TempDir::new().expect("a temporary folder");
    SweepText::new("steered", "1").write(folder.path());
    let run = |arguments: &[&str]| json(avsweep(folder.path()).args(arguments));
    assert_eq!(run(&["sweep", "create", "sweep.yaml", "--priority", "2"])["created"], true);
    assert_eq!(run(&["sweep", "create", "sweep.yaml"])["created"], false);
    let standstill = run(&["sweep", "show", "steered"])["standstill"].to_string();
    assert!(standstill.contains("nobody works on it; 'avsweep run FILE --store "), "{standstill}");
    assert_eq!(run(&["sweep", "pause", "steered"])["state"], "paused");
    assert_eq!(run(&["sweep", "priority", "sweep.yaml", "-3"])["priority"], -3);
    let shown = run(&["sweep", "show", "steered"]);
    assert_eq!((shown["state"].as_str(), shown["priority"].as_i64()), (Some("paused"), Some(-3)));
    let error = fail(avsweep(folder.path()).args(["sweep", "rm", "steered", "--yes"]));
    assert!(error.contains("cancel it first"), "{error}");
    assert_eq!(run(&["sweep", "resume", "steered"])["state"], "running");
    assert_eq!(run(&["sweep", "cancel", "steered"])["state"], "cancelled");
    let error = misuse(avsweep(folder.path()).args(["sweep", "rm", "steered"]));
    assert!(error.contains("--yes"), "nobody can be asked: {error}");
    assert_eq!(run(&["sweep", "rm", "steered", "--yes"])["sweep"], "steered");
    assert_eq!(run(&["sweep", "ls"]), serde_json::json!([]));
    assert_eq!(run(&["workers", "ls"]), serde_json::json!([]));
}

/// The sweep of a store that has one; `None` while the store is not there yet.
fn only_sweep(folder: &Path) -> Option<serde_json::Value> {
    let output = avsweep(folder).args(["sweep", "ls", "--output", "json"]).output();
    let mut listed: Vec<serde_json::Value> = serde_json::from_slice(&output.ok()?.stdout).ok()?;
    listed.pop()
}

#[test]
fn a_sweep_whose_run_was_killed_stands_still_although_its_jobs_are_held() {
    let folder = TempDir::new().expect("a temporary folder");
    SweepText::new("killed", "0.1").write(folder.path());
    let mut run = Process::start(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    until("a job is held in the middle of the sweep", || {
        let sweep = only_sweep(folder.path())?;
        (sweep["workers"].as_u64() > Some(0) && sweep["points_done"].as_u64() > Some(0)).then_some(())
    });
    run.kill();
    let show = || json(avsweep(folder.path()).args(["sweep", "show", "killed"]));
    let shown = show();
    assert!(shown["workers"].as_u64() > Some(0), "what it held stays held: {shown}");
    assert_eq!(shown["standstill"], serde_json::json!([]), "it was heard of a moment ago");
    // A lease goes by.
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let options = SqliteConnectOptions::new().filename(folder.path().join("test.db"));
        let mut store = SqliteConnection::connect_with(&options).await.expect("the run made a store");
        sqlx::raw_sql("UPDATE workers SET last_seen = last_seen - 61000")
            .execute(&mut store)
            .await
            .expect("writable");
        store.close().await.expect("written");
    });
    let shown = show();
    assert!(shown["workers"].as_u64() > Some(0), "{shown}");
    let standstill = shown["standstill"].to_string();
    assert!(standstill.contains("nobody works on it; 'avsweep run FILE --store "), "{standstill}");
}

#[test]
fn a_run_whose_sweep_is_cancelled_says_so_and_fails() {
    let folder = TempDir::new().expect("a temporary folder");
    SweepText::new("cancelled", "0.1").write(folder.path());
    let mut run = Process::start(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    until("a point is done", || {
        let sweep = only_sweep(folder.path())?;
        (sweep["points_done"].as_u64() > Some(0)).then_some(())
    });
    succeed(avsweep(folder.path()).args(["sweep", "cancel", "cancelled"]));
    assert_eq!(run.end().code(), Some(1));
    assert!(run.said().contains("sweep 'cancelled' was cancelled"), "{}", run.said());
}

#[test]
fn an_export_whose_reader_went_away_is_no_failure() {
    for format in ["csv", "json"] {
        let mut export = avsweep(finished())
            .args(["export", "verbs", "--format", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        drop(export.stdout.take());
        let output = export.wait_with_output().expect("it ends");
        assert!(output.status.success() && output.stderr.is_empty(), "{format}: {}", stderr(&output));
    }
}

#[test]
fn best_wants_targets_and_one_place() {
    let error = misuse(avsweep(finished()).args(["best", "verbs"]));
    assert!(error.contains("--target <TARGET>|--all-targets"), "{error}");
    let places = ["--store", "test.db", "--coordinator", "http://127.0.0.1:1"];
    let error = misuse(avsweep(finished()).args(["best", "verbs", "--all-targets"]).args(places));
    assert!(error.contains("name two places"), "{error}");
}

#[test]
fn a_target_that_asks_for_nothing_has_no_n() {
    let target = "medical=any,legal=any,financial=any";
    let table = succeed(avsweep(finished()).args(["best", "verbs", "--target", target]));
    assert!(table.contains("1 of 1 targets hit") && !table.contains("n ="), "{table}");
}

#[test]
fn commands_of_one_machine_refuse_a_coordinator_with_a_hint() {
    let folder = TempDir::new().expect("a temporary folder");
    SweepText::new("refused", "1").write(folder.path());
    let coordinator = ["--coordinator", "http://127.0.0.1:1"];
    let error = misuse(avsweep(folder.path()).args(["run", "sweep.yaml"]).args(coordinator));
    assert!(error.contains("avsweep sweep create"), "{error}");
    let error = misuse(avsweep(folder.path()).arg("demo").args(coordinator));
    assert!(error.contains("avsweep sweep create"), "{error}");
}

#[test]
fn a_report_is_one_file_that_loads_nothing() {
    let folder = finished();
    succeed(avsweep(folder).args(["report", "verbs", "--out", "picture.html"]));
    let page = std::fs::read_to_string(folder.join("picture.html")).expect("the report was written");
    for part in ["medical", "legal", "financial", "alpha", "beta", "gamma"] {
        assert!(page.contains(part), "the report should hold {part}");
    }
    for loaded in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!page.contains(loaded), "the report loads something: {loaded}");
    }
}

#[test]
fn vectors_are_extracted_inspected_and_merged_back() {
    let folder = TempDir::new().expect("a temporary folder");
    let (base, vector) = (pocket().join("base"), pocket().join("medical.safetensors"));
    let run = |arguments: &[&str]| succeed(avsweep(folder.path()).args(arguments));
    let weighted = format!("{}=1", vector.display());
    run(&["merge", "--base", &base.display().to_string(), "--vector", &weighted, "--out", "aligned"]);
    run(&[
        "vector",
        "extract",
        "--base",
        &base.display().to_string(),
        "--aligned",
        "aligned",
        "--out",
        "again.safetensors",
    ]);
    let report = json(avsweep(folder.path()).args([
        "vector",
        "inspect",
        &vector.display().to_string(),
        "again.safetensors",
        "--base",
        &base.display().to_string(),
    ]));
    let cosine = report["cosine"][0][1].as_f64().expect("a number");
    assert!(cosine > 0.999, "the vector comes back as it went in: cosine {cosine}");
    let error = fail(avsweep(folder.path()).args([
        "merge",
        "--base",
        &base.display().to_string(),
        "--vector",
        &weighted,
        "--out",
        "aligned",
    ]));
    assert!(error.contains("aligned"), "a folder that holds something is not written over: {error}");
}

#[test]
fn a_knob_may_act_on_some_tensors_and_there_may_be_more_knobs_than_domains() {
    let folder = TempDir::new().expect("a temporary folder");
    let one = "  alpha: {vector: medical, min: -1, max: 1, step: 1}\n";
    let split = "  early: {vector: medical, min: 0, max: 1, step: 1, tensors: \"model.layers.0.*\"}\n  \
                 late: {vector: medical, min: 0, max: 1, step: 1, tensors: [\"model.layers.{1..9}.*\", \"*norm.weight\"]}\n";
    let sweep = SweepText::new("knobs", "1").with(one, split).with("max_new_tokens: 24", "generation: none");
    sweep.write(folder.path());
    succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    let shown = json(avsweep(folder.path()).args(["sweep", "show", "knobs"]));
    assert_eq!(shown["points_done"], 2 * 2 * 3 * 3);
}

#[test]
fn the_published_schema_accepts_the_example_sweeps() {
    let schema: serde_json::Value =
        serde_json::from_str(&succeed(avsweep(&pocket()).arg("schema"))).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("the schema is a JSON schema");
    for name in ["coarse.yaml", "grid.yaml"] {
        let text = std::fs::read_to_string(pocket().join(name)).expect("committed");
        let value: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}
