//! Coefficients: the named knobs of a sweep.

use serde::{Deserialize, Serialize};

use crate::Ticks;

/// A named knob: how much of one vector is added, and to which tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coefficient {
    /// Its name, unique in the sweep (`alpha`).
    pub name: String,
    /// Index of its vector among the sweep's vectors.
    pub vector: usize,
    /// Patterns of the tensors it acts on; `None` means all.
    pub tensors: Option<Vec<String>>,
    /// The values it can take.
    pub range: Range,
}

/// `min, min + step, …, max`, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRange", into = "RawRange")]
pub struct Range {
    min: Ticks,
    max: Ticks,
    step: Ticks,
}

#[derive(Serialize, Deserialize)]
struct RawRange {
    min: Ticks,
    max: Ticks,
    step: Ticks,
}

/// Why three numbers are no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// `min > max`.
    #[error("min {min} is above max {max}")]
    Reversed {
        /// The lower end found.
        min: Ticks,
        /// The upper end found.
        max: Ticks,
    },
    /// `step <= 0`.
    #[error("step {0} must be above zero")]
    StepNotPositive(Ticks),
    /// The step does not lead from min to max.
    #[error(
        "step {step} does not divide the range from {min} to {max}: \
         {whole} steps end at {reached}, one more at {beyond}"
    )]
    StepDoesNotDivide {
        /// The lower end.
        min: Ticks,
        /// The upper end.
        max: Ticks,
        /// The step found.
        step: Ticks,
        /// Whole steps that fit.
        whole: i32,
        /// Where they end.
        reached: Ticks,
        /// Where one more would end.
        beyond: Ticks,
    },
}

impl Range {
    /// A range whose step leads exactly from `min` to `max`.
    ///
    /// # Errors
    /// When the ends are reversed, the step is not positive or does not divide the range.
    pub fn new(min: Ticks, max: Ticks, step: Ticks) -> Result<Self, RangeError> {
        if min > max {
            return Err(RangeError::Reversed { min, max });
        }
        if step <= Ticks::ZERO {
            return Err(RangeError::StepNotPositive(step));
        }
        // Ticks stay within ±1e9 by construction; the difference of two fits an i64 and, divided, an i32.
        let width = i64::from(max.get()) - i64::from(min.get());
        let whole = width / i64::from(step.get());
        if width % i64::from(step.get()) != 0 {
            let reached = i64::from(min.get()) + whole * i64::from(step.get());
            return Err(RangeError::StepDoesNotDivide {
                min,
                max,
                step,
                whole: whole as i32,
                reached: Ticks::new(reached as i32),
                beyond: Ticks::new((reached + i64::from(step.get())).min(i64::from(i32::MAX)) as i32),
            });
        }
        Ok(Self { min, max, step })
    }

    /// The smallest value.
    pub fn min(&self) -> Ticks {
        self.min
    }

    /// The largest value.
    pub fn max(&self) -> Ticks {
        self.max
    }

    /// The distance between neighbours.
    pub fn step(&self) -> Ticks {
        self.step
    }

    /// How many values there are (at least one).
    pub fn count(&self) -> u64 {
        let width = i64::from(self.max.get()) - i64::from(self.min.get());
        (width / i64::from(self.step.get())) as u64 + 1
    }

    /// The value at `index`, counted from `min`; `None` past the end.
    pub fn value(&self, index: u64) -> Option<Ticks> {
        (index < self.count()).then(|| {
            Ticks::new((i64::from(self.min.get()) + index as i64 * i64::from(self.step.get())) as i32)
        })
    }

    /// Whether `value` is one of the range's values.
    pub fn contains(&self, value: Ticks) -> bool {
        self.min <= value
            && value <= self.max
            && (i64::from(value.get()) - i64::from(self.min.get())) % i64::from(self.step.get()) == 0
    }

    /// Whether `value` lies between the ends, on a step or not.
    pub fn spans(&self, value: Ticks) -> bool {
        self.min <= value && value <= self.max
    }
}

impl TryFrom<RawRange> for Range {
    type Error = RangeError;

    fn try_from(raw: RawRange) -> Result<Self, RangeError> {
        Self::new(raw.min, raw.max, raw.step)
    }
}

impl From<Range> for RawRange {
    fn from(range: Range) -> Self {
        Self { min: range.min, max: range.max, step: range.step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_one_values_from_minus_one_to_one_by_a_tenth() {
        let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(1000)).expect("divides");
        assert_eq!(range.count(), 21);
        assert_eq!(range.value(10), Some(Ticks::ZERO));
        assert_eq!(range.value(21), None);
        assert!(range.contains(Ticks::new(-3000)) && !range.contains(Ticks::new(-3500)));
    }

    #[test]
    fn a_step_that_does_not_divide_says_where_it_ends() {
        let error =
            Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(3000)).expect_err("0.3 over 2");
        assert_eq!(
            error.to_string(),
            "step 0.3 does not divide the range from -1 to 1: 6 steps end at 0.8, one more at 1.1"
        );
    }
}
