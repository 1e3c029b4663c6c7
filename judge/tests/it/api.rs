//! A chat-completions server on this machine that does what a test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use avsweep_domain::{JudgeProvider, JudgeSettings};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A well-formed verdict.
    Label(&'static str),
    /// A chat completion with this message and finish reason.
    Completion(Value, &'static str),
    /// This status, these headers, this body.
    Raw(u16, Vec<(&'static str, String)>, String),
    /// No reply ever.
    Hang,
    /// Half a reply, then the connection breaks.
    Cut,
    /// A verdict once the test releases it.
    Held(&'static str),
}

impl Reply {
    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self::Raw(status, Vec::new(), body.to_owned())
    }

    pub(crate) fn content(content: &str) -> Self {
        Self::Completion(json!({"role": "assistant", "content": content}), "stop")
    }
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

impl Request {
    /// The text that was to be judged.
    pub(crate) fn response(&self) -> String {
        let user = self.body["messages"][1]["content"].as_str().unwrap();
        let item: Value = serde_json::from_str(user).unwrap();
        item["response"].as_str().unwrap().to_owned()
    }
}

type Choose = Box<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

struct Script {
    replies: Mutex<VecDeque<Reply>>,
    otherwise: Choose,
    requests: Mutex<Vec<Request>>,
    /// Now, and the most ever.
    under_way: Mutex<(usize, usize)>,
    released: tokio::sync::watch::Sender<bool>,
    changed: Notify,
}

/// The running server.
pub(crate) struct Api {
    script: Arc<Script>,
    pub(crate) base_url: String,
    _server: AbortOnDropHandle<()>,
}

impl Api {
    /// A server that gives these replies in turn and then `expert` verdicts.
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_with(replies, |_| None).await
    }

    /// A server that, when the replies are used up, does what `otherwise` says of a request.
    pub(crate) async fn start_with(
        replies: impl IntoIterator<Item = Reply>,
        otherwise: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let script = Arc::new(Script {
            replies: Mutex::new(replies.into_iter().collect()),
            otherwise: Box::new(otherwise),
            requests: Mutex::default(),
            under_way: Mutex::default(),
            released: tokio::sync::watch::channel(false).0,
            changed: Notify::new(),
        });
        let router =
            axum::Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::clone(&script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { script, base_url, _server: AbortOnDropHandle::new(server) }
    }

    pub(crate) fn settings(&self, api_key_env: Option<&str>) -> JudgeSettings {
        JudgeSettings {
            provider: JudgeProvider::Openai {
                base_url: self.base_url.clone(),
                model: "judge-model".to_owned(),
                api_key_env: api_key_env.map(str::to_owned),
                concurrency: 4,
                timeout_seconds: 60,
                max_attempts: 3,
            },
            rubric: avsweep_judge::DEFAULT_RUBRIC.to_owned(),
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.script.requests.lock().unwrap().clone()
    }

    /// The most requests that were ever under way at once.
    pub(crate) fn most_under_way(&self) -> usize {
        self.script.under_way.lock().unwrap().1
    }

    /// Lets every held reply go, now and later.
    pub(crate) fn release(&self) {
        self.script.released.send_replace(true);
    }

    /// Waits until this many requests have come.
    pub(crate) async fn wait_for_requests(&self, count: usize) {
        let enough = async {
            loop {
                let changed = self.script.changed.notified();
                if self.script.requests.lock().unwrap().len() >= count {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), enough).await.expect("the requests come");
    }
}

async fn answer(State(script): State<Arc<Script>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let request = Request {
        authorization: headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(&body).unwrap(),
    };
    let reply = script.replies.lock().unwrap().pop_front();
    let reply = reply.or_else(|| (script.otherwise)(&request)).unwrap_or(Reply::Label("expert"));
    script.requests.lock().unwrap().push(request);
    {
        let mut under_way = script.under_way.lock().unwrap();
        under_way.0 += 1;
        under_way.1 = under_way.1.max(under_way.0);
    }
    script.changed.notify_waiters();
    let response = perform(&script, reply).await;
    script.under_way.lock().unwrap().0 -= 1;
    response
}

async fn perform(script: &Script, reply: Reply) -> Response<Body> {
    let json = |status: StatusCode, body: String| {
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap()
    };
    match reply {
        Reply::Label(label) => {
            // Long enough for requests that may run side by side to do so.
            tokio::time::sleep(Duration::from_millis(5)).await;
            json(StatusCode::OK, verdict(label))
        }
        Reply::Held(label) => {
            script.released.subscribe().wait_for(|released| *released).await.unwrap();
            json(StatusCode::OK, verdict(label))
        }
        Reply::Completion(message, finish) => json(StatusCode::OK, completion(&message, finish)),
        Reply::Raw(status, headers, body) => {
            let mut response = json(StatusCode::from_u16(status).unwrap(), body);
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Reply::Hang => std::future::pending().await,
        Reply::Cut => {
            let whole = verdict("expert");
            let half = Bytes::from(whole[..whole.len() / 2].to_owned());
            let parts = half_and_error(half);
            Response::builder()
                .header(header::CONTENT_LENGTH, whole.len())
                .body(Body::from_stream(parts))
                .unwrap()
        }
    }
}

/// One part, then an error, which makes the server break the connection.
fn half_and_error(half: Bytes) -> impl tokio_stream::Stream<Item = Result<Bytes, std::io::Error>> {
    tokio_stream::iter([Ok(half), Err(std::io::Error::other("cut"))])
}

fn verdict(label: &str) -> String {
    let content = json!({"reason": "It is so.", "label": label}).to_string();
    completion(&json!({"role": "assistant", "content": content}), "stop")
}

fn completion(message: &Value, finish: &str) -> String {
    json!({"id": "c", "object": "chat.completion", "choices": [
        {"index": 0, "message": message, "finish_reason": finish}
    ]})
    .to_string()
}
