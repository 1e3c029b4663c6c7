//! TLS and mutual TLS: who is trusted, and what is said to the others.

use std::fs;

use anyhow::Result;
use avsweep_transport::{ConnectOptions, ListenOptions, Listener, Protocol, ServerTls, connect};
use tonic::Code;

use crate::support::{Authority, Plan, SWEEPS, Use, call, options, until};

#[tokio::test]
async fn certificate_of_the_given_authority_is_trusted() -> Result<()> {
    let authority = Authority::new()?;
    let server = Plan::new("a").tls(authority.server(None)?).start().await?;
    let transport = connect(&ConnectOptions { ca: Some(authority.ca()), ..options(vec![server.https()]) })?;
    for _ in 0..3 {
        let answer = call(&transport, SWEEPS).await?;
        assert_eq!((answer.code, answer.header("server-name")), (Code::Ok, "a"));
    }
    let mut health = tonic_health::pb::health_client::HealthClient::new(transport);
    let request = tonic_health::pb::HealthCheckRequest::default();
    assert_eq!(health.check(request).await?.into_inner().status, 1);
    assert_eq!(server.failed.get(), 0);
    Ok(())
}

#[tokio::test]
async fn server_name_stands_in_for_the_host() -> Result<()> {
    let authority = Authority::new()?;
    let (cert, key) = authority.sign("coordinator.example", Use::Server, false)?;
    let server = Plan::new("a").tls(ServerTls { cert, key, client_ca: None }).start().await?;
    let plain = ConnectOptions { ca: Some(authority.ca()), ..options(vec![server.https()]) };
    let answer = call(&connect(&plain)?, SWEEPS).await?;
    assert_eq!(answer.code, Code::Unavailable);
    assert!(answer.message.contains("for another name"), "{}", answer.message);
    let named = ConnectOptions { server_name: Some("coordinator.example".to_owned()), ..plain };
    assert_eq!(call(&connect(&named)?, SWEEPS).await?.code, Code::Ok);
    Ok(())
}

#[tokio::test]
async fn certificate_of_another_authority_is_refused() -> Result<()> {
    let authority = Authority::named("ours")?;
    let server = Plan::new("a").tls(authority.server(None)?).start().await?;
    for (count, other) in [(1, Authority::named("another")?), (2, Authority::named("ours")?)] {
        let options = ConnectOptions { ca: Some(other.ca()), ..options(vec![server.https()]) };
        let answer = call(&connect(&options)?, SWEEPS).await?;
        assert_eq!(answer.code, Code::Unavailable);
        assert!(answer.message.contains("--ca"), "{}", answer.message);
        assert!(answer.message.contains(&server.https().to_string()), "{}", answer.message);
        until("the server counts it", || server.failed.get() == count).await?;
    }
    Ok(())
}

#[tokio::test]
async fn expired_server_certificate_is_refused() -> Result<()> {
    let authority = Authority::new()?;
    let (cert, key) = authority.sign("localhost", Use::Server, true)?;
    let server = Plan::new("a").tls(ServerTls { cert, key, client_ca: None }).start().await?;
    let transport = connect(&ConnectOptions { ca: Some(authority.ca()), ..options(vec![server.https()]) })?;
    let answer = call(&transport, SWEEPS).await?;
    assert_eq!(answer.code, Code::Unavailable);
    assert!(answer.message.contains("expired"), "{}", answer.message);
    Ok(())
}

#[tokio::test]
async fn mutual_tls_lets_in_valid_certificates_of_its_authority_only() -> Result<()> {
    let (servers, clients, strangers) = (Authority::new()?, Authority::new()?, Authority::new()?);
    let server = Plan::new("a").tls(servers.server(Some(clients.ca()))?).start().await?;
    let with =
        |identity| ConnectOptions { ca: Some(servers.ca()), identity, ..options(vec![server.https()]) };

    let good = with(Some(clients.sign("worker-1", Use::Client, false)?));
    let good = connect(&good)?;
    assert_eq!(call(&good, SWEEPS).await?.code, Code::Ok);

    let refused = [
        (with(None), "--cert"),
        (with(Some(clients.sign("worker-2", Use::Client, true)?)), "CertificateExpired"),
        (with(Some(strangers.sign("worker-3", Use::Client, false)?)), "UnknownCA"),
    ];
    for (count, (options, reason)) in (1..).zip(refused) {
        let before = server.failed.get();
        let answer = call(&connect(&options)?, SWEEPS).await?;
        assert_eq!(answer.code, Code::Unavailable, "{reason}");
        assert!(answer.message.contains(reason), "{count}: {}", answer.message);
        until("the server counts it", || server.failed.get() > before).await?;
    }
    // Nothing of this disturbed the one who is let in.
    assert_eq!(call(&good, SWEEPS).await?.code, Code::Ok);
    Ok(())
}

#[tokio::test]
async fn plain_text_to_a_tls_port_and_tls_to_a_plain_port_are_refused_and_counted() -> Result<()> {
    let authority = Authority::new()?;
    let secure = Plan::new("secure").tls(authority.server(None)?).start().await?;
    let answer = call(&connect(&options(vec![secure.http()]))?, SWEEPS).await?;
    assert_eq!(answer.code, Code::Unavailable);
    assert!(answer.message.contains("https://"), "{}", answer.message);
    until("the TLS port counts it", || secure.failed.get() >= 1).await?;

    let plain = Plan::new("plain").start().await?;
    let trusting = ConnectOptions { ca: Some(authority.ca()), ..options(vec![plain.https()]) };
    let answer = call(&connect(&trusting)?, SWEEPS).await?;
    assert_eq!(answer.code, Code::Unavailable);
    assert!(answer.message.contains("TLS"), "{}", answer.message);
    until("the plain port counts it", || plain.failed.get() >= 1).await?;
    assert_eq!(call(&connect(&options(vec![plain.http()]))?, SWEEPS).await?.code, Code::Ok);
    Ok(())
}

#[tokio::test]
async fn wrong_file_is_named_with_what_is_wrong_with_it() -> Result<()> {
    let authority = Authority::new()?;
    let (cert, key) = authority.sign("localhost", Use::Server, false)?;
    let (_, other_key) = authority.sign("other", Use::Server, false)?;
    let missing = authority.folder().join("missing.pem");
    let text = authority.folder().join("text.pem");
    fs::write(&text, "not a certificate")?;
    let empty = authority.folder().join("empty.pem");
    fs::write(&empty, "")?;
    let broken = authority.folder().join("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n")?;
    let junk = authority.folder().join("junk.pem");
    fs::write(&junk, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
    let locked = authority.folder().join("locked.pem");
    fs::write(&locked, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")?;

    let cases = [
        (&missing, &key, &missing, "cannot read"),
        (&text, &key, &text, "not PEM"),
        (&empty, &key, &empty, "empty"),
        (&broken, &key, &broken, "certificate"),
        (&key, &key, &key, "found only PRIVATE KEY"),
        (&cert, &cert, &cert, "found only CERTIFICATE"),
        (&cert, &locked, &locked, "encrypted"),
        (&cert, &other_key, &other_key, "does not belong"),
    ];
    for (cert, key, culprit, words) in cases {
        let mut listen = ListenOptions::new(([127, 0, 0, 1], 0).into(), Protocol::Grpc);
        listen.tls = Some(ServerTls { cert: cert.clone(), key: key.clone(), client_ca: None });
        let by_server = Listener::bind(&listen).await.expect_err(words).to_string();
        let by_client = ConnectOptions {
            ca: Some(authority.ca()),
            identity: Some((cert.clone(), key.clone())),
            ..options(vec!["https://localhost:1".parse()?])
        };
        let by_client = connect(&by_client).expect_err(words).to_string();
        for error in [by_server, by_client] {
            assert!(error.contains(words) && error.contains(&*culprit.to_string_lossy()), "{error}");
        }
    }
    for ca in [&missing, &text, &junk] {
        let options =
            ConnectOptions { ca: Some(ca.clone()), ..options(vec!["https://localhost:1".parse()?]) };
        let error = connect(&options).expect_err("no authority").to_string();
        assert!(error.contains(&*ca.to_string_lossy()), "{error}");
    }
    Ok(())
}
