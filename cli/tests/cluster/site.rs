//! A cluster of real processes on this machine: PostgreSQL, coordinators, workers and a judge.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use avsweep_testing::postgres;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::network::Network;
use crate::schedule::{Action, Victim};
use crate::support::{self, SweepText};

/// Threads of a worker: three workers share a small machine.
const WORKER_THREADS: &str = "1";
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Reads process ids, the last line of which is those that live. When the pipe closes, they are killed.
const GUARDIAN: &str = "trap '' HUP INT TERM; pids=; while read -r line; do pids=$line; done; \
                        [ -z \"$pids\" ] || kill -KILL $pids";

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) coordinators: usize,
    pub(crate) workers: usize,
    /// Seconds.
    pub(crate) lease: u32,
    /// Of the networks' whims.
    pub(crate) seed: u64,
    /// A coordinator that ends by itself (it starts, and finds no database) is started again, as whoever places
    /// processes does. Otherwise that is an error, as it always is for workers and judges.
    pub(crate) supervised: bool,
}

/// The cluster. Its processes end when it is dropped, or with this process.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
    postgres: postgres::Cluster,
    coordinators: Vec<Process>,
    metrics: Vec<SocketAddr>,
    /// Of the workers, then of the judge.
    clients: Vec<Process>,
    networks: Vec<Network>,
    guardian: Guardian,
    supervised: bool,
}

/// A process that can be started again.
#[derive(Debug)]
struct Process {
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// Kills what still lives when this process ends in whatever way.
#[derive(Debug)]
struct Guardian {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Site {
    /// Makes a cluster on a new database and starts the coordinators; workers and judge are started one by one.
    pub(crate) async fn start(postgres: &postgres::Cluster, setup: Setup) -> Result<Self> {
        let folder = TempDir::new()?;
        let database = postgres.database().await?;
        let lease = setup.lease.to_string();
        let (mut coordinators, mut addresses, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..setup.coordinators {
            let (address, metrics_address) = (free_address()?, free_address()?);
            let arguments = [
                "coordinator",
                "--store",
                &database,
                "--migrate",
                "--listen",
                &address.to_string(),
                "--metrics-listen",
                &metrics_address.to_string(),
                "--lease",
                &lease,
            ];
            coordinators.push(Process::new(folder.path(), &format!("coordinator-{index}"), &arguments));
            addresses.push(address);
            metrics.push(metrics_address);
        }
        let (mut clients, mut networks) = (Vec::new(), Vec::new());
        for index in 0..=setup.workers {
            let network = Network::open(setup.seed.wrapping_add(index as u64), &addresses).await?;
            // Each asks another coordinator first.
            let mut urls = network.urls().to_vec();
            urls.rotate_left(index % setup.coordinators);
            let urls = urls.join(",");
            let name = if index < setup.workers { format!("worker-{index}") } else { "judge".to_owned() };
            let kind = if index < setup.workers { "worker" } else { "judge" };
            let mut arguments = vec![kind, "--coordinator", &urls, "--name", &name];
            if index < setup.workers {
                arguments.extend(["--threads", WORKER_THREADS]);
            }
            clients.push(Process::new(folder.path(), &name, &arguments));
            networks.push(network);
        }
        let guardian = Guardian::start()?;
        let mut site = Self {
            folder,
            postgres: postgres.clone(),
            coordinators,
            metrics,
            clients,
            networks,
            guardian,
            supervised: setup.supervised,
        };
        for index in 0..setup.coordinators {
            site.spawn(Victim::Coordinator(index))?;
        }
        site.until("a coordinator answers", Duration::from_secs(30), |site| {
            Ok(site.user(&["sweep", "ls", "--output", "json"]).is_ok())
        })
        .await?;
        Ok(site)
    }

    fn process(&mut self, victim: Victim) -> Option<&mut Process> {
        match victim {
            Victim::Postgres => None,
            Victim::Coordinator(index) => self.coordinators.get_mut(index),
            Victim::Worker(index) => self.clients.get_mut(index),
            Victim::Judge => self.clients.last_mut(),
        }
    }

    /// The network between a worker or judge and the coordinators.
    pub(crate) fn network(&self, victim: Victim) -> Option<&Network> {
        match victim {
            Victim::Postgres | Victim::Coordinator(_) => None,
            Victim::Worker(index) => self.networks.get(index),
            Victim::Judge => self.networks.last(),
        }
    }

    /// Every client's network.
    pub(crate) fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Starts a process if it is not running.
    pub(crate) fn spawn(&mut self, victim: Victim) -> Result<()> {
        let folder = self.folder.path().to_owned();
        let process = self.process(victim).context("no process of this cluster")?;
        process.start(&folder).with_context(|| format!("start {victim}"))?;
        self.tell_guardian()
    }

    /// Starts every worker and the judge.
    pub(crate) fn spawn_clients(&mut self) -> Result<()> {
        for index in 0..self.clients.len() - 1 {
            self.spawn(Victim::Worker(index))?;
        }
        self.spawn(Victim::Judge)
    }

    fn tell_guardian(&mut self) -> Result<()> {
        let pids = self.coordinators.iter().chain(&self.clients).filter_map(Process::pid);
        let line = pids.map(|pid| pid.as_raw_nonzero().to_string()).collect::<Vec<_>>().join(" ");
        self.guardian.watch(&line)
    }

    /// Does something to the cluster.
    pub(crate) async fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Kill(Victim::Postgres) => self.postgres.kill().await?,
            Action::Start(Victim::Postgres) => {
                if self.postgres.pid().is_none() {
                    self.postgres.restart().await?;
                }
            }
            Action::Kill(victim) => {
                if let Some(process) = self.process(victim) {
                    process.kill()?;
                }
                self.tell_guardian()?;
            }
            Action::Start(victim) => self.spawn(victim)?,
            Action::Freeze(victim) => self.signal(victim, Signal::STOP)?,
            Action::Thaw(victim) => self.signal(victim, Signal::CONT)?,
            Action::Cut(victim) => self.network(victim).context("a client's network")?.cut(),
            Action::Part(victim, duration) => {
                self.network(victim).context("a client's network")?.part(duration);
            }
            Action::Slow(victim, delay) => self.network(victim).context("a client's network")?.slow(delay),
        }
        Ok(())
    }

    fn signal(&mut self, victim: Victim, signal: Signal) -> Result<()> {
        if let Some(pid) = self.process(victim).and_then(|process| process.pid()) {
            kill_process(pid, signal).with_context(|| format!("signal {victim}"))?;
        }
        Ok(())
    }

    /// Looks after processes that have ended by themselves.
    ///
    /// # Errors
    /// One that nobody starts again (see [`Setup::supervised`]), with its last words.
    pub(crate) fn look_after(&mut self) -> Result<()> {
        for index in 0..self.coordinators.len() {
            let process = &mut self.coordinators[index];
            if let Some(status) = process.ended()? {
                let said = process.tail();
                ensure!(self.supervised, "{} ended by itself ({status}):\n{said}", process.name());
                process.child = None;
                println!("           coordinator-{index} ended by itself ({status}) and is started again");
                self.spawn(Victim::Coordinator(index))?;
            }
        }
        for process in &mut self.clients {
            if let Some(status) = process.ended()? {
                bail!("{} ended by itself ({status}):\n{}", process.name(), process.tail());
            }
        }
        Ok(())
    }

    /// Runs a verb of the user against the coordinators and returns what it prints.
    pub(crate) fn user(&self, arguments: &[&str]) -> Result<String> {
        let urls = self.coordinators.iter().filter(|process| process.child.is_some());
        let urls: Vec<_> =
            urls.filter_map(Process::listens).map(|address| format!("http://{address}")).collect();
        let output = support::avsweep(self.folder.path())
            .env("AVSWEEP_COORDINATOR", urls.join(","))
            .env_remove("AVSWEEP_STORE")
            .args(arguments)
            .output()?;
        ensure!(output.status.success(), "avsweep {arguments:?}: {}", support::stderr(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A verb's JSON.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.user(&[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("avsweep {arguments:?} prints JSON"))
    }

    /// Creates a sweep.
    pub(crate) fn create(&self, sweep: &SweepText) -> Result<()> {
        let path = sweep.write(self.folder.path());
        self.user(&["sweep", "create", &path.display().to_string()]).map(drop)
    }

    /// Every result of a sweep, as rows.
    pub(crate) fn export(&self, sweep: &str) -> Result<String> {
        self.user(&["export", sweep, "--format", "csv"])
    }

    /// Asks until the answer is yes; an error of the question counts as no.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        bound: Duration,
        mut question: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let answer = question(self);
            if matches!(answer, Ok(true)) {
                return Ok(());
            }
            self.look_after()?;
            if started.elapsed() > bound {
                let said = answer.map_or_else(|error| format!("{error:#}"), |_| "not yet".to_owned());
                bail!("waited {bound:?} until {what}: {said}\n{}", self.last_words());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits for a sweep's end.
    pub(crate) async fn until_done(&mut self, sweep: &str, bound: Duration) -> Result<()> {
        let what = format!("sweep {sweep} is done");
        self.until(&what, bound, |site| Ok(site.ask(&["sweep", "show", sweep])?["state"] == "done")).await
    }

    /// A sample of a coordinator's metrics, summed over the samples with this label text.
    pub(crate) fn metric(&self, coordinator: usize, name: &str, label: &str) -> Result<f64> {
        let address = self.metrics.get(coordinator).context("a coordinator")?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        samples.map(|line| Ok(line.rsplit(' ').next().context("a value")?.parse::<f64>()?)).sum()
    }

    /// The ends of all logs.
    pub(crate) fn last_words(&self) -> String {
        let processes = self.coordinators.iter().chain(&self.clients);
        processes.map(|process| format!("--- {}\n{}\n", process.name(), process.tail())).collect()
    }
}

impl Process {
    fn new(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            log: folder.join(format!("{name}.log")),
            child: None,
        }
    }

    fn name(&self) -> String {
        self.log.file_stem().unwrap_or_default().display().to_string()
    }

    fn listens(&self) -> Option<&str> {
        let flag = self.arguments.iter().position(|argument| argument == "--listen")?;
        self.arguments.get(flag + 1).map(String::as_str)
    }

    fn start(&mut self, folder: &Path) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = support::avsweep(folder)
            .env_remove("AVSWEEP_STORE")
            .env_remove("AVSWEEP_COORDINATOR")
            .args(&self.arguments)
            .arg("-v")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?))
    }

    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guardian kills what is left.
        let _ = self.kill();
    }
}

impl Guardian {
    fn start() -> Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", GUARDIAN])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    fn watch(&mut self, pids: &str) -> Result<()> {
        writeln!(self.pipe.as_mut().context("the guardian is gone")?, "{pids}").context("tell the guardian")
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
