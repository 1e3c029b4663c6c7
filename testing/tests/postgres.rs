//! The private server: there when asked for, gone with whoever asked.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use avsweep_testing::postgres::{Cluster, Settings};

/// Set in the process that is to be killed.
const VICTIM: &str = "AVSWEEP_TESTING_VICTIM";

fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('Z'))
    })
}

fn eventually(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !holds() {
        ensure!(started.elapsed() < Duration::from_secs(30), "{what}: not in 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_server_comes_back_on_the_same_port_and_goes_with_its_cluster() -> Result<()> {
    let cluster = Cluster::start(Settings::durable()).await?;
    let (port, first) = (cluster.port(), cluster.pid().context("it runs")?);
    let folder = cluster.log().parent().context("a folder")?.to_owned();
    let database = cluster.database().await?;
    cluster.kill().await?;
    ensure!(cluster.pid().is_none() && !runs(first), "it is gone");
    ensure!(cluster.database().await.is_err(), "nobody answers");
    cluster.restart().await?;
    ensure!(cluster.port() == port && cluster.url("test_0") == database, "the address stays");
    ensure!(cluster.database().await? != database, "every database is new");
    let second = cluster.pid().context("it runs")?;
    tokio::task::spawn_blocking(move || drop(cluster)).await?;
    ensure!(!runs(second) && !folder.exists(), "nothing is left");
    Ok(())
}

/// Run by the next law in a process of its own.
#[tokio::test]
async fn a_server_to_be_orphaned() -> Result<()> {
    if std::env::var_os(VICTIM).is_none() {
        return Ok(());
    }
    let cluster = Cluster::shared().await?;
    println!("\nvictim {} {}", cluster.pid().context("it runs")?, cluster.log().display());
    tokio::time::sleep(Duration::from_secs(120)).await;
    Ok(())
}

#[test]
fn a_server_does_not_outlive_a_killed_process() -> Result<()> {
    let mut victim = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_server_to_be_orphaned", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(victim.stdout.take().context("its output")?);
    let mut lines = output.lines();
    let line = loop {
        let line = lines.next().context("it ended early")??;
        if let Some((_, rest)) = line.split_once("victim ") {
            break rest.to_owned();
        }
    };
    let (pid, log) = line.split_once(' ').context("two words")?;
    let (pid, folder) = (pid.parse()?, Path::new(log).parent().context("a folder")?.to_owned());
    ensure!(runs(pid) && folder.exists(), "it runs");
    victim.kill()?;
    victim.wait()?;
    eventually("the server ends", || !runs(pid))?;
    eventually("its folder goes", || !folder.exists())
}
