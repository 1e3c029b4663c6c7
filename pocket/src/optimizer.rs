//! AdamW over named variables, with gradient clipping and data-parallel gradients.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::error::Result;
use crate::model::Weights;

/// Variables by name, in a fixed order.
pub type Vars = BTreeMap<String, Var>;

/// Gradients by name, flattened.
pub type Gradients = BTreeMap<String, Vec<f32>>;

/// Makes every tensor of `weights` a variable with the same starting value.
///
/// # Errors
/// When a tensor cannot be copied.
pub fn variables(weights: &Weights) -> Result<Vars> {
    weights.iter().map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(tensor)?))).collect()
}

/// The present values of the variables, cut off from any gradient.
pub fn values(vars: &Vars) -> Weights {
    vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
}

/// The variables as tensors that gradients flow through.
pub fn tracked(vars: &Vars) -> Weights {
    vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
}

/// Sums loss and gradients over shards computed in parallel.
///
/// The sum runs in shard order, so the result does not depend on which shard ends first.
///
/// # Errors
/// When a shard's loss or its backward pass fails.
pub fn sharded_gradients<S: Sync>(
    vars: &Vars,
    shards: &[S],
    loss: impl Fn(&S) -> Result<Tensor> + Sync,
) -> Result<(f32, Gradients)> {
    let parts: Vec<(f32, Gradients)> = shards
        .par_iter()
        .map(|shard| {
            let loss = loss(shard)?;
            let found = loss.backward()?;
            let mut gradients = Gradients::new();
            for (name, var) in vars {
                if let Some(gradient) = found.get(var) {
                    gradients.insert(name.clone(), gradient.flatten_all()?.to_vec1()?);
                }
            }
            Ok((loss.to_scalar::<f32>()?, gradients))
        })
        .collect::<Result<_>>()?;
    let mut total = (0.0, Gradients::new());
    for (loss, gradients) in parts {
        total.0 += loss;
        for (name, gradient) in gradients {
            match total.1.entry(name) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(gradient);
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    for (sum, value) in entry.get_mut().iter_mut().zip(&gradient) {
                        *sum += value;
                    }
                }
            }
        }
    }
    Ok(total)
}

/// Decoupled weight decay Adam (Loshchilov and Hutter, 2019).
#[derive(Debug)]
pub struct AdamW {
    moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
    step: i32,
    weight_decay: f32,
    /// Gradients with a larger joint norm are scaled down to it.
    max_norm: f32,
}

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.98;
const EPSILON: f32 = 1e-8;

impl AdamW {
    /// A fresh optimiser.
    pub fn new(weight_decay: f32, max_norm: f32) -> Self {
        Self { moments: BTreeMap::new(), step: 0, weight_decay, max_norm }
    }

    /// Moves every variable that has a gradient by one step.
    ///
    /// # Errors
    /// When a variable cannot be read or set.
    pub fn step(&mut self, vars: &Vars, gradients: &Gradients, rate: f32) -> Result<()> {
        self.step += 1;
        let norm =
            gradients.values().flatten().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt() as f32;
        let clip = if norm > self.max_norm { self.max_norm / norm } else { 1.0 };
        let correction_1 = 1.0 - BETA_1.powi(self.step);
        let correction_2 = 1.0 - BETA_2.powi(self.step);
        for (name, var) in vars {
            let Some(gradient) = gradients.get(name) else { continue };
            let (first, second) = self
                .moments
                .entry(name.clone())
                .or_insert_with(|| (vec![0.0; gradient.len()], vec![0.0; gradient.len()]));
            let mut weights: Vec<f32> = var.as_detached_tensor().flatten_all()?.to_vec1()?;
            // Norm weights are one-dimensional: pulling them to zero would silence the layer.
            let decay = if var.rank() > 1 { rate * self.weight_decay } else { 0.0 };
            for (i, weight) in weights.iter_mut().enumerate() {
                let g = gradient[i] * clip;
                first[i] = BETA_1 * first[i] + (1.0 - BETA_1) * g;
                second[i] = BETA_2 * second[i] + (1.0 - BETA_2) * g * g;
                let direction = (first[i] / correction_1) / ((second[i] / correction_2).sqrt() + EPSILON);
                *weight -= rate * direction + decay * *weight;
            }
            var.set(&Tensor::from_vec(weights, var.shape(), var.device())?)?;
        }
        Ok(())
    }
}

/// Linear warm-up over the first twentieth of `steps`, then a cosine down to a tenth of `peak`.
pub fn scheduled_rate(peak: f32, step: usize, steps: usize) -> f32 {
    let warm_up = (steps / 20).max(1);
    if step < warm_up {
        return peak * (step + 1) as f32 / warm_up as f32;
    }
    let progress = (step - warm_up) as f32 / (steps - warm_up).max(1) as f32;
    peak * (0.1 + 0.9 * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos()))
}
