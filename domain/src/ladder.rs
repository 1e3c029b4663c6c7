//! The ladder: how many points are judged follows from how well likelihoods predict the judge.

use serde::{Deserialize, Serialize};

use crate::{Coverage, DefinitionError, FingerprintBuilder};

/// How far points are judged, best by likelihood first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    /// The probability with which a target's best point by the judge is to be among its judged ones.
    pub confidence: f64,
    /// Beyond the points that are judged first, no more than this.
    pub most: u32,
}

impl Ladder {
    /// Checks the settings, alone and with what they are for.
    pub(crate) fn check(&self, generation: Coverage) -> Result<(), DefinitionError> {
        if generation != Coverage::Finalists {
            return Err(DefinitionError::LadderWithoutFinalists);
        }
        if !(0.5..1.0).contains(&self.confidence) {
            return Err(DefinitionError::OutOfRange {
                field: "evaluation.ladder.confidence",
                found: self.confidence.to_string(),
                wanted: "a number from 0.5 to below 1",
            });
        }
        if self.most > 1_000_000 {
            return Err(DefinitionError::OutOfRange {
                field: "evaluation.ladder.most",
                found: self.most.to_string(),
                wanted: "0 to 1000000",
            });
        }
        Ok(())
    }

    /// Adds the settings to a sweep's fingerprint.
    pub(crate) fn add_to(&self, builder: &mut FingerprintBuilder) {
        builder.text("ladder").bytes(&self.confidence.to_le_bytes()).integer(i64::from(self.most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_no_ladder_can_follow_are_refused() {
        let ladder = Ladder { confidence: 0.9, most: 200 };
        assert_eq!(ladder.check(Coverage::Finalists), Ok(()));
        assert_eq!(Ladder { most: 0, ..ladder }.check(Coverage::Finalists), Ok(()));
        for everywhere in [Coverage::All, Coverage::None] {
            assert_eq!(ladder.check(everywhere), Err(DefinitionError::LadderWithoutFinalists));
        }
        for confidence in [0.49, 1.0, f64::NAN] {
            let wrong = Ladder { confidence, ..ladder }.check(Coverage::Finalists);
            assert!(matches!(wrong, Err(DefinitionError::OutOfRange { .. })), "{confidence}");
        }
    }
}
