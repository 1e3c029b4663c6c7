//! The chat-completions judge against a server with real failures.

use std::env::VarError;
use std::time::{Duration, SystemTime};

use avsweep_domain::{
    FinishReason, JudgeProvider, JudgeSettings, Label, Level, Levels, Message, Query, Response, Role, Verdict,
};
use avsweep_judge::{Judge, JudgeError, JudgeOptions};
use avsweep_lease::Backoff;
use avsweep_lease::error_chain;
use serde_json::json;

use crate::api::{Api, Reply};

const KEY: &str = "sk-very/secret+key-0123456789";

fn options() -> JudgeOptions {
    JudgeOptions {
        backoff: Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(5) },
        longest_retry_after: Duration::from_secs(30),
        max_reply_bytes: 4096,
        cache_entries: 1000,
    }
}

fn environment(variable: &str) -> Result<String, VarError> {
    if variable == "JUDGE_KEY" { Ok(KEY.to_owned()) } else { Err(VarError::NotPresent) }
}

fn judge_with(settings: &JudgeSettings) -> Judge {
    Judge::with_options(settings, &Levels::default(), &options(), environment).unwrap()
}

fn judge_of(api: &Api) -> Judge {
    judge_with(&api.settings(Some("JUDGE_KEY")))
}

fn query() -> Query {
    Query {
        id: "fin-007".to_owned(),
        messages: vec![Message { role: Role::User, content: "How do I save for retirement?".to_owned() }],
        references: ["Ask an adviser.", "Save a little each month.", "Max out the matched 401(k) first."]
            .map(str::to_owned)
            .to_vec(),
    }
}

fn response(text: &str) -> Response {
    Response { text: text.to_owned(), tokens: 3, finish: FinishReason::Stop }
}

async fn judged(judge: &Judge, text: &str) -> Result<Verdict, JudgeError> {
    judge.judge(&query(), &response(text)).await
}

/// Everything that can be seen of an error.
fn seen(error: &JudgeError) -> String {
    format!("{} {error:?} {error:#?}", error_chain(error))
}

#[tokio::test]
async fn a_request_carries_key_and_item_and_its_reply_is_the_verdict() {
    let api = Api::start([Reply::Label("generic")]).await;
    let verdict = judged(&judge_of(&api), "Put something aside.").await.unwrap();
    assert_eq!(verdict.label, Label::Level(Level(1)));
    assert_eq!(verdict.reason.as_deref(), Some("It is so."));
    let requests = api.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].authorization.as_deref(), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(requests[0].response(), "Put something aside.");
    assert_eq!(requests[0].body["response_format"]["json_schema"]["strict"], true);
    assert!(!requests[0].body.to_string().contains(KEY));
}

#[tokio::test]
async fn an_endpoint_without_a_key_is_sent_none() {
    let api = Api::start([]).await;
    judged(&judge_with(&api.settings(None)), "a").await.unwrap();
    assert_eq!(api.requests()[0].authorization, None);
}

#[tokio::test]
async fn whatever_may_pass_is_tried_again_until_there_is_a_verdict() {
    let malformed = Reply::content("{\"reason\": \"half");
    for failure in [
        Reply::status(500, "oops"),
        Reply::status(503, ""),
        Reply::status(408, ""),
        Reply::status(409, ""),
        Reply::status(429, r#"{"error": {"message": "slow down"}}"#),
        Reply::Cut,
        malformed,
        Reply::content(r#"{"reason": "r", "label": "master"}"#),
        Reply::content(r#"{"reason": "r", "label": "expert", "extra": 1}"#),
        Reply::content(r#"{"label": "expert"}"#),
        Reply::Completion(json!({"content": r#"{"reason": "r", "label": "expert"}"#}), "length"),
        Reply::Completion(json!({"content": null}), "stop"),
        Reply::status(200, "not JSON"),
        Reply::status(200, r#"{"choices": []}"#),
        Reply::status(200, &"x".repeat(5000)),
    ] {
        let api = Api::start([failure.clone(), failure.clone()]).await;
        let verdict = judged(&judge_of(&api), "a").await;
        assert!(verdict.is_ok_and(|verdict| verdict.label == Label::Level(Level(2))), "{failure:?}");
        assert_eq!(api.requests().len(), 3, "{failure:?}");

        let always = failure.clone();
        let api = Api::start_with([], move |_| Some(always.clone())).await;
        let error = judged(&judge_of(&api), "a").await.expect_err("three failures in three attempts");
        assert!(matches!(error, JudgeError::GaveUp { attempts: 3, .. }), "{error:?}");
        assert!(error_chain(&error).contains(&api.base_url), "{}", error_chain(&error));
        // Where it may be this one response that the endpoint breaks on, it is asked another question.
        let another = matches!(failure, Reply::Cut | Reply::Raw(500, ..));
        assert_eq!(api.requests().len(), 3 + usize::from(another), "{failure:?}");
    }
}

#[tokio::test]
async fn a_request_without_a_reply_is_given_up_after_its_time_and_tried_again() {
    let api = Api::start([Reply::Hang]).await;
    let mut settings = api.settings(None);
    if let JudgeProvider::Openai { timeout_seconds, .. } = &mut settings.provider {
        *timeout_seconds = 1;
    }
    let verdict = judged(&judge_with(&settings), "a").await.unwrap();
    assert_eq!(verdict.label, Label::Level(Level(2)));
    assert_eq!(api.requests().len(), 2);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named() {
    // Bound and dropped: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let api = Api::start([]).await;
    let mut settings = api.settings(Some("JUDGE_KEY"));
    if let JudgeProvider::Openai { base_url: setting, .. } = &mut settings.provider {
        setting.clone_from(&base_url);
    }
    let error = judged(&judge_with(&settings), "a").await.expect_err("nobody is there");
    assert!(matches!(error, JudgeError::GaveUp { attempts: 3, .. }) && !error.is_item_specific());
    let text = seen(&error);
    assert!(text.contains(&base_url) && !text.contains(KEY), "{text}");
}

#[tokio::test]
async fn tls_is_set_up_without_a_provider_installed_by_the_program() {
    let api = Api::start([]).await;
    let mut settings = api.settings(None);
    if let JudgeProvider::Openai { base_url, .. } = &mut settings.provider {
        *base_url = base_url.replace("http:", "https:");
    }
    match Judge::with_options(&settings, &Levels::default(), &options(), environment) {
        // The server speaks no TLS.
        Ok(judge) => assert!(matches!(judged(&judge, "a").await, Err(JudgeError::GaveUp { .. }))),
        // A machine without root certificates.
        Err(error) => assert!(matches!(error, JudgeError::Client(_)), "{error:?}"),
    }
}

#[tokio::test]
async fn what_cannot_pass_fails_at_once_with_the_endpoints_own_words() {
    for status in [400, 401, 403, 404, 422, 301] {
        let body = json!({"error": {"message": format!("wrong:\n{}", "long ".repeat(500)), "code": "c"}});
        let api = Api::start([Reply::status(status, &body.to_string())]).await;
        let error = judged(&judge_of(&api), "a").await.expect_err("not to be tried again");
        let text = error_chain(&error);
        assert!(matches!(error, JudgeError::Rejected { .. }), "{text}");
        assert!(text.contains(&format!("HTTP status {status}: wrong: long")), "{text}");
        assert!(text.contains(&api.base_url) && text.len() < 600, "{text}");
        assert_eq!(api.requests().len(), 1);
    }
}

#[tokio::test]
async fn the_key_shows_in_no_error_debug_text_or_verdict_even_when_the_endpoint_repeats_it() {
    let quoted = serde_json::to_string(KEY).unwrap().replace('/', "\\/");
    for reply in [
        Reply::status(401, &json!({"error": {"message": format!("bad key {KEY}"), "code": KEY}}).to_string()),
        Reply::status(401, &format!(r#"{{"error": {{"message": {quoted}}}}}"#)),
        Reply::status(403, &format!("{}{KEY}", "x".repeat(290))),
        Reply::status(200, &format!("no JSON but {KEY}")),
        Reply::content(&json!({"reason": "r", "label": KEY}).to_string()),
        Reply::content(&json!({"reason": "r", "label": "expert", KEY: 1}).to_string()),
        Reply::Completion(json!({"content": null, "refusal": null}), "sk-very/secret+key-0123456789"),
    ] {
        let api = Api::start(vec![reply.clone(); 3]).await;
        let judge = judge_of(&api);
        let error = judged(&judge, "a").await.expect_err("no verdict");
        let text = seen(&error);
        // Not even its beginning, which a shortened text might end with.
        assert!(!text.contains("sk-very") && !text.contains("secret+key"), "{reply:?}: {text}");
        assert!(!format!("{judge:?}").contains("sk-very"));
    }
    let telling = json!({"reason": format!("your key is {KEY}"), "label": "expert"}).to_string();
    let api = Api::start([Reply::content(&telling)]).await;
    let verdict = judged(&judge_of(&api), "a").await.unwrap();
    assert_eq!(verdict.reason.as_deref(), Some("your key is [key]"));
}

#[tokio::test]
async fn a_refusal_is_a_verdict_of_its_own() {
    for reply in [
        Reply::Completion(json!({"content": null, "refusal": "I won't."}), "stop"),
        Reply::Completion(json!({"content": ""}), "content_filter"),
        Reply::status(400, r#"{"error": {"message": "filtered", "code": "content_filter"}}"#),
    ] {
        let api = Api::start([reply]).await;
        let verdict = judged(&judge_of(&api), "a").await.unwrap();
        assert_eq!(verdict.label, Label::Refused);
        assert!(verdict.reason.is_some());
        assert_eq!(api.requests().len(), 1);
    }
}

#[tokio::test]
async fn the_wait_that_the_endpoint_asks_for_is_kept_by_every_request() {
    let asked = Duration::from_secs(1);
    for form in ["seconds", "date"] {
        let begun = std::time::Instant::now();
        let value = match form {
            "seconds" => "1".to_owned(),
            // Whole seconds only: the next but one is at least one second away.
            _ => httpdate::fmt_http_date(SystemTime::now() + 2 * asked),
        };
        let reply = Reply::Raw(429, vec![("retry-after", value)], String::new());
        let api = Api::start([reply]).await;
        let judge = judge_of(&api);
        let first = judged(&judge, "first");
        let second = async {
            api.wait_for_requests(1).await;
            judged(&judge, "second").await
        };
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_ok() && second.is_ok());
        // A lower bound only: a slow machine cannot break it. The second may have been sent before the wait was known.
        assert!(begun.elapsed() >= asked, "{form}");
        assert!((2..=3).contains(&api.requests().len()));
    }
}

#[tokio::test]
async fn a_wait_past_the_limit_is_an_error_at_once() {
    let reply = Reply::Raw(429, vec![("retry-after", "86400".to_owned())], "come tomorrow".to_owned());
    let api = Api::start([reply]).await;
    let error = judged(&judge_of(&api), "a").await.expect_err("a day is too long");
    let text = error_chain(&error);
    assert!(matches!(error, JudgeError::WaitTooLong { seconds: 86_400, longest: 30, .. }), "{text}");
    assert!(text.contains("come tomorrow"), "{text}");
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed_and_all_slots_are_used() {
    let api = Api::start_with([], |_| Some(Reply::Held("expert"))).await;
    let judge = judge_of(&api);
    let texts: Vec<String> = (0..20).map(|number| format!("response {number}")).collect();
    let all = futures::future::join_all(texts.iter().map(|text| judged(&judge, text)));
    let (verdicts, ()) = tokio::join!(all, async {
        api.wait_for_requests(4).await;
        api.release();
    });
    assert!(verdicts.iter().all(Result::is_ok));
    assert_eq!(api.requests().len(), 20);
    assert_eq!(api.most_under_way(), 4, "concurrency is 4");
}

#[tokio::test]
async fn identical_pairs_are_asked_for_once_and_different_ones_apart() {
    let api = Api::start([]).await;
    let judge = judge_of(&api);
    let verdicts = futures::future::join_all((0..10).map(|_| judged(&judge, "the same"))).await;
    assert!(verdicts.iter().all(Result::is_ok));
    judged(&judge, "the same").await.unwrap();
    assert_eq!(api.requests().len(), 1);
    assert_eq!(judge.cache_hits(), 10);
    let mut other = query();
    other.references[2].push('!');
    judge.judge(&other, &response("the same")).await.unwrap();
    judged(&judge, "another").await.unwrap();
    assert_eq!(api.requests().len(), 3);
}

#[tokio::test]
async fn an_absent_key_is_an_error_before_any_request() {
    let api = Api::start([]).await;
    let error =
        Judge::with_options(&api.settings(Some("NO_SUCH_KEY")), &Levels::default(), &options(), environment)
            .expect_err("the variable is not set");
    assert!(error.to_string().contains("'NO_SUCH_KEY', which is not set"), "{error}");
    assert!(api.requests().is_empty());
}
