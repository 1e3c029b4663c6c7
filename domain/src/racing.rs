//! Racing: how points that are out of reach for every target are given up early.

use serde::{Deserialize, Serialize};

use crate::{Coverage, FingerprintBuilder, Strategy};

/// With more targets than this, looking at them all would take longer than it is worth (10 domains of 3 levels make
/// 59,049).
pub const MAX_TARGETS: usize = 10_000;

/// How points are raced.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Racing {
    /// Queries of each domain asked between two looks; at least 1.
    pub block: u32,
    /// Of the points that would have bettered some target, at most this share is given up; 0 gives up only what is
    /// certainly out of reach.
    pub error: f64,
    /// Another seed asks the queries in another order.
    pub seed: u64,
}

/// Why points cannot be raced.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RacingProblem {
    /// A number out of its range.
    #[error("evaluation.racing.{field} is {found}; {wanted} is wanted")]
    OutOfRange {
        /// The setting.
        field: &'static str,
        /// The value found.
        found: String,
        /// The values wanted.
        wanted: &'static str,
    },
    /// Nothing to race by.
    #[error("evaluation.racing needs 'likelihood: all': points are out of reach by their likelihoods")]
    NoLikelihood,
    /// A strategy that learns from every query of a point, those that are no target's best too.
    #[error(
        "evaluation.racing does not go with strategy '{kind}': it learns from every query of a point, and visits few \
         points that are out of reach; leave racing out, or choose grid, random or sobol"
    )]
    Adaptive {
        /// The strategy's kind.
        kind: &'static str,
    },
    /// A point may be the best compromise for a target that nobody looked at.
    #[error(
        "evaluation.racing looks at every target; {domains} domains of {levels} levels make more than {MAX_TARGETS}"
    )]
    CountlessTargets {
        /// How many domains there are.
        domains: usize,
        /// How many levels there are.
        levels: usize,
    },
}

impl Racing {
    /// Checks the settings, alone and with what they are for.
    pub(crate) fn check(
        &self,
        likelihood: Coverage,
        strategy: &Strategy,
        domains: usize,
        levels: usize,
    ) -> Result<(), RacingProblem> {
        let out_of_range =
            |field, found: String, wanted| Err(RacingProblem::OutOfRange { field, found, wanted });
        if !(1..=1_000_000).contains(&self.block) {
            return out_of_range("block", self.block.to_string(), "1 to 1000000");
        }
        if !(0.0..1.0).contains(&self.error) {
            return out_of_range("error", self.error.to_string(), "a number from 0 to below 1");
        }
        if likelihood != Coverage::All {
            return Err(RacingProblem::NoLikelihood);
        }
        if matches!(strategy, Strategy::Bayesian(_) | Strategy::Hierarchical(_)) {
            return Err(RacingProblem::Adaptive { kind: strategy.kind() });
        }
        let targets = u32::try_from(domains).ok().and_then(|domains| levels.checked_pow(domains));
        if targets.is_none_or(|targets| targets > MAX_TARGETS) {
            return Err(RacingProblem::CountlessTargets { domains, levels });
        }
        Ok(())
    }

    /// Adds the settings to a sweep's fingerprint.
    pub(crate) fn add_to(&self, builder: &mut FingerprintBuilder) {
        builder
            .text("racing")
            .integer(i64::from(self.block))
            .bytes(&self.error.to_le_bytes())
            .bytes(&self.seed.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BayesianSettings;

    const RACING: Racing = Racing { block: 10, error: 0.01, seed: 0 };

    #[test]
    fn settings_that_cannot_be_raced_by_are_refused() {
        let grid = |racing: Racing| racing.check(Coverage::All, &Strategy::Grid, 3, 3);
        assert_eq!(grid(RACING), Ok(()));
        assert_eq!(grid(Racing { error: 0.0, ..RACING }), Ok(()));
        for wrong in [
            Racing { block: 0, ..RACING },
            Racing { error: 1.0, ..RACING },
            Racing { error: -0.1, ..RACING },
            Racing { error: f64::NAN, ..RACING },
        ] {
            assert!(matches!(grid(wrong), Err(RacingProblem::OutOfRange { .. })), "{wrong:?}");
        }
        let none = RACING.check(Coverage::None, &Strategy::Grid, 3, 3);
        assert_eq!(none, Err(RacingProblem::NoLikelihood));
        let bayesian = Strategy::Bayesian(BayesianSettings::default());
        assert_eq!(
            RACING.check(Coverage::All, &bayesian, 3, 3),
            Err(RacingProblem::Adaptive { kind: "bayesian" })
        );
        let many = RACING.check(Coverage::All, &Strategy::Grid, 10, 3);
        assert!(matches!(many, Err(RacingProblem::CountlessTargets { .. })));
    }
}
