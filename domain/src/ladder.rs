//! The ladder: how many points are judged follows from how well likelihoods predict the judge.

use serde::{Deserialize, Serialize};

use crate::{Coverage, DefinitionError, Evaluation, FingerprintBuilder};

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
    pub(crate) fn check(&self, evaluation: &Evaluation) -> Result<(), DefinitionError> {
        if evaluation.generation != Coverage::Finalists {
            return Err(DefinitionError::LadderWithoutFinalists);
        }
        // What a race leaves measured in full depends on who was first, and is no sample of all points.
        if evaluation.racing.is_some() {
            return Err(DefinitionError::LadderWithRacing);
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
    use crate::{DecodeSettings, Racing};

    fn evaluation(generation: Coverage, racing: Option<Racing>) -> Evaluation {
        Evaluation {
            likelihood: Coverage::All,
            generation,
            finalists_per_target: 1,
            ladder: None,
            decode: DecodeSettings::greedy(8),
            racing,
        }
    }

    #[test]
    fn settings_that_no_ladder_can_follow_are_refused() {
        let ladder = Ladder { confidence: 0.9, most: 200 };
        let usual = evaluation(Coverage::Finalists, None);
        assert_eq!(ladder.check(&usual), Ok(()));
        assert_eq!(Ladder { most: 0, ..ladder }.check(&usual), Ok(()));
        for everywhere in [Coverage::All, Coverage::None] {
            let wrong = ladder.check(&evaluation(everywhere, None));
            assert_eq!(wrong, Err(DefinitionError::LadderWithoutFinalists));
        }
        let raced = evaluation(Coverage::Finalists, Some(Racing { block: 10, error: 0.0, seed: 0 }));
        assert_eq!(ladder.check(&raced), Err(DefinitionError::LadderWithRacing));
        for confidence in [0.49, 1.0, f64::NAN] {
            let wrong = Ladder { confidence, ..ladder }.check(&usual);
            assert!(matches!(wrong, Err(DefinitionError::OutOfRange { .. })), "{confidence}");
        }
    }
}
