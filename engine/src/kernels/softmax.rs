//! log Σ eˣ over a row that is never there as a whole.

use super::exp::exp;
use super::kernel;

/// Running maximum and Σ e^(x − maximum) of the logits seen so far.
///
/// Blocks are taken in a fixed order; the sum over blocks is kept in f64, so that a vocabulary of 150,000 costs
/// no accuracy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningSoftmax {
    maximum: f32,
    sum: f64,
}

impl RunningSoftmax {
    /// Nothing seen.
    pub(crate) const EMPTY: Self = Self { maximum: f32::NEG_INFINITY, sum: 0.0 };

    /// Takes in a block of logits, which is overwritten.
    pub(crate) fn push(&mut self, logits: &mut [f32]) {
        let mut block = [0.0; 2];
        sum_block(logits, self.maximum, &mut block);
        let [maximum, sum] = block;
        if maximum > self.maximum {
            self.sum *= (f64::from(self.maximum) - f64::from(maximum)).exp();
            self.maximum = maximum;
        }
        self.sum += f64::from(sum);
    }

    /// log Σ eˣ of everything seen.
    pub(crate) fn log_sum(&self) -> f64 {
        f64::from(self.maximum) + self.sum.ln()
    }
}

kernel! {
    /// Writes `[m, Σ e^(x − m)]` with `m = max(floor, max x)`; overwrites the logits.
    fn sum_block(logits: &mut [f32], floor: f32, result: &mut [f32; 2]) = sum_block_body
}

#[inline(always)]
fn sum_block_body<const FUSED: bool>(logits: &mut [f32], floor: f32, result: &mut [f32; 2]) {
    const LANES: usize = 16;
    let mut lanes = [floor; LANES];
    let (blocks, tail) = logits.as_chunks::<LANES>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let maximum = lanes.iter().chain(tail).fold(floor, |most, value| most.max(*value));
    for value in logits.iter_mut() {
        *value = exp::<FUSED>(*value - maximum);
    }
    let mut lanes = [0.0_f32; LANES];
    let (blocks, tail) = logits.as_chunks::<LANES>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane += value;
        }
    }
    *result = [maximum, lanes.iter().sum::<f32>() + tail.iter().sum::<f32>()];
}

#[cfg(test)]
mod tests {
    use super::RunningSoftmax;

    #[test]
    fn blockwise_log_sum_agrees_with_the_whole() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 1.3).sin() * 20.0 + i as f32 * 0.01).collect();
        let exact = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        let mut running = RunningSoftmax::EMPTY;
        logits.clone().chunks_mut(77).for_each(|block| running.push(block));
        assert!((running.log_sum() - exact).abs() < 1e-6, "{} against {exact}", running.log_sum());
    }
}
