//! Stores that refuse, vanish or hang up.

use std::fs;

use anyhow::Result;
use avsweep_files::ModelFiles;

use crate::support::{BOUND, Cache, Proxy, SECRET, Server, content, until, variables};

const VECTOR: &str = "s3://models/medical.safetensors";

#[tokio::test]
async fn wrong_credentials_are_refused_with_what_to_check_and_never_shown() -> Result<()> {
    let server = Server::start().await?;
    server.put("medical.safetensors", &content(1000, 1))?;
    let folder = tempfile::tempdir()?;
    for (name, value) in [("AWS_ACCESS_KEY_ID", "AKIDOTHER"), ("AWS_SECRET_ACCESS_KEY", "tr0ub4dor")] {
        let mut variables = variables(server.address);
        variables.iter_mut().find(|variable| variable.0 == name).expect("set").1 = value.to_owned();
        let files = ModelFiles::with_environment(folder.path().join("cache"), variables);
        for location in [VECTOR, "s3://models/folder/"] {
            let error = files.fetch(location).await.expect_err("refused");
            let text = error.to_string();
            assert!(text.contains(location) && text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
            assert!(!error.is_transient());
            let shown = format!("{error:?} {files:?}") + &format!("{:#}", anyhow::Error::from(error));
            assert!(!shown.contains("tr0ub4dor") && !shown.contains(SECRET), "{shown}");
        }
    }
    assert_eq!(server.downloads().len(), 0);
    Ok(())
}

#[tokio::test]
async fn cut_downloads_go_on_where_they_were_cut() -> Result<()> {
    let server = Server::start().await?;
    server.put("medical.safetensors", &content(6_000_000, 1))?;
    // More cuts than the store's client itself makes up for.
    let proxy = Proxy::start(server.address, 400_000, 9, false).await?;
    let cache = Cache::new(proxy.address)?;
    let path = cache.files.fetch(VECTOR).await?;
    assert!(fs::read(path)? == content(6_000_000, 1));
    assert!(proxy.all_cut());
    let downloads = server.downloads();
    assert!(downloads.len() >= 9, "{downloads:?}");
    assert!(downloads.iter().skip(1).all(|seen| seen.range.is_some()), "{downloads:?}");
    assert_eq!(cache.on_the_way(), 0);
    Ok(())
}

#[tokio::test]
async fn abandoned_download_is_gone_on_with() -> Result<()> {
    let server = Server::start().await?;
    server.put("medical.safetensors", &content(8_000_000, 1))?;
    let proxy = Proxy::start(server.address, 5_000_000, 1, true).await?;
    let cache = Cache::new(proxy.address)?;
    tokio::select! {
        result = cache.files.fetch(VECTOR) => anyhow::bail!("went through: {result:?}"),
        result = until("bytes are there", || proxy.all_cut() && cache.on_the_way() >= 2 << 20) => result?,
    }
    let path = cache.files.fetch(VECTOR).await?;
    assert!(fs::read(path)? == content(8_000_000, 1));
    let ranges: Vec<_> = server.downloads().into_iter().map(|seen| seen.range).collect();
    assert!(matches!(&ranges[..], [None, Some(_)]), "{ranges:?}");
    Ok(())
}

#[tokio::test]
async fn part_of_an_older_content_is_not_gone_on_with() -> Result<()> {
    let server = Server::start().await?;
    server.put("medical.safetensors", &content(8_000_000, 1))?;
    let proxy = Proxy::start(server.address, 5_000_000, 1, true).await?;
    let cache = Cache::new(proxy.address)?;
    tokio::select! {
        result = cache.files.fetch(VECTOR) => anyhow::bail!("went through: {result:?}"),
        result = until("bytes are there", || proxy.all_cut() && cache.on_the_way() >= 2 << 20) => result?,
    }
    server.put("medical.safetensors", &content(8_000_000, 2))?;
    let path = cache.files.fetch(VECTOR).await?;
    assert!(fs::read(path)? == content(8_000_000, 2));
    assert_eq!(cache.on_the_way(), 0);
    Ok(())
}

#[tokio::test]
async fn object_that_changes_on_its_way_comes_as_it_is_in_the_end() -> Result<()> {
    let server = Server::start().await?;
    server.put("medical.safetensors", &content(8_000_000, 1))?;
    let proxy = Proxy::start(server.address, 5_000_000, 1, true).await?;
    let cache = Cache::new(proxy.address)?;
    let files = cache.files.clone();
    let fetch = tokio::spawn(async move { files.fetch(VECTOR).await });
    until("bytes are there", || proxy.all_cut() && cache.on_the_way() >= 2 << 20).await?;
    server.put("medical.safetensors", &content(7_000_000, 2))?;
    // The held connection ends with the client's patience; then it asks for the rest of what is no more.
    let path = tokio::time::timeout(BOUND, fetch).await???;
    assert!(fs::read(path)? == content(7_000_000, 2));
    Ok(())
}

#[tokio::test]
async fn store_that_is_away_is_an_error_before_the_first_fetch_and_a_warning_after() -> Result<()> {
    let server = Server::start().await?;
    server.put("medical.safetensors", &content(1000, 1))?;
    let cache = Cache::new(server.address)?;
    let path = cache.files.fetch(VECTOR).await?;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let away = ModelFiles::with_environment(cache.files.cache().to_owned(), variables(free));
    assert_eq!(away.fetch(VECTOR).await?, path);
    let error = away.fetch("s3://models/legal.safetensors").await.expect_err("away");
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("AWS_ENDPOINT_URL"), "{error}");
    Ok(())
}

#[tokio::test]
async fn plain_http_endpoint_wants_to_be_allowed() -> Result<()> {
    let server = Server::start().await?;
    let folder = tempfile::tempdir()?;
    let mut variables = variables(server.address);
    variables.retain(|variable| variable.0 != "AWS_ALLOW_HTTP");
    let files = ModelFiles::with_environment(folder.path().join("cache"), variables);
    let error = files.fetch(VECTOR).await.expect_err("plain text").to_string();
    assert!(error.contains("AWS_ALLOW_HTTP=true"), "{error}");
    Ok(())
}
