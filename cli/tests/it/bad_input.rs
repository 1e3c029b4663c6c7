//! Bad input gets a clear error that names the place, what was found and what is wanted, before any model work.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::support::{SweepText, avsweep, fail, misuse, pocket, stderr, succeed};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

/// Runs a sweep file that must be refused; nothing may have been made.
#[track_caller]
fn refused(sweep: &SweepText, wanted: &[&str]) {
    let folder = TempDir::new().expect("a temporary folder");
    refused_in(folder.path(), sweep, wanted);
}

#[track_caller]
fn refused_in(folder: &Path, sweep: &SweepText, wanted: &[&str]) {
    sweep.write(folder);
    let error = fail(avsweep(folder).args(["run", "sweep.yaml"]));
    for part in wanted {
        assert!(error.contains(part), "the error should say '{part}':\n{error}");
    }
    assert!(!folder.join("test.db").exists(), "a refused sweep makes no store");
}

fn sweep() -> SweepText {
    SweepText::new("bad", "1")
}

/// A vector file with its tensors changed by `change`, in a folder of its own.
fn changed_vector(change: impl FnOnce(&mut HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) -> TempDir {
    let bytes = fs::read(pocket().join("legal.safetensors")).expect("the pocket family is committed");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut tensors: HashMap<_, _> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let folder = TempDir::new().expect("a temporary folder");
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a consistent tensor"))
        })
        .collect();
    safetensors::serialize_to_file(
        views,
        header.metadata().clone(),
        &folder.path().join("legal.safetensors"),
    )
    .expect("the folder is writable");
    folder
}

fn with_vector(folder: &TempDir) -> SweepText {
    let original = pocket().join("legal.safetensors").display().to_string();
    let changed = folder.path().join("legal.safetensors").display().to_string();
    sweep().with(&original, &changed)
}

/// The pocket's legal queries with a line changed, and a sweep over them.
fn with_queries(change: impl Fn(usize, &str) -> String) -> (TempDir, SweepText) {
    let original = pocket().join("legal.jsonl");
    let text = fs::read_to_string(&original).expect("the pocket family is committed");
    let changed: String = text.lines().enumerate().map(|(index, line)| change(index, line) + "\n").collect();
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("legal.jsonl");
    fs::write(&path, changed).expect("the folder is writable");
    let sweep = sweep().with(&original.display().to_string(), &path.display().to_string());
    (folder, sweep)
}

#[test]
fn an_unknown_key_is_refused_with_its_nearest_neighbour() {
    refused(
        &sweep().with("search_queries", "serch_queries"),
        &["evaluation.serch_queries", "unknown key", "did you mean 'search_queries'?"],
    );
    refused(&sweep().with("coefficients:", "coeficients:"), &["coeficients", "did you mean 'coefficients'?"]);
    refused(
        &sweep().with("max: 1, step: 1}", "max: 1, setp: 1}"),
        &["did you mean 'step'?", "coefficients.alpha"],
    );
}

#[test]
fn a_value_of_a_closed_set_is_refused_with_the_values_there_are() {
    refused(
        &SweepText { text: sweep().text + "strategy: {kind: bayesan}\n" },
        &[
            "strategy.kind: 'bayesan' is none of grid, hierarchical, bayesian, random, sobol",
            "(did you mean 'bayesian'?)",
        ],
    );
    refused(
        &SweepText { text: sweep().text + "judge: {provider: anthropic}\n" },
        &["judge.provider: 'anthropic' is none of reference, openai"],
    );
    refused(
        &sweep().with("max_new_tokens: 24", "generation: finalist"),
        &["evaluation.generation: 'finalist' is none of none, finalists, all (did you mean 'finalists'?)"],
    );
    refused(
        &sweep().with("max: 1, step: 1}", "max: 1, step: 1, tensors: 5}"),
        &["coefficients.alpha.tensors: 5 was found; a text or a list of texts is wanted"],
    );
    refused(
        &sweep().with("max: 1, step: 1}", "max: 1, step: 1, tensors: [5]}"),
        &["coefficients.alpha.tensors: [5] was found; a text or a list of texts is wanted"],
    );
    refused(
        &SweepText { text: sweep().text + "strategy: bayesian\n" },
        &["strategy: 'bayesian' was found; a mapping is wanted"],
    );
}

#[test]
fn a_step_that_does_not_divide_the_range_is_refused() {
    refused(
        &SweepText::new("bad", "0.3"),
        &["coefficients.alpha", "step 0.3 does not divide the range from -1 to 1", "0.8"],
    );
}

#[test]
fn a_missing_file_is_named_with_its_field() {
    refused(&sweep().with("medical.jsonl", "nowhere.jsonl"), &["domains.medical.queries", "nowhere.jsonl"]);
    refused(&sweep().with("legal.safetensors", "lost.safetensors"), &["vectors.legal", "lost.safetensors"]);
    let folder = TempDir::new().expect("a temporary folder");
    let error = fail(avsweep(folder.path()).args(["run", "absent.yaml"]));
    assert!(error.contains("absent.yaml: cannot be read"), "{error}");
}

#[test]
fn a_safetensors_file_cut_short_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let bytes = fs::read(pocket().join("legal.safetensors")).expect("the pocket family is committed");
    fs::write(folder.path().join("legal.safetensors"), &bytes[..bytes.len() / 2]).expect("writable");
    refused(&with_vector(&folder), &["vectors.legal", "legal.safetensors", "cut short"]);
}

#[test]
fn a_tensor_missing_in_one_vector_is_named() {
    let folder = changed_vector(|tensors| {
        tensors.remove("model.layers.0.mlp.down_proj.weight").expect("the pocket model has it");
    });
    // Whoever wrote this file does not say that what is absent did not change.
    let path = folder.path().join("legal.safetensors");
    let bytes = fs::read(&path).expect("just written");
    let file = SafeTensors::deserialize(&bytes).expect("just written");
    safetensors::serialize_to_file(file.tensors(), None, &path).expect("writable");
    refused(&with_vector(&folder), &["legal.safetensors", "model.layers.0.mlp.down_proj.weight"]);
}

#[test]
fn a_shape_mismatch_names_tensor_and_both_shapes() {
    let folder = changed_vector(|tensors| {
        let (_, shape, _) =
            tensors.get_mut("model.layers.0.mlp.down_proj.weight").expect("the pocket model has it");
        shape.swap(0, 1);
    });
    refused(&with_vector(&folder), &["legal.safetensors", "model.layers.0.mlp.down_proj.weight", "["]);
}

#[test]
fn a_nan_in_a_vector_names_its_tensor() {
    let folder = changed_vector(|tensors| {
        let (dtype, _, data) = tensors.get_mut("model.layers.0.mlp.down_proj.weight").expect("it is there");
        // All ones in exponent and fraction is a NaN in every float type.
        let size = dtype.bitsize() / 8;
        data[5 * size..6 * size].fill(0xff);
    });
    refused(&with_vector(&folder), &["legal.safetensors", "model.layers.0.mlp.down_proj.weight", "NaN"]);
}

#[test]
fn a_vector_that_is_zero_is_told_before_any_work() {
    let zero = changed_vector(|tensors| tensors.values_mut().for_each(|(_, _, data)| data.fill(0)));
    let folder = TempDir::new().expect("a temporary folder");
    let notes = |sweep: &SweepText| {
        sweep.write(folder.path());
        let output =
            avsweep(folder.path()).args(["run", "--check", "sweep.yaml"]).output().expect("it starts");
        assert!(output.status.success(), "it is no error: {}", stderr(&output));
        stderr(&output)
    };
    let told = notes(&with_vector(&zero));
    let file = zero.path().join("legal.safetensors").display().to_string();
    assert!(told.contains("warning: vectors.legal") && told.contains(&file), "{told}");
    assert!(!told.contains("vectors.medical"), "{told}");
    let told = notes(&sweep());
    assert!(!told.contains("warning"), "{told}");
}

#[test]
fn a_duplicate_query_id_names_both_places() {
    let (_folder, sweep) = with_queries(|index, line| {
        if index == 4 {
            let mut query: serde_json::Value = serde_json::from_str(line).expect("a query");
            let first = fs::read_to_string(pocket().join("legal.jsonl")).expect("committed");
            let first: serde_json::Value =
                serde_json::from_str(first.lines().next().expect("a line")).expect("a query");
            query["id"] = first["id"].clone();
            query.to_string()
        } else {
            line.to_owned()
        }
    });
    refused(&sweep, &["legal.jsonl:5", "stands on line 1 already"]);
}

#[test]
fn a_reference_missing_for_a_level_names_query_and_level() {
    let (_folder, sweep) = with_queries(|index, line| {
        let mut query: serde_json::Value = serde_json::from_str(line).expect("a query");
        if index == 2 {
            query["references"].as_object_mut().expect("references").remove("expert");
        }
        query.to_string()
    });
    refused(&sweep, &["legal.jsonl:3", "no reference for level 'expert'"]);
}

#[test]
fn a_query_longer_than_the_models_context_is_named_before_any_job_fails_on_it() {
    let (_folder, sweep) = with_queries(|index, line| {
        let mut query: serde_json::Value = serde_json::from_str(line).expect("a query");
        if index == 3 {
            query["query"] = "What is a lease? ".repeat(2000).into();
        }
        query.to_string()
    });
    let id: serde_json::Value = serde_json::from_str(
        fs::read_to_string(pocket().join("legal.jsonl")).expect("committed").lines().nth(3).expect("a line"),
    )
    .expect("a query");
    refused(&sweep, &["domains.legal.queries", id["id"].as_str().expect("an id"), "context"]);
}

#[test]
fn an_absent_judge_key_is_refused_before_any_work() {
    let sweep = SweepText { text: sweep().text + "judge: {provider: openai, model: some-model}\n" };
    refused(&sweep, &["OPENAI_API_KEY"]);
}

#[test]
fn a_tensor_pattern_that_matches_nothing_names_coefficient_and_pattern() {
    refused(
        &sweep().with(
            "alpha: {vector: medical, min: -1, max: 1, step: 1}",
            "alpha: {vector: medical, min: -1, max: 1, step: 1, tensors: \"model.layers.99.*\"}",
        ),
        &["alpha", "model.layers.99.*"],
    );
}

#[test]
fn a_coefficient_of_an_unknown_vector_is_refused_with_a_hint() {
    refused(
        &sweep().with("vector: medical,", "vector: medcal,"),
        &["coefficients.alpha.vector", "'medical'"],
    );
}

#[test]
fn bad_targets_name_the_unknown_level_or_domain() {
    let folder = TempDir::new().expect("a temporary folder");
    let sweep = SweepText::new("tiny", "2").with("max_new_tokens: 24", "generation: none");
    sweep.write(folder.path());
    succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    let best = |target: &str| misuse(avsweep(folder.path()).args(["best", "tiny", "--target", target]));
    let error = best("medical=export,legal=any,financial=any");
    assert!(error.contains("'export'") && error.contains("did you mean 'expert'?"), "{error}");
    let error = best("medicine=expert,legal=any,financial=any");
    assert!(error.contains("'medicine'") && error.contains("medical, legal, financial"), "{error}");
    let error = fail(avsweep(folder.path()).args(["best", "tny", "--all-targets"]));
    assert!(error.contains("'tny'") && error.contains("tiny"), "{error}");
}

#[test]
fn a_store_written_by_a_newer_version_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let sweep = SweepText::new("tiny", "2").with("max_new_tokens: 24", "generation: none");
    sweep.write(folder.path());
    succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let options = SqliteConnectOptions::new().filename(folder.path().join("test.db"));
        let mut store = SqliteConnection::connect_with(&options).await.expect("the run made a store");
        sqlx::raw_sql("PRAGMA user_version = 9999").execute(&mut store).await.expect("writable");
        store.close().await.expect("written");
    });
    for command in [&["run", "sweep.yaml"][..], &["best", "tiny", "--all-targets"], &["sweep", "ls"]] {
        let error = fail(avsweep(folder.path()).args(command));
        assert!(error.contains("test.db") && error.contains("9999"), "{error}");
    }
}
