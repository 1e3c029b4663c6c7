//! A point: one value per coefficient.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Ticks, TicksError};

/// One value per coefficient, in the order of the sweep's coefficients.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Point(Box<[Ticks]>);

/// Why a text is no point.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("point '{text}': {source}")]
pub struct PointError {
    /// The text that was read.
    pub text: String,
    /// What is wrong with one of its values.
    pub source: TicksError,
}

impl Point {
    /// A point with these values.
    pub fn new(values: impl Into<Box<[Ticks]>>) -> Self {
        Self(values.into())
    }

    /// The base model: every coefficient zero.
    pub fn origin(dimensions: usize) -> Self {
        Self(vec![Ticks::ZERO; dimensions].into())
    }

    /// The values, one per coefficient.
    pub fn values(&self) -> &[Ticks] {
        &self.0
    }

    /// How many coefficients the point has a value for.
    pub fn dimensions(&self) -> usize {
        self.0.len()
    }

    /// The values as floats, for the engine's edge only.
    pub fn to_f64(&self) -> Vec<f64> {
        self.0.iter().map(|ticks| ticks.to_f64()).collect()
    }

    /// Squared Euclidean distance from the base model in ticks²; exact.
    pub fn squared_norm(&self) -> i128 {
        self.0.iter().map(|ticks| i128::from(ticks.get()) * i128::from(ticks.get())).sum()
    }
}

/// `0.4,-1,0.1`
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        f.pad(&text)
    }
}

impl FromStr for Point {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        text.split(',')
            .map(str::parse)
            .collect::<Result<Vec<Ticks>, _>>()
            .map(Self::new)
            .map_err(|source| PointError { text: text.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let point: Point = "0.4,-1,0.1".parse().expect("a valid point");
        assert_eq!(point.values(), [Ticks::new(4000), Ticks::new(-10_000), Ticks::new(1000)]);
        assert_eq!(point.to_string(), "0.4,-1,0.1");
        assert!("0.4,,1".parse::<Point>().is_err());
    }
}
