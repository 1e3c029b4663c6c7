//! Several coordinators: one is used, the next takes over, and back.

use std::time::Duration;

use anyhow::Result;
use avsweep_transport::{ConnectOptions, Transport, connect};
use tokio::net::TcpListener;
use tonic::Code;

use crate::support::{Authority, BOUND, Plan, SWEEPS, Server, call, options};

/// Who answers. A request that was under way when its server died may fail; the tries after it must not.
async fn answering(transport: &Transport) -> Result<String> {
    for _ in 0..3 {
        let answer = call(transport, SWEEPS).await?;
        if answer.code == Code::Ok {
            return Ok(answer.header("server-name").to_owned());
        }
        assert_eq!(answer.code, Code::Unavailable, "{answer:?}");
    }
    anyhow::bail!("nobody answers")
}

async fn restart(server: &Server, name: &'static str) -> Result<Server> {
    let mut plan = Plan::new(name);
    plan.listen.address = server.address;
    plan.start().await
}

#[tokio::test]
async fn next_coordinator_takes_over_and_the_first_again() -> Result<()> {
    let (mut a, mut b) = (Plan::new("a").start().await?, Plan::new("b").start().await?);
    let transport = connect(&options(vec![a.http(), b.http()]))?;
    let first = answering(&transport).await?;
    for _ in 0..20 {
        assert_eq!(answering(&transport).await?, first, "stays with the one that answers");
    }
    for _ in 0..3 {
        a.kill().await?;
        assert_eq!(answering(&transport).await?, "b");
        a = restart(&a, "a").await?;
        assert_eq!(answering(&transport).await?, "b", "stays there");
        b.kill().await?;
        assert_eq!(answering(&transport).await?, "a");
        b = restart(&b, "b").await?;
    }
    Ok(())
}

#[tokio::test]
async fn all_away_is_unavailable_with_every_reason_and_heals_by_itself() -> Result<()> {
    let (mut a, mut b) = (Plan::new("a").start().await?, Plan::new("b").start().await?);
    let transport = connect(&options(vec![a.http(), b.http()]))?;
    answering(&transport).await?;
    a.kill().await?;
    b.kill().await?;
    // The connection in use ends a moment later.
    let begun = std::time::Instant::now();
    while !call(&transport, SWEEPS).await?.message.contains("cannot reach any coordinator") {
        anyhow::ensure!(begun.elapsed() < BOUND, "somebody still answers");
    }
    let crowd = (0..8).map(|_| {
        let transport = transport.clone();
        tokio::spawn(async move { call(&transport, SWEEPS).await })
    });
    for task in crowd.collect::<Vec<_>>() {
        let answer = task.await??;
        assert_eq!(answer.code, Code::Unavailable);
        for url in [a.http(), b.http()] {
            assert!(answer.message.contains(&url.to_string()), "{}", answer.message);
        }
    }
    let _b = restart(&b, "b").await?;
    assert_eq!(answering(&transport).await?, "b");
    Ok(())
}

#[tokio::test]
async fn clients_spread_over_the_coordinators() -> Result<()> {
    let (a, b) = (Plan::new("a").start().await?, Plan::new("b").start().await?);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        seen.insert(answering(&connect(&options(vec![a.http(), b.http()]))?).await?);
    }
    assert_eq!(seen.len(), 2);
    Ok(())
}

#[tokio::test]
async fn coordinator_that_says_unavailable_is_left_for_the_next() -> Result<()> {
    let mut plan = Plan::new("draining");
    plan.status = Code::Unavailable;
    let (draining, well) = (plan.start().await?, Plan::new("well").start().await?);
    for _ in 0..8 {
        let transport = connect(&options(vec![draining.http(), well.http()]))?;
        assert_eq!(answering(&transport).await?, "well");
        assert_eq!(answering(&transport).await?, "well", "and is not gone back to");
    }
    Ok(())
}

/// A stopped process: its system still takes connections, but nobody answers on them.
#[tokio::test]
async fn coordinator_that_hangs_is_left_for_the_next() -> Result<()> {
    let authority = Authority::new()?;
    let server = Plan::new("a").tls(authority.server(None)?).start().await?;
    let hanging = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://localhost:{}", hanging.local_addr()?.port()).parse()?;
    let options = ConnectOptions {
        ca: Some(authority.ca()),
        connect_timeout: Duration::from_millis(300),
        ..options(vec![url, server.https()])
    };
    for _ in 0..8 {
        assert_eq!(answering(&connect(&options)?).await?, "a");
    }

    let server = Plan::new("b").start().await?;
    let url = format!("http://127.0.0.1:{}", hanging.local_addr()?.port()).parse()?;
    let options = ConnectOptions { keepalive: Duration::from_millis(200), ..options_for(url, &server) };
    for _ in 0..8 {
        assert_eq!(answering(&connect(&options)?).await?, "b");
    }
    Ok(())
}

fn options_for(url: avsweep_transport::CoordinatorUrl, server: &Server) -> ConnectOptions {
    options(vec![url, server.http()])
}

#[tokio::test]
async fn caller_without_patience_meets_the_next_coordinator_at_its_next_try() -> Result<()> {
    let authority = Authority::new()?;
    let server = Plan::new("a").tls(authority.server(None)?).start().await?;
    let hanging = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://localhost:{}", hanging.local_addr()?.port()).parse()?;
    let options = ConnectOptions {
        ca: Some(authority.ca()),
        connect_timeout: BOUND * 2,
        ..options(vec![url, server.https()])
    };
    for _ in 0..6 {
        let transport = connect(&options)?;
        let first = tokio::time::timeout(Duration::from_millis(300), call(&transport, SWEEPS)).await;
        if first.is_err() {
            assert_eq!(answering(&transport).await?, "a");
        }
    }
    Ok(())
}
