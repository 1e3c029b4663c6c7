//! The cache's folder of one location: locked, versioned, checked.
//!
//! ```text
//! CACHE/base-0f3c…/lock                 held by whoever fetches or checks
//!                  VERSION/base/…       complete files (VERSION/vector.safetensors for a single object)
//!                  VERSION.json         what they are: sizes, times, checksums
//!                  VERSION.partial/     files on their way, renamed to VERSION once all are there
//!                  VERSION.parts/       files of which a part is there
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::FilesError;
use crate::location::Remote;

/// Waits between looks at a lock that another task or process holds.
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// The folder of one location. Whoever has this value holds its lock.
#[derive(Debug)]
pub(crate) struct Entry {
    folder: PathBuf,
    name: String,
    _lock: File,
}

/// What a version's files are.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The location they came from.
    location: String,
    /// One object, rather than a folder.
    pub(crate) single: bool,
    pub(crate) files: Vec<Recorded>,
}

/// One file as it was when it was complete.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// The object's e-tag, or when it was written.
    pub(crate) tag: String,
    /// Checksum of the content.
    pub(crate) blake3: String,
    /// Time of the last write, nanoseconds since 1970.
    pub(crate) modified: u64,
}

/// What a look at a version's files found.
#[derive(Debug)]
pub(crate) enum Check {
    /// They are what was recorded.
    Good(PathBuf),
    /// There is no such version, or it is no longer what was recorded.
    Unusable,
}

impl Entry {
    /// The folder for `remote`, made if need be. Waits until no other task or process has it.
    pub(crate) async fn lock(cache: &Path, remote: &Remote) -> Result<Self, FilesError> {
        let canonical = remote.canonical();
        let readable: String = remote
            .name()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
            .take(40)
            .collect();
        let hash = blake3::hash(canonical.as_bytes()).to_hex();
        let folder = cache.join(format!("{readable}-{}", &hash[..16]));
        fs::create_dir_all(&folder).map_err(failed("make a folder", &folder))?;
        let path = folder.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("open the lock", &path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
            }
            if !told {
                tracing::info!(location = remote.location, "waiting: another task or process fetches it");
                told = true;
            }
            tokio::time::sleep(LOCK_WAIT).await;
        }
        Ok(Self { folder, name: remote.name().to_owned(), _lock: file })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Path of the file, or of the folder, that a version is for its user.
    fn result(&self, version: &str) -> PathBuf {
        self.folder.join(version).join(&self.name)
    }

    fn manifest_path(&self, version: &str) -> PathBuf {
        self.folder.join(format!("{version}.json"))
    }

    fn partial(&self, version: &str) -> PathBuf {
        self.folder.join(format!("{version}.partial"))
    }

    /// Where the complete files of a version are put until all are there.
    pub(crate) fn staging(&self, version: &str, single: bool) -> PathBuf {
        if single { self.partial(version) } else { self.partial(version).join(&self.name) }
    }

    /// Where the incomplete files of a version are.
    pub(crate) fn parts(&self, version: &str) -> PathBuf {
        self.folder.join(format!("{version}.parts"))
    }

    /// Whether a version is there as it was recorded. Looks at sizes and times, and at contents only where a time
    /// differs. What is no longer as recorded is taken out of use; its good files serve the next download.
    pub(crate) fn check(&self, version: &str) -> Result<Check, FilesError> {
        let Some(mut manifest) = self.manifest(version) else { return Ok(Check::Unusable) };
        let folder = self.folder.join(version);
        if !folder.is_dir() {
            return Ok(Check::Unusable);
        }
        let contents = if manifest.single { folder.clone() } else { folder.join(&self.name) };
        let (mut broken, mut touched) = (false, false);
        for file in &mut manifest.files {
            let path = contents.join(&file.name);
            let found = fs::metadata(&path).ok().map(|found| (found.len(), modified(&found)));
            match found {
                Some((size, time)) if size == file.size && time == file.modified => continue,
                Some((size, time)) if size == file.size && digest(&path)?.0 == file.blake3 => {
                    file.modified = time;
                    touched = true;
                }
                _ => {
                    tracing::warn!(
                        file = %path.display(),
                        "is not what was downloaded (something else wrote to the cache?); it is fetched again"
                    );
                    let _ = fs::remove_file(&path);
                    broken = true;
                }
            }
        }
        if broken {
            let partial = self.partial(version);
            remove(&partial)?;
            fs::rename(&folder, &partial).map_err(failed("rename", &folder))?;
            return Ok(Check::Unusable);
        }
        if touched {
            self.write_manifest(version, &manifest)?;
        }
        Ok(Check::Good(self.result(version)))
    }

    /// Puts a version into use whose files are all staged, and throws away every other.
    pub(crate) fn complete(
        &self,
        version: &str,
        remote: &Remote,
        single: bool,
        mut files: Vec<Recorded>,
    ) -> Result<PathBuf, FilesError> {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        // A file of this version that the location no longer has cannot be: the version names them all.
        self.write_manifest(version, &Manifest { location: remote.canonical(), single, files })?;
        let (partial, folder) = (self.partial(version), self.folder.join(version));
        remove(&folder)?;
        fs::rename(&partial, &folder).map_err(failed("rename", &partial))?;
        self.sweep(Some(version))?;
        Ok(self.result(version))
    }

    /// The version in use, whichever it is, for when the store cannot be asked.
    pub(crate) fn any_version(&self) -> Result<Option<PathBuf>, FilesError> {
        for name in self.names()? {
            if let Some(version) = name.strip_suffix(".json")
                && let Check::Good(path) = self.check(version)?
            {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Throws everything away, but for the version to keep.
    pub(crate) fn sweep(&self, keep: Option<&str>) -> Result<(), FilesError> {
        for name in self.names()? {
            let kept = keep.is_some_and(|keep| name == keep || name.strip_suffix(".json") == Some(keep));
            if !kept && name != "lock" {
                remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Throws away what is on its way to another version than this.
    pub(crate) fn sweep_unfinished(&self, version: &str) -> Result<(), FilesError> {
        for name in self.names()? {
            let unfinished = name.strip_suffix(".partial").or_else(|| name.strip_suffix(".parts"));
            if unfinished.is_some_and(|other| other != version) {
                remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, FilesError> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let file = file.map_err(failed("list", &self.folder))?;
            names.extend(file.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// None when there is none that can be read: then its files are not worth more than those of a stranger.
    fn manifest(&self, version: &str) -> Option<Manifest> {
        serde_json::from_slice(&fs::read(self.manifest_path(version)).ok()?).ok()
    }

    fn write_manifest(&self, version: &str, manifest: &Manifest) -> Result<(), FilesError> {
        let path = self.manifest_path(version);
        let failed = |error| failed("write", &path)(error);
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| failed(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed)?;
        io::Write::write_all(&mut file, &text).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// An error of the file system on `path`.
pub(crate) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError + use<> {
    let path = path.to_owned();
    move |source| FilesError::Cache { operation, path, source }
}

/// Time of the last write, nanoseconds since 1970.
pub(crate) fn modified(metadata: &fs::Metadata) -> u64 {
    let time = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Checksum and size of a file.
pub(crate) fn digest(path: &Path) -> Result<(String, u64), FilesError> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(failed("read", path))?;
    let size = io::copy(&mut io::BufReader::with_capacity(1 << 20, file), &mut hasher)
        .map_err(failed("read", path))?;
    Ok((hasher.finalize().to_hex().to_string(), size))
}

fn remove(path: &Path) -> Result<(), FilesError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}
