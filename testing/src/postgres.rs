//! A private PostgreSQL server: its own folder, its own port on loopback, gone with the process that started it.
//!
//! A supervising shell holds the read end of a pipe whose write end is ours. When this process ends, in whatever way,
//! the pipe closes; the shell then kills the server and removes its folder. (A parent-death signal would not do: it
//! fires when the *thread* that started the server ends, and every test has its own.)

mod account;
mod programs;
mod supervisor;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::OnceCell;

use account::Account;
use programs::Programs;
use supervisor::Supervisor;

/// The superuser of every cluster; it needs no password.
pub const USER: &str = "avsweep";

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    durable: bool,
    parameters: Vec<(String, String)>,
}

impl Settings {
    /// Never flushes to the disk: fast, survives a crash of its processes, would not survive one of the machine.
    pub fn fast() -> Self {
        Self { durable: false, parameters: Vec::new() }
    }

    /// As PostgreSQL comes: what is committed has been flushed.
    pub fn durable() -> Self {
        Self { durable: true, parameters: Vec::new() }
    }

    /// The same, with a parameter of postgresql.conf set.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: impl Into<String>) -> Self {
        self.parameters.push((parameter.to_owned(), value.into()));
        self
    }

    fn arguments(&self) -> Vec<String> {
        let own =
            [("listen_addresses", "127.0.0.1"), ("unix_socket_directories", ""), ("max_connections", "300")];
        let flushing = [("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "off")];
        own.iter()
            .chain(flushing.iter().filter(|_| !self.durable))
            .map(|(parameter, value)| format!("{parameter}={value}"))
            .chain(self.parameters.iter().map(|(parameter, value)| format!("{parameter}={value}")))
            .flat_map(|setting| ["-c".to_owned(), setting])
            .collect()
    }
}

/// A private server. Clones are the same one; it ends with the last of them, or with the process.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    programs: Programs,
    account: Option<Account>,
    settings: Settings,
    /// Holds `data/` and `log`; the supervisor removes it.
    folder: PathBuf,
    port: u16,
    server: Mutex<Option<Child>>,
    supervisor: Mutex<Supervisor>,
    databases: AtomicU64,
}

impl Cluster {
    /// The one that all tests of a process share, started by whoever asks first; see [`Settings::fast`].
    ///
    /// # Errors
    /// See [`Cluster::start`].
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_try_init(|| Self::start(Settings::fast())).await
    }

    /// Makes a new cluster and starts its server.
    ///
    /// # Errors
    /// When PostgreSQL is not installed (it says how to), or does not start (it says what the log says).
    pub async fn start(settings: Settings) -> Result<Self> {
        blocking(move || {
            let programs = Programs::find()?;
            let account = Account::for_server()?;
            let (folder, supervisor) = Supervisor::of_a_new_folder(account.as_ref())?;
            let mut inner = Inner {
                programs,
                account,
                settings,
                folder,
                port: 0,
                server: Mutex::new(None),
                supervisor: Mutex::new(supervisor),
                databases: AtomicU64::new(0),
            };
            inner.make()?;
            // Between finding a free port and listening on it another process can take it.
            let mut tries = 5;
            loop {
                inner.port = free_port()?;
                match inner.launch() {
                    Ok(()) => return Ok(Self(Arc::new(inner))),
                    Err(error) if tries == 1 => return Err(error),
                    Err(_) => tries -= 1,
                }
            }
        })
        .await
    }

    /// Makes a new empty database and gives its URL.
    ///
    /// # Errors
    /// When the server does not.
    pub async fn database(&self) -> Result<String> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let name = format!("test_{}", inner.databases.fetch_add(1, Ordering::Relaxed));
            let mut create = inner.command("createdb");
            create.args(["--host=127.0.0.1", "--username", USER, "--maintenance-db=postgres"]);
            create.args(["--template=template0", "--port", &inner.port.to_string(), &name]);
            run(create)?;
            Ok(inner.url(&name))
        })
        .await
    }

    /// The URL of a database (`postgres` is always there). It stays the same when the server is started again.
    pub fn url(&self, database: &str) -> String {
        self.0.url(database)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The postmaster's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.0.server().as_ref().map(Child::id)
    }

    /// Where the server writes its log.
    pub fn log(&self) -> PathBuf {
        self.0.log()
    }

    /// Kills the postmaster and all its processes with SIGKILL, as a crash does, and waits until they are gone.
    ///
    /// # Errors
    /// When they do not go.
    pub async fn kill(&self) -> Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.kill()).await
    }

    /// Starts the server again on the same port; one that runs is killed first. Waits until it takes connections.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&self) -> Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            inner.kill()?;
            inner.launch()
        })
        .await
    }
}

impl Inner {
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    fn server(&self) -> MutexGuard<'_, Option<Child>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of PostgreSQL's programs, as the account that may run it, without this process's settings for clients.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.path(program));
        command.current_dir(&self.folder).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Makes the cluster's files.
    fn make(&self) -> Result<()> {
        let mut initdb = self.command("initdb");
        initdb.arg("--pgdata").arg(self.data());
        initdb.args(["--username", USER, "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        initdb.args(["--no-sync", "--no-instructions"]);
        run(initdb)
    }

    /// Starts the postmaster and waits until it takes connections.
    fn launch(&self) -> Result<()> {
        let log =
            File::options().create(true).append(true).open(self.log()).context("open the server's log")?;
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        postgres.args(self.settings.arguments());
        // Its own process group: a Ctrl-C is for us; the supervisor ends the server.
        postgres.stdout(Stdio::null()).stderr(log).process_group(0);
        let mut server = self.server();
        let mut child = postgres.spawn().context("start postgres")?;
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).watch(Some(child.id()))?;
        let pid = child.id().to_string();
        let started = Instant::now();
        loop {
            // The eighth line of this file is the state.
            let state = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines();
            if lines.next() == Some(&pid) && lines.nth(6).is_some_and(|state| state.trim() == "ready") {
                *server = Some(child);
                return Ok(());
            }
            if let Some(status) = child.try_wait().context("wait for postgres")? {
                self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).watch(None)?;
                bail!("postgres ended while starting ({status}); the end of its log:\n{}", self.end_of_log());
            }
            if started.elapsed() > PATIENCE {
                *server = Some(child);
                bail!("postgres did not start in {PATIENCE:?}; the end of its log:\n{}", self.end_of_log());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn end_of_log(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    fn kill(&self) -> Result<()> {
        let Some(mut child) = self.server().take() else {
            return Ok(());
        };
        if child.try_wait().context("wait for postgres")?.is_some() {
            self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).watch(None)?;
            return Ok(());
        }
        // Stopped first, so that it starts no process between the listing and its end.
        let postmaster = pid(child.id())?;
        let _ = kill_process(postmaster, Signal::STOP);
        let children = children_of(child.id())?;
        child.kill().context("kill postgres")?;
        for process in &children {
            // One that ended by itself is no failure.
            let _ = kill_process(pid(*process)?, Signal::KILL);
        }
        child.wait().context("wait for postgres")?;
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).watch(None)?;
        let started = Instant::now();
        while children.iter().any(|process| runs(*process)) {
            ensure!(started.elapsed() < PATIENCE, "processes of postgres outlive SIGKILL: {children:?}");
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Stopped in order, a server gives its shared memory back. What fails here is done by the supervisor, who is
        // waited for when its field is dropped.
        if let Some(child) = self.server().as_mut()
            && let Ok(postmaster) = pid(child.id())
            && kill_process(postmaster, Signal::QUIT).is_ok()
        {
            let started = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && started.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        let _ = self.kill();
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a task of the cluster panicked")?
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

fn pid(number: u32) -> Result<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw).with_context(|| format!("{number} is no process id"))
}

/// The processes whose parent is this one.
fn children_of(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").context("list processes")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // The fields after the program's name, which may hold anything, are state and parent.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else {
            // It ended while it was read.
            continue;
        };
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        if fields.split_whitespace().nth(1) == Some(&parent.to_string()) {
            children.push(process);
        }
    }
    Ok(children)
}

/// Whether a process is there and not only waiting to be collected.
fn runs(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().next());
        !matches!(state, Some("Z" | "X") | None)
    })
}

fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} failed ({}):\n{}{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
