//! The engine's speed and memory, each subcommand one measurement; see `README.md`.

mod evaluate;
mod memory;
mod merge;
mod model;
mod peak;
mod timing;

use anyhow::Result;
use clap::{Parser, Subcommand};
use model::Shape;
use std::path::PathBuf;

/// Measures the engine.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Merging a bf16 base and bf16 vectors, beside copying as many bytes.
    Merge(merge::MergeArguments),
    /// The machine's multiply-adds, reads and copies per second, which bound what the rest can reach.
    Peak,
    /// Peak memory beside what weights and key/value caches take; every run is a process of its own.
    Memory(memory::MemoryArguments),
    /// Scoring a model's references, a round for every line of standard input.
    Score(evaluate::ScoreArguments),
    /// Greedy answers, a round for every line of standard input.
    Generate(evaluate::GenerateArguments),
    /// Writes random vectors for a model of a shape, for `share.sh`.
    Vectors {
        /// Folder to write `vector0.safetensors …` to.
        folder: PathBuf,
        /// The model's shape.
        #[arg(long, value_enum, default_value_t = Shape::Smol)]
        shape: Shape,
        /// Vectors.
        #[arg(long, default_value_t = 3)]
        vectors: usize,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Merge(arguments) => merge::run(&arguments),
        What::Peak => {
            peak::run();
            Ok(())
        }
        What::Memory(arguments) => memory::run(&arguments),
        What::Score(arguments) => evaluate::score(&arguments),
        What::Generate(arguments) => evaluate::generate(&arguments),
        What::Vectors { folder, shape, vectors } => model::write_vectors(&folder, shape, vectors).map(drop),
    }
}
