//! Several processes with one cache.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use avsweep_files::ModelFiles;

use crate::support::{Cache, Proxy, Server, content, until, variables};

const VECTOR: &str = "s3://models/medical.safetensors";
const CACHE: &str = "AVSWEEP_TEST_CACHE";

/// What another process does: it is this test program, started again with this one test and the real environment.
/// In the first process it has nothing to do.
#[tokio::test]
async fn other_process() -> Result<()> {
    let Some(cache) = std::env::var_os(CACHE) else { return Ok(()) };
    let path = ModelFiles::new(cache.into()).fetch(VECTOR).await?;
    println!("fetched={}", path.display());
    Ok(())
}

fn start(cache: &Cache, store: std::net::SocketAddr) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "processes::other_process", "--nocapture"]);
    command.envs(variables(store)).env(CACHE, cache.files.cache());
    Ok(command.stdout(Stdio::piped()).spawn()?)
}

#[tokio::test]
async fn several_processes_download_once() -> Result<()> {
    let server = Server::start().await?;
    server.put("medical.safetensors", &content(5_000_000, 1))?;
    let cache = Cache::new(server.address)?;
    let children: Vec<Child> = (0..4).map(|_| start(&cache, server.address)).collect::<Result<_>>()?;
    let own = cache.files.fetch(VECTOR).await?;
    for child in children {
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        let text = String::from_utf8_lossy(&output.stdout);
        let path = text.lines().find_map(|line| Some(line.split_once("fetched=")?.1)).context("no path")?;
        assert_eq!(own.to_string_lossy(), path);
    }
    assert!(fs::read(own)? == content(5_000_000, 1));
    assert_eq!(server.downloads().len(), 1);
    Ok(())
}

#[tokio::test]
async fn download_of_a_killed_process_is_gone_on_with() -> Result<()> {
    let server = Server::start().await?;
    server.put("medical.safetensors", &content(8_000_000, 1))?;
    let proxy = Proxy::start(server.address, 5_000_000, 1, true).await?;
    let cache = Cache::new(proxy.address)?;
    let mut child = start(&cache, proxy.address)?;
    let there = until("bytes are there", || proxy.all_cut() && cache.on_the_way() >= 2 << 20).await;
    child.kill()?;
    child.wait()?;
    there?;
    let path = cache.files.fetch(VECTOR).await?;
    assert!(fs::read(path)? == content(8_000_000, 1));
    let ranges: Vec<_> = server.downloads().into_iter().map(|seen| seen.range).collect();
    assert!(matches!(&ranges[..], [None, Some(_)]), "{ranges:?}");
    assert_eq!(cache.on_the_way(), 0);
    Ok(())
}
