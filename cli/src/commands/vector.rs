//! `avsweep vector extract|inspect`

use std::path::{Path, PathBuf};

use anyhow::Result;
use avsweep_engine::{DeltaType, InspectReport, extract, inspect};
use serde::Serialize;

use crate::arguments::{DeltaArgument, Format, VectorCommand};
use crate::output::{self, Table};

#[derive(Serialize)]
struct InspectOutput {
    vectors: Vec<VectorOutput>,
    /// Row-major: cosine between the whole deltas of each two vectors.
    cosine: Vec<Vec<f64>>,
}

#[derive(Serialize)]
struct VectorOutput {
    path: PathBuf,
    norm: f64,
    relative_norm: Option<f64>,
    changed_tensors: usize,
    tensors_total: usize,
    changed_elements: u64,
    elements: u64,
    layers: Vec<NormOutput>,
    tensors: Vec<NormOutput>,
}

#[derive(Serialize)]
struct NormOutput {
    name: String,
    norm: f64,
    relative_norm: Option<f64>,
    changed_share: Option<f64>,
}

/// Runs a vector verb.
pub(super) fn run(command: VectorCommand, format: Format) -> Result<()> {
    match command {
        VectorCommand::Extract { base, aligned, out, dtype } => {
            let dtype = match dtype {
                DeltaArgument::F32 => DeltaType::F32,
                DeltaArgument::Bf16 => DeltaType::Bf16,
            };
            let extracted = extract(&base, &aligned, &out, dtype)?;
            output::note(format!(
                "wrote {}: {} tensors with {} weights; {} tensors did not change",
                out.display(),
                extracted.changed_tensors,
                extracted.elements,
                extracted.unchanged_tensors
            ));
            Ok(())
        }
        VectorCommand::Inspect { vectors, base, tensors } => {
            let report = collect(inspect(base.as_deref(), &vectors)?);
            output::print(format, &report, |report, out| {
                summary_table(report).write(out)?;
                if report.vectors.len() > 1 {
                    writeln!(out, "\nCosine between vectors")?;
                    cosine_table(report).write(out)?;
                }
                writeln!(out, "\nNorm by layer")?;
                norm_table(report, |vector| &vector.layers, false).write(out)?;
                if tensors {
                    writeln!(out, "\nNorm by tensor")?;
                    norm_table(report, |vector| &vector.tensors, true).write(out)?;
                }
                Ok(())
            })
        }
    }
}

fn collect(report: InspectReport) -> InspectOutput {
    let vectors = report
        .vectors
        .into_iter()
        .map(|vector| VectorOutput {
            path: vector.path,
            norm: vector.norm,
            relative_norm: vector.relative_norm,
            changed_tensors: vector.changed_tensors,
            tensors_total: vector.tensors_total,
            changed_elements: vector.changed_elements,
            elements: vector.elements,
            layers: vector
                .layers
                .into_iter()
                .map(|layer| NormOutput {
                    name: layer.name,
                    norm: layer.norm,
                    relative_norm: layer.relative_norm,
                    changed_share: None,
                })
                .collect(),
            tensors: vector
                .tensors
                .into_iter()
                .map(|tensor| NormOutput {
                    changed_share: Some(tensor.changed_elements as f64 / tensor.elements.max(1) as f64),
                    name: tensor.name,
                    norm: tensor.norm,
                    relative_norm: tensor.relative_norm,
                })
                .collect(),
        })
        .collect();
    InspectOutput { vectors, cosine: report.cosine }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn relative(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

fn summary_table(report: &InspectOutput) -> Table {
    let mut table = Table::new(["vector", "norm", "of base", "changed tensors", "changed elements"]);
    for vector in &report.vectors {
        let share = 100.0 * vector.changed_elements as f64 / vector.elements.max(1) as f64;
        table.row([
            file_name(&vector.path),
            format!("{:.4}", vector.norm),
            relative(vector.relative_norm),
            format!("{} of {}", vector.changed_tensors, vector.tensors_total),
            format!("{share:.1} %"),
        ]);
    }
    table
}

fn cosine_table(report: &InspectOutput) -> Table {
    let names: Vec<String> = report.vectors.iter().map(|vector| file_name(&vector.path)).collect();
    let mut table = Table::new(std::iter::once(String::new()).chain(names.iter().cloned()));
    for (name, row) in names.iter().zip(&report.cosine) {
        table.row(std::iter::once(name.clone()).chain(row.iter().map(|cosine| format!("{cosine:.3}"))));
    }
    table
}

fn norm_table(report: &InspectOutput, of: fn(&VectorOutput) -> &Vec<NormOutput>, changed: bool) -> Table {
    let mut headings = vec!["".to_owned()];
    for vector in &report.vectors {
        let name = file_name(&vector.path);
        headings.push(format!("{name} norm"));
        headings.push("of base".to_owned());
        if changed {
            headings.push("changed".to_owned());
        }
    }
    let mut table = Table::new(headings);
    let Some(first) = report.vectors.first() else { return table };
    for (index, named) in of(first).iter().enumerate() {
        let mut row = vec![named.name.clone()];
        for vector in &report.vectors {
            let Some(norm) = of(vector).get(index) else { continue };
            row.push(format!("{:.4}", norm.norm));
            row.push(relative(norm.relative_norm));
            if changed {
                row.push(format!("{:.1} %", 100.0 * norm.changed_share.unwrap_or(0.0)));
            }
        }
        table.row(row);
    }
    table
}
