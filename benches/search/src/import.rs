//! A grid from `avsweep export --format csv`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use avsweep_domain::{Coefficient, Levels, Point, Range, Space, Ticks};
use avsweep_search::DomainShape;
use avsweep_search::record::{GridBuilder, RecordedGrid};

/// Reads the search queries' likelihoods; coefficients, levels and domains are those of the columns and rows.
pub(crate) fn import(path: &Path) -> anyhow::Result<RecordedGrid> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("{}", path.display()))?;
    let header = reader.headers()?.clone();
    let column = |name: &str| {
        header
            .iter()
            .position(|known| known == name)
            .with_context(|| format!("{}: no column '{name}'", path.display()))
    };
    let (domain, set, query, rung) = (column("domain")?, column("set")?, column("query")?, column("rung")?);
    let names: Vec<&str> = header.iter().take(domain).collect();
    let levels: Vec<String> =
        header.iter().filter_map(|name| name.strip_suffix("_log_prob_sum")).map(str::to_owned).collect();
    let columns: Vec<(usize, usize)> = levels
        .iter()
        .map(|level| Ok((column(&format!("{level}_log_prob_sum"))?, column(&format!("{level}_tokens"))?)))
        .collect::<anyhow::Result<_>>()?;
    // Domains and queries in the order of their first rows; points by ticks.
    let mut domains: Vec<String> = Vec::new();
    let mut queries: BTreeMap<(usize, String), usize> = BTreeMap::new();
    let mut counts: Vec<usize> = Vec::new();
    let mut points: BTreeMap<Point, BTreeMap<(usize, usize), Vec<f32>>> = BTreeMap::new();
    for row in reader.records() {
        let row = row?;
        if &row[set] != "search" || &row[rung] != "likelihood" {
            continue;
        }
        let at = row.iter().take(domain).collect::<Vec<_>>().join(",").parse::<Point>()?;
        let in_domain = domains.iter().position(|known| known == &row[domain]).unwrap_or_else(|| {
            domains.push(row[domain].to_owned());
            counts.push(0);
            domains.len() - 1
        });
        let place = *queries.entry((in_domain, row[query].to_owned())).or_insert_with(|| {
            counts[in_domain] += 1;
            counts[in_domain] - 1
        });
        let scores = columns
            .iter()
            .map(|(sum, tokens)| Ok((row[*sum].parse::<f64>()? / row[*tokens].parse::<f64>()?) as f32))
            .collect::<anyhow::Result<Vec<f32>>>()?;
        if points.entry(at.clone()).or_default().insert((in_domain, place), scores).is_some() {
            bail!("{}: point {at}, query '{}' stands twice", path.display(), &row[query]);
        }
    }
    let coefficients = names.iter().enumerate().map(|(axis, name)| {
        let mut values: Vec<Ticks> = points.keys().map(|point| point.values()[axis]).collect();
        values.sort();
        values.dedup();
        let (Some(min), Some(max)) = (values.first(), values.last()) else {
            bail!("{}: no row of search queries' likelihoods", path.display());
        };
        let step = values.get(1).map_or(1, |second| second.get() - min.get());
        Ok(Coefficient {
            name: (*name).to_owned(),
            vector: axis,
            tensors: None,
            range: Range::new(*min, *max, Ticks::new(step))?,
        })
    });
    let space = Space::new(coefficients.collect::<anyhow::Result<_>>()?)?;
    let shapes = domains
        .iter()
        .zip(&counts)
        .map(|(name, queries)| DomainShape { name: name.clone(), queries: *queries });
    let mut builder = GridBuilder::new(space, Levels::new(levels)?, shapes.collect())?;
    for (point, scores) in &points {
        let flat: Vec<f32> = scores.values().flatten().copied().collect();
        builder.add(point, &flat, None)?;
    }
    Ok(builder.build()?)
}
