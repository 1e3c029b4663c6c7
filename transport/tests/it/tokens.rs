//! Tokens over gRPC and HTTP.

use anyhow::{Context as _, Result};
use avsweep_transport::{
    Authorization, ConnectOptions, ListenOptions, Listener, Protocol, Role, Secret, Tokens, connect,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::support::{BOUND, HEALTH, JOBS, Plan, SWEEPS, call, options};

fn tokens() -> Result<Tokens> {
    let token = |text| Secret::new(text, "a test");
    Ok(Tokens::new([
        (Role::User, token("user-token")?),
        (Role::User, token("next-user-token")?),
        (Role::Worker, token("worker-token")?),
        (Role::Judge, token("judge-token")?),
        (Role::Metrics, token("metrics-token")?),
    ])?)
}

#[tokio::test]
async fn every_token_opens_the_paths_of_its_role() -> Result<()> {
    let mut plan = Plan::new("a");
    plan.tokens = Some(tokens()?);
    let server = plan.start().await?;
    let cases = [
        (Some("user-token"), SWEEPS, Ok("user")),
        (Some("next-user-token"), SWEEPS, Ok("user")),
        (Some("worker-token"), JOBS, Ok("worker")),
        (Some("judge-token"), JOBS, Ok("judge")),
        (Some("user-token"), JOBS, Err((Code::PermissionDenied, "forbidden"))),
        (Some("worker-token"), SWEEPS, Err((Code::PermissionDenied, "forbidden"))),
        (Some("metrics-token"), SWEEPS, Err((Code::PermissionDenied, "forbidden"))),
        (Some("user-tokeN"), SWEEPS, Err((Code::Unauthenticated, "unauthenticated"))),
        (None, SWEEPS, Err((Code::Unauthenticated, "unauthenticated"))),
        (None, JOBS, Err((Code::Unauthenticated, "unauthenticated"))),
        (None, "/no.such.Service/Method", Err((Code::Unauthenticated, "unauthenticated"))),
    ];
    let mut wanted = Vec::new();
    for (token, path, outcome) in cases {
        let token = token.map(|token| Secret::new(token, "a test")).transpose()?;
        let transport = connect(&ConnectOptions { token, ..options(vec![server.http()]) })?;
        let answer = call(&transport, path).await?;
        match outcome {
            Ok(role) => assert_eq!((answer.code, answer.header("role")), (Code::Ok, role)),
            Err((code, text)) => {
                assert_eq!((answer.code, answer.header("avsweep-error")), (code, text));
                wanted.push(format!("{text} {path}"));
            }
        }
        // Health is open to all of them.
        assert_eq!(call(&transport, HEALTH).await?.header("avsweep-error"), "");
    }
    assert_eq!(*server.refused.lock().expect("no panic before"), wanted);
    Ok(())
}

#[tokio::test]
async fn without_tokens_everybody_gets_in_without_a_role() -> Result<()> {
    let server = Plan::new("a").start().await?;
    let token = Some(Secret::new("any", "a test")?);
    let transport = connect(&ConnectOptions { token, ..options(vec![server.http()]) })?;
    let answer = call(&transport, JOBS).await?;
    assert_eq!((answer.code, answer.header("role")), (Code::Ok, "none"));
    Ok(())
}

#[test]
fn plain_text_leaves_the_machine_only_when_allowed() -> Result<()> {
    let token = Some(Secret::new("hunter2", "a test")?);
    let far = ConnectOptions { token, ..options(vec!["http://10.1.2.3:7700".parse()?]) };
    let shown = format!("{far:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let error = connect(&far).expect_err("plain text").to_string();
    assert!(error.contains("http://10.1.2.3:7700") && error.contains("--insecure"), "{error}");
    let transport = connect(&ConnectOptions { allow_insecure: true, ..far })?;
    assert!(!format!("{transport:?}").contains("hunter2"));
    let error = connect(&options(Vec::new())).expect_err("no URL").to_string();
    assert!(error.contains("no coordinator"), "{error}");
    Ok(())
}

#[tokio::test]
async fn http_port_asks_for_tokens_as_http_does() -> Result<()> {
    let listener = Listener::bind(&ListenOptions::new(([127, 0, 0, 1], 0).into(), Protocol::Http)).await?;
    let address = listener.local_addr();
    let router = axum::Router::new()
        .route("/metrics", axum::routing::get(|| async { "avsweep_jobs 0" }))
        .route("/healthz", axum::routing::get(|| async { "ok" }))
        .layer(Authorization::new(Some(tokens()?)));
    let server = tokio::spawn(async move { axum::serve(listener.incoming(), router).await });
    for (path, token, status) in [
        ("/healthz", None, "200"),
        ("/metrics", None, "401"),
        ("/metrics", Some("wrong"), "401"),
        ("/metrics", Some("worker-token"), "403"),
        ("/metrics", Some("metrics-token"), "200"),
        ("/metrics", Some("user-token"), "200"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{token}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        tokio::time::timeout(BOUND, stream.read_to_string(&mut answer)).await.context("no answer")??;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {token}: {answer}");
    }
    server.abort();
    Ok(())
}
