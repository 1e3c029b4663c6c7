//! Merging, in bytes moved per second, beside copying.

use crate::model::{RandomFamily, Shape};
use crate::timing::interleaved;
use anyhow::Result;
use clap::Args;
use rayon::prelude::*;
use serde_json::json;

/// Bytes that one task copies.
const STRETCH: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    /// The model's shape.
    #[arg(long, value_enum, default_value_t = Shape::Smol)]
    shape: Shape,
    /// Vectors.
    #[arg(long, default_value_t = 3)]
    vectors: usize,
    /// Rounds that count.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

/// Prints one JSON object.
pub(crate) fn run(arguments: &MergeArguments) -> Result<()> {
    let family = RandomFamily::write(arguments.shape, arguments.vectors)?;
    let mut engine = family.engine(None)?;
    let parameters = engine.base().parameters();
    let names: Vec<String> = engine.base().tensor_names().map(str::to_owned).collect();

    // Copying moves as many bytes as merging to bf16 does: a quarter of them would fit no cache either.
    let inputs = 2 * parameters * (1 + arguments.vectors);
    let half = (inputs + 2 * parameters) / 2;
    let source = vec![1_u8; half];
    let mut target = vec![2_u8; half];
    let point = |round: usize| -> Vec<f64> {
        (0..arguments.vectors).map(|index| 0.3 + 0.1 * ((round + index) % 7) as f64).collect()
    };

    let mut merged: Vec<(String, Vec<u8>)> = names.into_iter().map(|name| (name, Vec::new())).collect();
    engine.merge(&point(0))?;
    let merged_weights = usize::try_from(engine.memory().merged)?;
    let shared = std::cell::RefCell::new(engine);
    let mut round = 0;
    let seconds = interleaved(
        arguments.rounds,
        &mut [
            Box::new(|| copy(&source, &mut target)),
            Box::new(|| {
                let engine = shared.borrow();
                for (name, bytes) in &mut merged {
                    engine.merged_tensor(name, bytes).expect("the tensor is the model's");
                }
            }),
            Box::new(|| {
                round += 1;
                shared.borrow_mut().merge(&point(round)).expect("a point has a value per coefficient");
            }),
        ],
    );
    let rate = |bytes: usize, seconds: f64| bytes as f64 / seconds / 1e9;
    let copy = rate(2 * half, seconds[0]);
    let tensors = rate(inputs + 2 * parameters, seconds[1]);
    let decoder = rate(inputs + merged_weights, seconds[2]);
    let report = json!({
        "shape": arguments.shape.name(), "parameters": parameters, "vectors": arguments.vectors,
        "threads": rayon::current_num_threads(), "rounds": arguments.rounds,
        "copy_gb_per_s": copy,
        "tensors": {"seconds": seconds[1], "gb_per_s": tensors, "of_copy": tensors / copy},
        "decoder": {"seconds": seconds[2], "gb_per_s": decoder, "of_copy": decoder / copy},
    });
    println!("{report}");
    Ok(())
}

fn copy(source: &[u8], target: &mut [u8]) {
    source
        .par_chunks(STRETCH)
        .zip(target.par_chunks_mut(STRETCH))
        .for_each(|(source, target)| target.copy_from_slice(source));
}
