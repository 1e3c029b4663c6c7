//! Arguments of the verbs on weights: vector and merge.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum VectorCommand {
    /// Write aligned − base as a delta safetensors file, tensor by tensor. A LoRA adapter's products are written out.
    Extract {
        /// The base model's folder.
        #[arg(long, value_name = "DIR")]
        base: PathBuf,
        /// The aligned model's folder, or a PEFT LoRA adapter's.
        #[arg(long, value_name = "DIR")]
        aligned: PathBuf,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Element type of the differences.
        #[arg(long, value_enum, default_value_t = DeltaArgument::F32)]
        dtype: DeltaArgument,
    },
    /// Norms per tensor and layer, cosines between vectors, share of what changed.
    Inspect {
        /// Delta files, aligned models' folders or LoRA adapters' folders.
        #[arg(required = true, value_name = "VECTOR")]
        vectors: Vec<PathBuf>,
        /// The base, for relative norms; needed for folders.
        #[arg(long, value_name = "DIR")]
        base: Option<PathBuf>,
        /// Print every tensor, not only layers.
        #[arg(long)]
        tensors: bool,
    },
}

/// Element types of a delta file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeltaArgument {
    /// 32-bit float: exact for bfloat16 and 16-bit models.
    F32,
    /// bfloat16: half the size, rounded.
    Bf16,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    /// The base model's folder.
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// A vector and its coefficient: FILE=0.4. Repeatable; added in this order.
    #[arg(long = "vector", required = true, value_name = "FILE=COEFFICIENT", value_parser = weighted_vector)]
    pub vectors: Vec<(PathBuf, f64)>,
    /// The folder to write; must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

fn weighted_vector(text: &str) -> Result<(PathBuf, f64), String> {
    let (path, coefficient) =
        text.rsplit_once('=').ok_or_else(|| format!("'{text}' is not of the form FILE=COEFFICIENT"))?;
    let coefficient: f64 =
        coefficient.parse().map_err(|_| format!("'{coefficient}' is not a number (in '{text}')"))?;
    if !coefficient.is_finite() {
        return Err(format!("coefficient {coefficient} is not finite (in '{text}')"));
    }
    if path.is_empty() {
        return Err(format!("'{text}' names no file"));
    }
    Ok((PathBuf::from(path), coefficient))
}
