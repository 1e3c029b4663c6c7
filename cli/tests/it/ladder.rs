//! The ladder and stop strings, as sweep files ask for them.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{SweepText, avsweep, fail, json, stderr, succeed};

const SWEEP: &str = "ladder";

fn sweep(evaluation: &str) -> SweepText {
    SweepText::new(SWEEP, "0.5").with(
        "evaluation: {search_queries: 12, confirm_queries: 6, max_new_tokens: 24}",
        &format!("evaluation: {{search_queries: 12, confirm_queries: 6, max_new_tokens: 24{evaluation}}}"),
    )
}

#[test]
fn a_ladder_judges_as_many_points_as_it_says_and_stop_strings_end_responses() {
    let folder = TempDir::new().expect("a temporary folder");
    sweep(", stop: [\".\"], ladder: {confidence: 0.9, most: 20}").write(folder.path());
    succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    let shown = json(avsweep(folder.path()).args(["sweep", "show", SWEEP]));
    assert_eq!(shown["state"], "done");
    let ladder = &shown["agreement"]["ladder"];
    let number = |key: &str| ladder[key].as_u64().unwrap_or_else(|| panic!("no {key}: {ladder}"));
    assert_eq!(number("judged"), number("wanted"), "{ladder}");
    assert!((number("first")..=number("first") + 20).contains(&number("wanted")), "{ladder}");
    let domains = shown["agreement"]["domains"].as_array().expect("domains");
    assert!(domains.iter().all(|domain| domain["points"] == 24), "{domains:?}");

    for (reading, noted) in
        [(&[][..], true), (&["--reading", "judgement"], true), (&["--reading", "mean"], false)]
    {
        let mut best = avsweep(folder.path());
        let output = best.args(["best", SWEEP, "--all-targets"]).args(reading).output().expect("it starts");
        let said = stderr(&output);
        assert!(
            output.status.success() && said.contains("no P(best) by the judge") == noted,
            "{reading:?}: {said}"
        );
        assert!(!String::from_utf8_lossy(&output.stdout).contains("P(best)"));
    }

    let facts = succeed(avsweep(folder.path()).args(["sweep", "show", SWEEP]));
    let points = format!("{0} of {0} points judged", number("judged"));
    assert!(facts.contains(&points), "{facts}");
    succeed(avsweep(folder.path()).args(["report", SWEEP, "--out", "report.html"]));
    let report = std::fs::read_to_string(folder.path().join("report.html")).expect("a report");
    assert!(report.contains(&points) && report.contains("Likelihood against judge, medical"));

    let rows = succeed(avsweep(folder.path()).args(["export", SWEEP, "--format", "json"]));
    let responses: Vec<String> = rows
        .lines()
        .map(|row| serde_json::from_str::<Value>(row).expect("JSON"))
        .filter_map(|row| row["text"].as_str().map(str::to_owned))
        .collect();
    assert!(!responses.is_empty() && responses.iter().all(|response| !response.contains('.')));
}

#[test]
fn a_ladder_or_a_stop_string_that_does_not_fit_is_refused_with_file_and_key() {
    for (evaluation, wanted) in [
        (", generation: all, ladder: {}", "evaluation.ladder needs 'generation: finalists'"),
        (", ladder: {}, racing: {}", "evaluation.ladder and evaluation.racing are both given"),
        (", ladder: {confidence: 2}", "evaluation.ladder.confidence"),
        (", ladder: {highest: 5}", "evaluation.ladder.highest: unknown key"),
        (", stop: [\"\"]", "evaluation.stop"),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        sweep(evaluation).write(folder.path());
        let error = fail(avsweep(folder.path()).args(["run", "sweep.yaml"]));
        assert!(
            error.contains(wanted) && error.contains("sweep.yaml"),
            "{evaluation} should say '{wanted}':\n{error}"
        );
        assert!(!folder.path().join("test.db").exists(), "a refused sweep makes no store");
    }
}
