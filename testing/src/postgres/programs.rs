//! Where PostgreSQL's programs are.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Names the folder that holds `initdb` and `postgres`.
const VARIABLE: &str = "AVSWEEP_POSTGRES_BIN";

/// A folder with PostgreSQL's programs.
#[derive(Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// Looks in `$AVSWEEP_POSTGRES_BIN` (and then nowhere else), in `PATH`, and where Debian puts them.
    pub(super) fn find() -> Result<Self> {
        if let Some(folder) = std::env::var_os(VARIABLE).map(PathBuf::from) {
            if !holds_programs(&folder) {
                bail!(
                    "{VARIABLE} is {}, which does not hold initdb, postgres and createdb",
                    folder.display()
                );
            }
            return Ok(Self(folder));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        match std::env::split_paths(&path).chain(packaged()).find(|folder| holds_programs(folder)) {
            Some(folder) => Ok(Self(folder)),
            None => bail!(
                "this test starts a PostgreSQL server of its own, and there is no initdb, postgres and createdb in \
                 PATH or /usr/lib/postgresql: install PostgreSQL 13 or later (Debian: apt-get install postgresql), \
                 or set {VARIABLE} to the folder that holds them"
            ),
        }
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }
}

fn holds_programs(folder: &Path) -> bool {
    ["initdb", "postgres", "createdb"].iter().all(|program| folder.join(program).is_file())
}

/// The folders of Debian's packages, newest version first.
fn packaged() -> Vec<PathBuf> {
    let mut versions: Vec<u32> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.iter().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))).collect()
}
