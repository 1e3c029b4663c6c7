//! Where a sweep's model files are on this machine.

use std::path::{Component, Path, PathBuf};

use avsweep_domain::SweepDefinition;
use avsweep_files::ModelFiles;
use avsweep_lease::error_chain;

use super::EngineOptions;
use crate::error::UnfitError;

/// A sweep's model files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelPaths {
    pub(super) base: PathBuf,
    /// In the definition's order.
    pub(super) vectors: Vec<PathBuf>,
}

/// Finds model files by what a sweep calls them.
#[derive(Debug)]
pub(super) struct Locations {
    root: Option<PathBuf>,
    /// For what lies in object storage.
    files: ModelFiles,
}

impl Locations {
    pub(super) fn new(options: &EngineOptions) -> Self {
        let cache = options.cache.clone().unwrap_or_else(|| std::env::temp_dir().join("avsweep-models"));
        Self { root: options.model_root.clone(), files: ModelFiles::new(cache) }
    }

    /// Every file of a sweep's model.
    ///
    /// # Errors
    /// When one is not here, or cannot be fetched.
    pub(super) async fn find_all(&self, definition: &SweepDefinition) -> Result<ModelPaths, UnfitError> {
        let base = self.find(&definition.model.path).await?;
        let mut vectors = Vec::with_capacity(definition.vectors.len());
        for vector in &definition.vectors {
            vectors.push(self.find(&vector.path).await?);
        }
        Ok(ModelPaths { base, vectors })
    }

    async fn find(&self, location: &str) -> Result<PathBuf, UnfitError> {
        if avsweep_files::is_remote(location) {
            return self.files.fetch(location).await.map_err(|error| UnfitError::Fetch {
                location: location.to_owned(),
                reason: error_chain(&error),
            });
        }
        let candidates = candidates(Path::new(location), self.root.as_deref());
        for candidate in &candidates {
            if tokio::fs::try_exists(candidate).await.unwrap_or(false) {
                return Ok(candidate.clone());
            }
        }
        let tried = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Err(UnfitError::Missing { location: location.to_owned(), tried })
    }

    /// Throws cached files away that proved not to be the sweep's; whether there is something to fetch again.
    pub(super) async fn forget(&self, definition: &SweepDefinition, error: &UnfitError) -> bool {
        match error {
            UnfitError::FilesDiffer { .. } | UnfitError::Open(_) => {}
            UnfitError::Missing { .. } | UnfitError::Fetch { .. } | UnfitError::TooLarge { .. } => {
                return false;
            }
        }
        let vectors = definition.vectors.iter().map(|vector| vector.path.as_str());
        let mut forgotten = false;
        for location in std::iter::once(definition.model.path.as_str()).chain(vectors) {
            if avsweep_files::is_remote(location) {
                match self.files.forget(location).await {
                    Ok(()) => forgotten = true,
                    Err(error) => {
                        tracing::warn!(location, %error, "the cached files could not be thrown away");
                    }
                }
            }
        }
        forgotten
    }
}

/// Paths at which a sweep's file may be, likeliest first.
///
/// A relative path means one under the root where there is one. A path of another machine keeps its end: of
/// `/data/models/base`, `models/base` or `base` may be under the root. Which file is the right one its fingerprint says.
fn candidates(location: &Path, root: Option<&Path>) -> Vec<PathBuf> {
    let as_named = std::iter::once(location.to_path_buf());
    let Some(root) = root else { return as_named.collect() };
    // Nothing that leads out of the root again.
    let names: Vec<_> = location
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    let under_root = (0..names.len()).map(|first| root.join(names[first..].iter().collect::<PathBuf>()));
    if location.is_relative() {
        under_root.chain(as_named).collect()
    } else {
        as_named.chain(under_root).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(location: &str, root: Option<&str>) -> Vec<String> {
        let paths = candidates(Path::new(location), root.map(Path::new));
        paths.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn paths_are_tried_as_named_and_by_their_ends_under_the_root_and_never_outside_it() {
        assert_eq!(tried("/data/m/base", None), ["/data/m/base"]);
        assert_eq!(
            tried("/data/m/base", Some("/mnt")),
            ["/data/m/base", "/mnt/data/m/base", "/mnt/m/base", "/mnt/base"]
        );
        assert_eq!(tried("m/base", Some("/mnt")), ["/mnt/m/base", "/mnt/base", "m/base"]);
        assert_eq!(tried("../../base", Some("/mnt")), ["/mnt/base", "../../base"]);
    }

    #[tokio::test]
    async fn a_file_that_is_nowhere_is_named_with_every_place_that_was_tried() {
        let options =
            EngineOptions { model_root: Some("/nowhere/models".into()), ..EngineOptions::default() };
        let error = Locations::new(&options).find("/nowhere/else/base").await.expect_err("it is nowhere");
        let text = error.to_string();
        assert!(text.starts_with("/nowhere/else/base is not here"), "{text}");
        assert!(text.contains("/nowhere/models/else/base, /nowhere/models/base"), "{text}");
    }
}
