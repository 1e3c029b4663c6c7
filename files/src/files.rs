//! Locations to local paths.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::FilesError;
use crate::cache::{Check, Entry, failed};
use crate::download::download;
use crate::location::{Location, Remote};
use crate::storage::{Environment, Storage};

/// How often a location is looked up anew because it changed while it was downloaded.
const CHANGES: u32 = 3;

/// Model files, wherever they are. Clones share the cache; so do other processes with the same folder.
#[derive(Clone)]
pub struct ModelFiles {
    cache: PathBuf,
    environment: Environment,
}

impl ModelFiles {
    /// Files with a cache in this folder, which is made when it is first needed. Credentials and endpoints are taken
    /// from the environment now: `AWS_…`, `GOOGLE_…`, `AZURE_…`.
    pub fn new(cache: PathBuf) -> Self {
        let text = std::env::vars_os().filter_map(|(name, value)| {
            // Others cannot be settings of a store.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::with_environment(cache, text)
    }

    /// As [`Self::new`], with these variables instead of the environment's.
    pub fn with_environment(cache: PathBuf, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables: Arc<[_]> = variables.into_iter().collect();
        Self { cache, environment: Environment(variables) }
    }

    /// The folder of the cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A local path for `location`. A path stays what it is, unchecked. A place in object storage is downloaded into
    /// the cache unless what is there is what the store has now: an object's file, or a folder with the files that lie
    /// directly in the place (without weights in formats that are not read here). While the store cannot be reached,
    /// what the cache has is used.
    ///
    /// Can be dropped at any time; the next fetch goes on where this one was. A path that was returned stays valid
    /// until the location's content changes and is fetched again, or [`Self::forget`] is called.
    ///
    /// # Errors
    /// When there is nothing, when the store refuses or cannot be reached, when the cache cannot be written.
    pub async fn fetch(&self, location: &str) -> Result<PathBuf, FilesError> {
        match Location::parse(location)? {
            Location::Local(path) => Ok(path),
            Location::Remote(remote) => self.fetch_remote(&remote).await,
        }
    }

    /// Removes what the cache has of `location`, so that the next fetch downloads it anew. Nothing happens to paths.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub async fn forget(&self, location: &str) -> Result<(), FilesError> {
        match Location::parse(location)? {
            Location::Local(_) => Ok(()),
            Location::Remote(remote) => Entry::lock(&self.cache, &remote).await?.sweep(None),
        }
    }

    async fn fetch_remote(&self, remote: &Remote) -> Result<PathBuf, FilesError> {
        let storage = Storage::open(remote, &self.environment)?;
        let mut entry = Entry::lock(&self.cache, remote).await?;
        let mut changes = 0;
        loop {
            let inventory = match storage.look().await {
                Ok(inventory) => inventory,
                Err(error) if error.is_transient() => {
                    let (kept, path) = blocking(entry, Entry::any_version).await?;
                    drop(kept);
                    let Some(path) = path else { return Err(error) };
                    tracing::warn!(
                        location = remote.location,
                        error = &error as &dyn std::error::Error,
                        "the store cannot be asked whether its files have changed; using those in the cache"
                    );
                    return Ok(path);
                }
                Err(error) => return Err(error),
            };
            let version = inventory.version();
            let wanted = version.clone();
            let (kept, check) = blocking(entry, move |entry| {
                entry.sweep_unfinished(&wanted)?;
                entry.check(&wanted)
            })
            .await?;
            entry = kept;
            if let Check::Good(path) = check {
                tracing::debug!(location = remote.location, path = %path.display(), "found in the cache");
                return Ok(path);
            }
            let (staging, parts) = (entry.staging(&version, inventory.single), entry.parts(&version));
            match download(&storage, &inventory, &staging, &parts).await {
                Ok(files) => return entry.complete(&version, remote, inventory.single, files),
                Err(FilesError::Changing { object, .. }) if changes < CHANGES => {
                    changes += 1;
                    tracing::warn!(location = remote.location, object, "changed while it was downloaded");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelFiles").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// Runs `work`, which may read gigabytes, apart from the runtime's threads. The lock goes along and comes back: it is
/// held until the work has ended even when nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    entry: Entry,
    work: impl FnOnce(&Entry) -> Result<T, FilesError> + Send + 'static,
) -> Result<(Entry, T), FilesError> {
    let folder = entry.folder().to_owned();
    let task = tokio::task::spawn_blocking(move || {
        let result = work(&entry);
        (entry, result)
    });
    match task.await {
        Ok((entry, result)) => Ok((entry, result?)),
        Err(error) => Err(failed("read", &folder)(std::io::Error::other(error))),
    }
}
