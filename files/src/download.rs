//! Downloads: resumed where they were cut, and never taken for complete before they are.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{GetOptions, GetRange};
use tokio::fs::{self, File};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _, BufWriter};

use crate::FilesError;
use crate::cache::{Recorded, digest, failed, modified};
use crate::storage::{Inventory, Storage, Wanted};

/// Files on their way at once.
const AT_ONCE: usize = 4;

/// Tries in a row that bring nothing, before a file is given up.
const FRUITLESS_TRIES: u32 = 5;

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

const BUFFER: usize = 1 << 20;

/// Brings all files of `inventory` to `staging`; incomplete ones are in `parts`.
pub(crate) async fn download(
    storage: &Storage<'_>,
    inventory: &Inventory,
    staging: &Path,
    parts: &Path,
) -> Result<Vec<Recorded>, FilesError> {
    for folder in [staging, parts] {
        fs::create_dir_all(folder).await.map_err(failed("make a folder", folder))?;
    }
    let location = storage.remote.location.as_str();
    let total: u64 = inventory.files.iter().map(|file| file.size).sum();
    tracing::info!(location, files = inventory.files.len(), bytes = total, "downloading");
    let (begun, received) = (Instant::now(), AtomicU64::new(0));
    // Owned, because the compiler cannot yet see that borrowed ones live long enough in a future that is spawned.
    let tasks = inventory.files.clone().into_iter().enumerate().map(|(index, file)| {
        let paths = Paths { complete: staging.join(&file.name), part: parts.join(index.to_string()) };
        one(storage, file, paths, &received)
    });
    let all = futures::stream::iter(tasks).buffer_unordered(AT_ONCE).try_collect::<Vec<Recorded>>();
    let progress = async {
        loop {
            tokio::time::sleep(PROGRESS).await;
            let received = received.load(Ordering::Relaxed);
            tracing::info!(location, received, of = total, "downloading");
        }
    };
    let files = tokio::select! {
        files = all => files?,
        () = progress => Vec::new(),
    };
    let (received, seconds) = (received.into_inner(), begun.elapsed().as_secs_f64());
    tracing::info!(location, received, of = total, seconds, "downloaded");
    Ok(files)
}

struct Paths {
    complete: PathBuf,
    part: PathBuf,
}

async fn one(
    storage: &Storage<'_>,
    wanted: Wanted,
    paths: Paths,
    received: &AtomicU64,
) -> Result<Recorded, FilesError> {
    // Complete from an earlier try that did not get to its end.
    if fs::metadata(&paths.complete).await.is_ok_and(|found| found.len() == wanted.size) {
        let (blake3, _) = digest_apart(&paths.complete).await?;
        return record(&wanted, &paths.complete, blake3).await;
    }
    let mut part = Part::open(&paths.part, wanted.size).await?;
    let mut fruitless = 0;
    while part.size < wanted.size {
        let before = part.size;
        let Err(error) = part.extend(storage, &wanted, received).await else { break };
        fruitless = if part.size > before { 0 } else { fruitless + 1 };
        if !error.is_transient()
            || matches!(error, FilesError::Changing { .. })
            || fruitless >= FRUITLESS_TRIES
        {
            return Err(error);
        }
        tracing::warn!(
            location = storage.remote.location,
            file = wanted.name,
            at = part.size,
            of = wanted.size,
            error = &error as &dyn std::error::Error,
            "the download was cut; going on from there"
        );
        tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(fruitless)).await;
    }
    let blake3 = part.finish().await?;
    fs::rename(&paths.part, &paths.complete).await.map_err(failed("rename", &paths.part))?;
    record(&wanted, &paths.complete, blake3).await
}

async fn record(wanted: &Wanted, path: &Path, blake3: String) -> Result<Recorded, FilesError> {
    let found = fs::metadata(path).await.map_err(failed("look at a file", path))?;
    Ok(Recorded {
        name: wanted.name.clone(),
        size: wanted.size,
        tag: wanted.tag.clone(),
        blake3,
        modified: modified(&found),
    })
}

async fn digest_apart(path: &Path) -> Result<(String, u64), FilesError> {
    let owned = path.to_owned();
    let digest = tokio::task::spawn_blocking(move || digest(&owned)).await;
    digest.map_err(|error| failed("read", path)(io::Error::other(error)))?
}

/// The beginning of a file.
struct Part {
    path: PathBuf,
    file: BufWriter<File>,
    /// Bytes that are there.
    size: u64,
    hasher: blake3::Hasher,
}

impl Part {
    /// What an earlier try left, up to `longest` bytes.
    async fn open(path: &Path, longest: u64) -> Result<Self, FilesError> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .await
            .map_err(failed("open", path))?;
        let mut size = file.metadata().await.map_err(failed("look at a file", path))?.len();
        if size > longest {
            file.set_len(0).await.map_err(failed("shorten", path))?;
            size = 0;
        }
        let hasher = if size == 0 {
            blake3::Hasher::new()
        } else {
            let owned = path.to_owned();
            let hashed = tokio::task::spawn_blocking(move || {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(std::fs::File::open(owned)?)?;
                Ok(hasher)
            });
            hashed.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed("read", path))?
        };
        // Bytes of a write that was still under way have been read or not: the count that was hashed is the truth.
        let size = if size == 0 { 0 } else { hasher.count() };
        let mut file = BufWriter::with_capacity(BUFFER, file);
        file.seek(io::SeekFrom::Start(size)).await.map_err(failed("read", path))?;
        Ok(Self { path: path.to_owned(), file, size, hasher })
    }

    /// Asks for the rest. What came before an error is kept.
    async fn extend(
        &mut self,
        storage: &Storage<'_>,
        wanted: &Wanted,
        received: &AtomicU64,
    ) -> Result<(), FilesError> {
        let changing = || FilesError::Changing {
            location: storage.remote.location.clone(),
            object: wanted.key.to_string(),
        };
        let options = GetOptions {
            if_match: wanted.e_tag.clone(),
            range: (self.size > 0).then_some(GetRange::Offset(self.size)),
            ..GetOptions::default()
        };
        let result = storage.store.get_opts(&wanted.key, options).await.map_err(|error| match error {
            object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. } => changing(),
            error => storage.error("download", &wanted.key, error),
        })?;
        if !wanted.is_same(&result.meta) {
            return Err(changing());
        }
        let mut stream = result.into_stream();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|error| storage.error("download", &wanted.key, error))?;
            let got = self.size + bytes.len() as u64;
            if got > wanted.size {
                return Err(self.wrong_size(storage, wanted, got));
            }
            self.file.write_all(&bytes).await.map_err(failed("write", &self.path))?;
            self.hasher.update(&bytes);
            self.size = got;
            received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        if self.size < wanted.size { Err(self.wrong_size(storage, wanted, self.size)) } else { Ok(()) }
    }

    fn wrong_size(&self, storage: &Storage<'_>, wanted: &Wanted, got: u64) -> FilesError {
        FilesError::Size {
            location: storage.remote.location.clone(),
            object: wanted.key.to_string(),
            wanted: wanted.size,
            got,
        }
    }

    /// Makes it durable; its checksum.
    async fn finish(mut self) -> Result<String, FilesError> {
        self.file.flush().await.map_err(failed("write", &self.path))?;
        self.file.get_ref().sync_all().await.map_err(failed("write", &self.path))?;
        Ok(self.hasher.finalize().to_hex().to_string())
    }
}
