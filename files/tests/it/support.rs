//! Caches before an S3 server, and a proxy between that cuts connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use avsweep_files::ModelFiles;
pub(crate) use avsweep_testing::s3::{SECRET, Server, variables};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest wait for something that must come.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

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
