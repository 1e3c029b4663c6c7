//! Coordinators, workers and judges as processes, for the tests of the cluster's verbs.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::avsweep;

/// Longest time that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Tokens of the roles, as the test's coordinators know them.
pub(crate) const USER: &str = "token-of-users";
pub(crate) const WORKER: &str = "token-of-workers";
pub(crate) const JUDGE: &str = "token-of-judges";

/// Waits until `found` finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A process whose log lines (JSON on stderr) are kept. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .env("AVSWEEP_LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, kept) = (child.stderr.take().expect("a pipe"), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { child, log }
    }

    /// Everything said so far.
    pub(crate) fn said(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// A field of the first log line with this message.
    pub(crate) fn logged(&self, message: &str, field: &str) -> Option<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["message"] == message)
            .and_then(|line| line[field].as_str().map(str::to_owned))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the signal reaches the process");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        until("a process ends", || self.child.try_wait().expect("the process can be asked"))
    }

    /// Sends SIGTERM, waits for the end and gives the exit code.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.end().code()
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("SIGKILL reaches the process");
        self.child.wait().expect("the process can be waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A coordinator with tokens over one store, and whoever works for it.
pub(crate) struct Cluster {
    folder: TempDir,
    pub(crate) coordinator: Process,
    pub(crate) url: String,
}

impl Cluster {
    /// Over a SQLite file.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let store = folder.path().join("cluster.db").display().to_string();
        Self::over(folder, &store, &[])
    }

    /// Over any store, with further flags for the coordinator.
    pub(crate) fn over(folder: TempDir, store: &str, flags: &[&str]) -> Self {
        for (file, token) in [("user", USER), ("worker", WORKER), ("judge", JUDGE)] {
            std::fs::write(folder.path().join(file), token).expect("the folder is writable");
        }
        let (coordinator, url) = start_coordinator(folder.path(), store, "127.0.0.1:0", flags);
        Self { folder, coordinator, url }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A user's command.
    pub(crate) fn user(&self, arguments: &[&str]) -> Command {
        self.client("user", arguments)
    }

    /// A command with the token of a role.
    pub(crate) fn client(&self, token: &str, arguments: &[&str]) -> Command {
        let mut command = avsweep(self.folder());
        command
            .args(arguments)
            .args(["--coordinator", &self.url])
            .arg("--token-file")
            .arg(self.file(token))
            .env_remove("AVSWEEP_STORE");
        command
    }

    pub(crate) fn worker(&self, name: &str, flags: &[&str]) -> Process {
        let arguments = ["worker", "--name", name, "--threads", "1"];
        Process::start(self.client("worker", &arguments).args(flags))
    }

    pub(crate) fn judge(&self, name: &str) -> Process {
        Process::start(&mut self.client("judge", &["judge", "--name", name]))
    }
}

/// Starts a coordinator with the folder's tokens, and waits until it says where it listens.
pub(crate) fn start_coordinator(
    folder: &Path,
    store: &str,
    listen: &str,
    flags: &[&str],
) -> (Process, String) {
    let mut command = avsweep(folder);
    command
        .args(["coordinator", "--store", store, "--migrate", "--listen", listen])
        .args(["--metrics-listen", "127.0.0.1:0", "--lease", "5", "--drain", "5"])
        .args(["--user-token-file", "user", "--worker-token-file", "worker", "--judge-token-file", "judge"])
        .args(flags);
    let mut process = Process::start(&mut command);
    let address = until("the coordinator listens", || {
        let ended = process.child.try_wait().expect("the process can be asked");
        assert!(ended.is_none(), "the coordinator ended with {ended:?}:\n{}", process.said());
        process.logged("coordinator starts", "listen")
    });
    (process, format!("http://{address}"))
}
