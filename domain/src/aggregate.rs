//! How a target's domains are summed up in one number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The aggregate of the wanted levels' rates over a target's domains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The weakest domain decides.
    #[default]
    Min,
    /// The arithmetic mean.
    Mean,
    /// The product.
    Product,
}

impl Aggregate {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Min, Self::Mean, Self::Product];

    /// The aggregate of some rates; 1 when there is none (nothing is asked for, nothing is missed).
    pub fn of(self, rates: impl IntoIterator<Item = f64>) -> f64 {
        let mut count = 0usize;
        let folded = rates.into_iter().inspect(|_| count += 1).fold(
            match self {
                Self::Min | Self::Product => 1.0,
                Self::Mean => 0.0,
            },
            |sum: f64, rate| match self {
                Self::Min => sum.min(rate),
                Self::Mean => sum + rate,
                Self::Product => sum * rate,
            },
        );
        match self {
            Self::Mean if count == 0 => 1.0,
            Self::Mean => folded / count as f64,
            Self::Min | Self::Product => folded,
        }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Min => "min",
            Self::Mean => "mean",
            Self::Product => "product",
        })
    }
}

impl FromStr for Aggregate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "min" => Ok(Self::Min),
            "mean" => Ok(Self::Mean),
            "product" => Ok(Self::Product),
            other => Err(format!("'{other}' is no aggregate; min, mean or product is wanted")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_of_known_rates() {
        assert_eq!(Aggregate::Min.of([0.5, 0.25, 1.0]), 0.25);
        assert_eq!(Aggregate::Mean.of([0.5, 1.0]), 0.75);
        assert_eq!(Aggregate::Product.of([0.5, 0.5]), 0.25);
        for aggregate in Aggregate::ALL {
            assert_eq!(aggregate.of([]), 1.0);
        }
    }
}
