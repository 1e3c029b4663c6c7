//! Results as users get them, compared row by row.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use avsweep_proto::v1;

/// Ticks, query, rung.
type Key = (Vec<i32>, u32, u8);

/// The sweeps' results by sweep name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Export(BTreeMap<String, Vec<v1::ResultRow>>);

fn key(row: &v1::ResultRow) -> Key {
    let ticks = row.point.as_ref().map(|point| point.ticks.clone()).unwrap_or_default();
    let rung = match row.result {
        None => 0,
        Some(v1::result_row::Result::Score(_)) => 1,
        Some(v1::result_row::Result::Response(_)) => 2,
        Some(v1::result_row::Result::Verdict(_)) => 3,
    };
    (ticks, row.ordinal, rung)
}

impl Export {
    pub(crate) fn add(&mut self, sweep: &str, rows: Vec<v1::ResultRow>) {
        self.0.insert(sweep.to_owned(), rows);
    }

    /// Checks that this holds every row of `wanted`, and, where it is to be `exact`, no other.
    pub(crate) fn compare(&self, wanted: &Self, exact: bool) -> anyhow::Result<()> {
        for (sweep, wanted) in &wanted.0 {
            let found = self.0.get(sweep).with_context(|| format!("the export lacks sweep '{sweep}'"))?;
            let by_key: BTreeMap<Key, &v1::ResultRow> = found.iter().map(|row| (key(row), row)).collect();
            ensure!(by_key.len() == found.len(), "the export of '{sweep}' has a row twice");
            for row in wanted {
                let same = by_key.get(&key(row)).copied();
                ensure!(
                    same == Some(row),
                    "the export of '{sweep}' has {same:?} where the undisturbed run has {row:?}"
                );
            }
            ensure!(
                !exact || found == wanted,
                "the export of '{sweep}' has {} rows, the undisturbed run's has {}",
                found.len(),
                wanted.len()
            );
        }
        Ok(())
    }
}
