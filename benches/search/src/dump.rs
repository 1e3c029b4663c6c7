//! Grids for searches in other languages.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use avsweep_domain::Strategy;
use avsweep_search::SearchRung;
use avsweep_search::record::RecordedGrid;
use avsweep_search::replay::Truth;

/// Writes `NAME.npy` (targets × points, 64-bit floats, points in grid order) and `NAME.json` (coefficients with their values,
/// domains with their queries, the targets' level per domain).
pub(crate) fn dump(name: &str, grid: &RecordedGrid, folder: &Path) -> anyhow::Result<()> {
    let problem = crate::problem(grid, Strategy::Grid, SearchRung::Likelihood)?;
    let truth = Truth::new(grid, &problem)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let write = |ending: &str, bytes: Vec<u8>| {
        let path = folder.join(format!("{name}.{ending}"));
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write("npy", npy(truth.values(), grid.points()))?;
    let axes: Vec<serde_json::Value> = grid
        .space()
        .coefficients()
        .iter()
        .map(|coefficient| {
            let values: Vec<f64> = (0..coefficient.range.count())
                .filter_map(|place| coefficient.range.value(place))
                .map(avsweep_domain::Ticks::to_f64)
                .collect();
            serde_json::json!({"name": coefficient.name, "values": values})
        })
        .collect();
    let wants: Vec<Vec<Option<u8>>> = problem
        .wants(&avsweep_search::strategy::History::default())
        .iter()
        .map(|wanted| wanted.iter().map(|level| level.map(|level| level.0)).collect())
        .collect();
    let about = serde_json::json!({
        "coefficients": axes,
        "levels": grid.levels().names(),
        "domains": grid.domains(),
        "targets": wants,
    });
    write("json", serde_json::to_vec_pretty(&about)?)
}

/// NumPy's format 1.0: magic, version, a padded header, then the numbers, little-endian, row by row.
fn npy(rows: &[Vec<f64>], columns: usize) -> Vec<u8> {
    let shape = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({}, {columns}), }}", rows.len());
    // The numbers start at a multiple of 64; a line feed ends the header.
    let padding = 63 - (10 + shape.len()) % 64;
    let header = format!("{shape}{}\n", " ".repeat(padding));
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(rows.iter().flatten().flat_map(|value| value.to_le_bytes()));
    bytes
}
