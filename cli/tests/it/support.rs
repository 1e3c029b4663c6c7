//! What the command's tests share: the binary, the pocket family, temporary sweeps.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The pocket family as committed.
pub(crate) fn pocket() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/pocket")
        .canonicalize()
        .expect("examples/pocket exists")
}

/// The `avsweep` binary, working in `folder` on the store `test.db` there.
pub(crate) fn avsweep(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_avsweep"));
    command
        .current_dir(folder)
        .env_remove("AVSWEEP_LOG")
        .env_remove("AVSWEEP_COORDINATOR")
        .env_remove("AVSWEEP_TOKEN")
        .env_remove("AVSWEEP_TOKEN_FILE")
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .env_remove("OTEL_EXPORTER_OTLP_CERTIFICATE")
        .env_remove("OPENAI_API_KEY")
        .env("AVSWEEP_STORE", folder.join("test.db"));
    command
}

/// Runs to the end and returns stdout; fails the test with everything said otherwise.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("the binary starts");
    assert!(output.status.success(), "{command:?} failed with {}:\n{}", output.status, stderr(&output));
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

/// Runs to the end, which must be exit code 1, and returns stderr.
#[track_caller]
pub(crate) fn fail(command: &mut Command) -> String {
    end_with(1, command)
}

/// Runs to the end, which must be exit code 2 (the command line is wrong), and returns stderr.
#[track_caller]
pub(crate) fn misuse(command: &mut Command) -> String {
    end_with(2, command)
}

#[track_caller]
fn end_with(code: i32, command: &mut Command) -> String {
    let output = command.output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(code), "{command:?}:\n{}", stderr(&output));
    stderr(&output)
}

/// A command's JSON.
pub(crate) fn json(command: &mut Command) -> Value {
    let text = succeed(command.args(["--output", "json"]));
    serde_json::from_str(&text).expect("--output json prints JSON")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Text of a sweep file over the pocket family, for tests to change.
#[derive(Clone)]
pub(crate) struct SweepText {
    pub(crate) text: String,
}

impl SweepText {
    /// Three coefficients of the given step, few queries; all paths absolute.
    pub(crate) fn new(name: &str, step: &str) -> Self {
        let pocket = pocket();
        let at = |file: &str| pocket.join(file).display().to_string();
        let text = format!(
            "name: {name}\n\
             model: {{base: \"{base}\"}}\n\
             vectors:\n  medical: \"{medical}\"\n  legal: \"{legal}\"\n  financial: \"{financial}\"\n\
             coefficients:\n\
             \x20 alpha: {{vector: medical, min: -1, max: 1, step: {step}}}\n\
             \x20 beta: {{vector: legal, min: -1, max: 1, step: {step}}}\n\
             \x20 gamma: {{vector: financial, min: -1, max: 1, step: {step}}}\n\
             domains:\n\
             \x20 medical: {{queries: \"{medical_queries}\"}}\n\
             \x20 legal: {{queries: \"{legal_queries}\"}}\n\
             \x20 financial: {{queries: \"{financial_queries}\"}}\n\
             evaluation: {{search_queries: 12, confirm_queries: 6, max_new_tokens: 24}}\n",
            base = at("base"),
            medical = at("medical.safetensors"),
            legal = at("legal.safetensors"),
            financial = at("financial.safetensors"),
            medical_queries = at("medical.jsonl"),
            legal_queries = at("legal.jsonl"),
            financial_queries = at("financial.jsonl"),
        );
        Self { text }
    }

    /// With a part replaced, which must be there.
    pub(crate) fn with(&self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "'{from}' is not in the sweep file:\n{}", self.text);
        Self { text: self.text.replace(from, to) }
    }

    /// Written as `sweep.yaml`.
    pub(crate) fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("sweep.yaml");
        std::fs::write(&path, &self.text).expect("the folder is writable");
        path
    }
}
