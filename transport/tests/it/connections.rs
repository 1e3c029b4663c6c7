//! What broken and silent peers can do to a server: nothing.

use std::time::Duration;

use anyhow::{Context as _, Result};
use avsweep_transport::{ListenOptions, Listener, Protocol, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::{Authority, BOUND, Plan, SWEEPS, call, options, until};

#[tokio::test]
async fn silent_peers_lose_their_places() -> Result<()> {
    let authority = Authority::new()?;
    for tls in [None, Some(authority.server(None)?)] {
        let mut plan = Plan::new("a");
        plan.listen.max_connections = 2;
        plan.listen.handshake_timeout = Duration::from_millis(300);
        let secure = tls.is_some();
        plan.listen.tls = tls;
        let server = plan.start().await?;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(server.address).await?);
        }
        until("all are counted", || server.failed.get() == 4).await?;
        let url = if secure { server.https() } else { server.http() };
        let options = avsweep_transport::ConnectOptions { ca: Some(authority.ca()), ..options(vec![url]) };
        assert_eq!(call(&connect(&options)?, SWEEPS).await?.code, Code::Ok);
    }
    Ok(())
}

#[tokio::test]
async fn peer_that_is_silent_after_its_handshake_loses_its_place() -> Result<()> {
    let authority = Authority::new()?;
    let mut plan = Plan::new("a").tls(authority.server(None)?);
    plan.listen.max_connections = 1;
    plan.listen.handshake_timeout = Duration::from_millis(500);
    let server = plan.start().await?;
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(authority.ca())?;
    roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(&pem)?)?;
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(server.address).await?;
    let mut stream = connector.connect("localhost".try_into()?, stream).await?;
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(BOUND, stream.read_to_end(&mut bytes)).await;
    let _ = ended.context("the connection stays open")?;
    let options =
        avsweep_transport::ConnectOptions { ca: Some(authority.ca()), ..options(vec![server.https()]) };
    assert_eq!(call(&connect(&options)?, SWEEPS).await?.code, Code::Ok);
    Ok(())
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() -> Result<()> {
    let authority = Authority::new()?;
    let secure = Plan::new("secure").tls(authority.server(None)?).start().await?;
    let plain = Plan::new("plain").start().await?;
    for address in [secure.address, plain.address] {
        for bytes in
            [&b"\0\0\0\0\0\0\0\0"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], &[0x16, 3, 1, 0xff, 0xff]]
        {
            let mut stream = TcpStream::connect(address).await?;
            // The server may hang up in the middle.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(BOUND, stream.read_to_end(&mut answer)).await;
            let _ = ended.context("the connection stays open")?;
        }
    }
    until("the TLS port counts all of it", || secure.failed.get() == 4).await?;
    let trusting =
        avsweep_transport::ConnectOptions { ca: Some(authority.ca()), ..options(vec![secure.https()]) };
    assert_eq!(call(&connect(&trusting)?, SWEEPS).await?.code, Code::Ok);
    assert_eq!(call(&connect(&options(vec![plain.http()]))?, SWEEPS).await?.code, Code::Ok);
    Ok(())
}

#[tokio::test]
async fn taken_port_is_named() -> Result<()> {
    let options = ListenOptions::new(([127, 0, 0, 1], 0).into(), Protocol::Grpc);
    let first = Listener::bind(&options).await?;
    let taken = ListenOptions { address: first.local_addr(), ..options };
    let error = Listener::bind(&taken).await.expect_err("taken").to_string();
    assert!(error.contains(&first.local_addr().to_string()), "{error}");
    drop(first.incoming());
    // Free again once nobody wants its connections.
    let begun = std::time::Instant::now();
    while Listener::bind(&taken).await.is_err() {
        anyhow::ensure!(begun.elapsed() < BOUND, "the port stays taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
