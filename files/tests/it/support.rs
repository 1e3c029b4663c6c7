//! An S3 server over a folder, and a proxy before it that cuts connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use avsweep_files::ModelFiles;
use hyper::body::Incoming;
use hyper::service::{Service as HttpService, service_fn};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest wait for something that must come.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) const KEY: &str = "AKIDEXAMPLE";
pub(crate) const SECRET: &str = "hunter2-hunter2-hunter2";

/// One request that the server got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
}

/// A running S3 server with one bucket, `models`.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    folder: TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("models"))?;
        let files = s3s_fs::FileSystem::new(folder.path())
            .map_err(|error| anyhow::anyhow!("no file system: {error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let root = folder.path().to_owned();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, noted, root) = (service.clone(), Arc::clone(&noted), root.clone());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let range = request.headers().get("range").and_then(|value| value.to_str().ok());
                    let seen = Seen {
                        method: request.method().to_string(),
                        path: request.uri().path().to_owned(),
                        range: range.map(str::to_owned),
                    };
                    // S3 knows no folders; this server would look one up as if it were an object.
                    let folder = seen.method == "HEAD" && root.join(seen.path.trim_matches('/')).is_dir();
                    noted.lock().expect("no panic before").push(seen);
                    let answer = (!folder).then(|| HttpService::call(&service, request));
                    async move {
                        match answer {
                            Some(answer) => answer.await,
                            None => {
                                let mut answer = http::Response::new(s3s::Body::empty());
                                *answer.status_mut() = http::StatusCode::NOT_FOUND;
                                Ok(answer)
                            }
                        }
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(Self { address, folder, seen, task })
    }

    /// Puts an object there, or another in its place.
    pub(crate) fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        let path = self.folder.path().join("models").join(key);
        std::fs::create_dir_all(path.parent().expect("a parent"))?;
        std::fs::write(path, content)?;
        Ok(())
    }

    pub(crate) fn delete(&self, key: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.path().join("models").join(key))?)
    }

    /// Downloads so far: requests for contents, not for listings.
    pub(crate) fn downloads(&self) -> Vec<Seen> {
        let seen = self.seen.lock().expect("no panic before");
        seen.iter()
            .filter(|seen| seen.method == "GET" && seen.path.trim_matches('/') != "models")
            .cloned()
            .collect()
    }

    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Variables for a store at `address`.
pub(crate) fn variables(address: SocketAddr) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", &format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_READ_TIMEOUT", "2s"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// A cache of its own in front of `address`.
pub(crate) struct Cache {
    pub(crate) files: ModelFiles,
    pub(crate) folder: TempDir,
}

impl Cache {
    pub(crate) fn new(address: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let files = ModelFiles::with_environment(folder.path().join("cache"), variables(address));
        Ok(Self { files, folder })
    }

    /// Every file of the cache, by its path within.
    pub(crate) fn listing(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("cache")];
        while let Some(folder) = folders.pop() {
            for file in std::fs::read_dir(folder)? {
                let path = file?.path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Bytes in files of which a part is there.
    pub(crate) fn on_the_way(&self) -> u64 {
        let files = self.listing().unwrap_or_default();
        let parts = files.iter().filter(|path| path.to_string_lossy().contains(".parts/"));
        parts.filter_map(|path| Some(path.metadata().ok()?.len())).sum()
    }
}

/// A proxy that lets so many bytes of the server's through on a connection, and then cuts or holds it.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Connections that are yet to be cut; those after them get through.
    cuts: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr, bytes: usize, cuts: usize, hold: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cuts = Arc::new(AtomicUsize::new(cuts));
        let left = Arc::clone(&cuts);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let left = Arc::clone(&left);
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await?;
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let up =
                        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                    let mut through = 0;
                    let mut buffer = vec![0; 16 << 10];
                    loop {
                        let count = from_server.read(&mut buffer).await?;
                        if count == 0 {
                            break;
                        }
                        to_client.write_all(&buffer[..count]).await?;
                        through += count;
                        let cut = through >= bytes
                            && left
                                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                                .is_ok();
                        if cut && hold {
                            std::future::pending::<()>().await;
                        }
                        if cut {
                            break;
                        }
                    }
                    up.abort();
                    std::io::Result::Ok(())
                });
            }
        });
        Ok(Self { address, cuts, task })
    }
}

impl Proxy {
    pub(crate) fn all_cut(&self) -> bool {
        self.cuts.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bytes that no two places of which are alike.
pub(crate) fn content(size: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut reader = blake3::Hasher::new().update(&[seed]).finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let begun = std::time::Instant::now();
    while !condition() {
        anyhow::ensure!(begun.elapsed() < BOUND, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
