//! A judge's key leaves its process only for the addresses that its operator allows.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::processes::{Cluster, Process, until};
use crate::support::{SweepText, json as json_of, succeed};

const VARIABLE: &str = "ENDPOINT_KEY";
const SECRET: &str = "hunter2-hunter2-hunter2";

/// An OpenAI-compatible endpoint that calls every response expert.
struct Endpoint {
    url: String,
    /// The `authorization` of every request.
    seen: Arc<Mutex<Vec<Option<String>>>>,
    _runtime: Runtime,
}

impl Endpoint {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let noted = Arc::clone(&seen);
        let answer = post(move |headers: HeaderMap| async move {
            let key = headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(key);
            Json(json!({
                "choices": [{
                    "message": {"role": "assistant", "content": r#"{"reason": "so", "label": "expert"}"#},
                    "finish_reason": "stop",
                }],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
            }))
        });
        let router = Router::new().route("/v1/chat/completions", answer);
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, seen, _runtime: runtime }
    }

    fn keys(&self) -> Vec<Option<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn judge(cluster: &Cluster, name: &str, key_for: &str) -> Process {
    let mut command = cluster.client("judge", &["judge", "--name", name, "--key-for", key_for]);
    Process::start(command.env(VARIABLE, SECRET))
}

#[test]
fn a_key_is_sent_where_it_is_allowed_and_nowhere_else() {
    let endpoint = Endpoint::start();
    let cluster = Cluster::new();
    let mut sweep = SweepText::new("keyed", "2");
    sweep.text += &format!(
        "judge: {{provider: openai, model: some-model, base_url: \"{}\", api_key_env: {VARIABLE}}}\n",
        endpoint.url
    );
    sweep.write(cluster.folder());
    // Who creates the sweep needs no key.
    succeed(&mut cluster.user(&["sweep", "create", "sweep.yaml"]));
    let _worker = cluster.worker("worker", &[]);

    // Another address, and another variable for this one: neither is leave to send this key here.
    for (name, allowed) in [
        ("elsewhere", format!("{VARIABLE}=https://api.example.com/v1")),
        ("other-key", format!("OTHER_KEY={}", endpoint.url)),
    ] {
        let mut judge = judge(&cluster, name, &allowed);
        let problem = until("the judge says why it does not judge", || {
            let workers = json_of(&mut cluster.user(&["workers", "ls"]));
            let judge = workers.as_array()?.iter().find(|judge| judge["worker"] == name)?;
            judge["problem"].as_str().map(str::to_owned)
        });
        let told = format!("start the judge with --key-for {VARIABLE}={}", endpoint.url);
        assert!(problem.contains(&told), "what to do is not told: {problem}");
        assert_eq!(judge.terminate(), Some(0), "{}", judge.said());
        assert!(judge.said().contains(&told), "{}", judge.said());
        assert!(!judge.said().contains(SECRET) && !problem.contains(SECRET));
    }
    assert_eq!(endpoint.keys(), [], "nothing was sent");

    let mut judge = judge(&cluster, "allowed", &format!("{VARIABLE}={}", endpoint.url));
    let watched = succeed(&mut cluster.user(&["sweep", "watch", "keyed", "--output", "json"]));
    let last: Value = serde_json::from_str(watched.lines().last().expect("a line")).expect("JSON Lines");
    assert_eq!((last["state"].as_str(), last["failures"].as_u64()), (Some("done"), Some(0)), "{last}");
    let keys = endpoint.keys();
    assert!(!keys.is_empty());
    assert!(keys.iter().all(|key| key.as_deref() == Some(&format!("Bearer {SECRET}"))), "{keys:?}");
    assert_eq!(judge.terminate(), Some(0), "{}", judge.said());
    assert!(!judge.said().contains(SECRET) && !cluster.coordinator.said().contains(SECRET));
}
