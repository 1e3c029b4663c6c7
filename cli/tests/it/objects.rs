//! Model files in object storage: a cluster whose processes share nothing but the bucket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use avsweep_testing::s3;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::processes::{Cluster, Process, until};
use crate::support::{SweepText, avsweep, json, pocket, succeed};

const VECTORS: [&str; 3] = ["medical", "legal", "financial"];

/// The pocket family in a bucket.
struct Bucket {
    server: s3::Server,
    _runtime: Runtime,
}

impl Bucket {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let server = runtime.block_on(s3::Server::start()).expect("a port");
        for file in fs::read_dir(pocket().join("base")).expect("the pocket family is committed") {
            let file = file.expect("the folder can be listed");
            let content = fs::read(file.path()).expect("a file");
            let name = file.file_name().into_string().expect("a plain name");
            server.put(&format!("pocket/base/{name}"), &content).expect("writable");
        }
        for name in VECTORS {
            let content = fs::read(pocket().join(format!("{name}.safetensors"))).expect("a file");
            server.put(&format!("pocket/{name}.safetensors"), &content).expect("writable");
        }
        Self { server, _runtime: runtime }
    }

    /// A sweep whose model files are in the bucket, and whose queries are files.
    fn sweep(&self, local: &SweepText) -> SweepText {
        let at = |file: &str| pocket().join(file).display().to_string();
        let sweep = local.with(&at("base"), "s3://models/pocket/base");
        VECTORS.iter().fold(sweep, |sweep, name| {
            let file = format!("{name}.safetensors");
            sweep.with(&at(&file), &format!("s3://models/pocket/{file}"))
        })
    }

    /// With the bucket's credentials and a cache of its own.
    fn reached<'a>(&self, command: &'a mut Command, cache: &Path) -> &'a mut Command {
        command.envs(s3::variables(self.server.address)).env("AVSWEEP_CACHE", cache)
    }
}

/// The cached file of this name.
fn cached(cache: &Path, name: &str) -> PathBuf {
    let mut folders = vec![cache.to_owned()];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).expect("the cache can be listed") {
            let path = file.expect("the cache can be listed").path();
            if path.is_file() && path.ends_with(name) {
                return path;
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    panic!("{name} is not in the cache {}", cache.display());
}

/// The local run's answer: best points and export.
fn answer(folder: &Path, sweep: &SweepText, name: &str) -> (Value, String) {
    sweep.write(folder);
    succeed(avsweep(folder).args(["run", "sweep.yaml"]));
    let best = json(avsweep(folder).args(["best", name, "--all-targets"]));
    (best, succeed(avsweep(folder).args(["export", name, "--format", "csv"])))
}

#[test]
fn a_sweep_over_a_bucket_gives_the_answer_of_local_files_and_a_spoilt_cache_is_noticed() {
    let bucket = Bucket::new();
    let cluster = Cluster::new();
    let folder = |name: &str| cluster.folder().join(name);
    let worker = |name: &str, cache: &str| {
        let mut command = cluster.client("worker", &["worker", "--name", name, "--threads", "1"]);
        Process::start(bucket.reached(&mut command, &folder(cache)))
    };
    let create = |text: &SweepText| {
        bucket.sweep(text).write(cluster.folder());
        let mut command = cluster.user(&["sweep", "create", "sweep.yaml"]);
        succeed(bucket.reached(&mut command, &folder("cache-of-user")));
    };
    let watch = |name: &str| {
        let watched = succeed(&mut cluster.user(&["sweep", "watch", name, "--output", "json"]));
        let last: Value = serde_json::from_str(watched.lines().last().expect("a line")).expect("JSON Lines");
        assert_eq!((last["state"].as_str(), last["failures"].as_u64()), (Some("done"), Some(0)), "{last}");
    };
    let has = |name: &str, wanted: &(Value, String)| {
        assert_eq!(wanted.0, json(&mut cluster.user(&["best", name, "--all-targets"])));
        assert_eq!(wanted.1, succeed(&mut cluster.user(&["export", name, "--format", "csv"])));
    };
    let local = TempDir::new().expect("a temporary folder");
    let _judge = cluster.judge("judge");

    let text = SweepText::new("bucket", "1");
    let mut crew = [worker("one", "cache-1"), worker("two", "cache-2")];
    create(&text);
    watch("bucket");
    has("bucket", &answer(local.path(), &text, "bucket"));
    for process in &mut crew {
        assert_eq!(process.terminate(), Some(0), "{}", process.said());
    }

    // Something else writes to a cache: as many bytes as before, and others.
    let vector = cached(&folder("cache-1"), "legal.safetensors");
    let mut spoilt = fs::read(&vector).expect("cached");
    let end = spoilt.len() - 8;
    spoilt[end..].fill(0);
    fs::write(&vector, spoilt).expect("writable");
    let downloads = bucket.server.downloads().len();
    let text = SweepText::new("again", "1").with("search_queries: 12", "search_queries: 13");
    create(&text);
    let mut three = worker("three", "cache-1");
    watch("again");
    assert!(three.said().contains("is not what was downloaded"), "{}", three.said());
    let fetched: Vec<_> =
        bucket.server.downloads().into_iter().skip(downloads).map(|seen| seen.path).collect();
    assert_eq!(fetched, ["/models/pocket/legal.safetensors"], "only what was spoilt is fetched again");
    assert!(
        fs::read(&vector).expect("cached") == fs::read(pocket().join("legal.safetensors")).expect("a file")
    );
    has("again", &answer(local.path(), &text, "again"));
    assert_eq!(three.terminate(), Some(0), "{}", three.said());

    // The bucket's files are no longer those that the sweep was created with.
    create(&SweepText::new("changed", "1").with("search_queries: 12", "search_queries: 14"));
    let other = fs::read(pocket().join("medical.safetensors")).expect("a file");
    bucket.server.put("pocket/legal.safetensors", &other).expect("writable");
    let mut four = worker("four", "cache-4");
    until("the worker says which file differs", || {
        let workers = json(&mut cluster.user(&["workers", "ls"]));
        let four = workers.as_array()?.iter().find(|worker| worker["worker"] == "four")?;
        let problem = four["problem"].as_str()?;
        (problem.contains("legal.safetensors") && problem.contains("fingerprint")).then_some(())
    });
    assert_eq!(four.terminate(), Some(0), "{}", four.said());
}
