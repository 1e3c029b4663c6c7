//! What an evaluation yields: scores, responses, verdicts.

use serde::{Deserialize, Serialize};

use crate::Level;

/// How probable the model finds one reference response.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceScore {
    /// Sum of the natural-log probabilities of the reference's tokens (nats, ≤ 0), end-of-turn token included.
    pub log_prob_sum: f64,
    /// How many tokens were scored (≥ 1).
    pub tokens: u32,
    /// UTF-8 bytes of the reference (≥ 1).
    pub bytes: u32,
}

/// One query's result on the likelihood rung: one [`ReferenceScore`] per level, in the levels' order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryScore(pub Vec<ReferenceScore>);

/// How references of different length are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Mean log-probability per token.
    #[default]
    Mean,
    /// Sum of the log-probabilities.
    Sum,
    /// Log-probability per byte of text.
    PerByte,
}

impl Normalisation {
    /// All of them, in the order of [`crate::LikelihoodTally`]'s counts.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Sum, Self::PerByte];

    /// Position in [`Normalisation::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The number to compare.
    pub fn apply(self, score: &ReferenceScore) -> f64 {
        match self {
            Self::Mean => score.log_prob_sum / f64::from(score.tokens),
            Self::Sum => score.log_prob_sum,
            Self::PerByte => score.log_prob_sum / f64::from(score.bytes),
        }
    }
}

impl QueryScore {
    /// The query's level: the one whose reference is most probable; the lower one on an exact tie.
    ///
    /// `None` when there is no score.
    pub fn level(&self, normalisation: Normalisation) -> Option<Level> {
        let mut best: Option<(usize, f64)> = None;
        for (index, score) in self.0.iter().enumerate() {
            let value = normalisation.apply(score);
            if best.is_none_or(|(_, highest)| value > highest) {
                best = Some((index, value));
            }
        }
        best.map(|(index, _)| Level(index as u8))
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn.
    Stop,
    /// The token limit was reached.
    Length,
}

/// One query's result on the generation rung.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The text, without special tokens.
    pub text: String,
    /// Generated tokens, the end-of-turn token included.
    pub tokens: u32,
    /// Why it ended.
    pub finish: FinishReason,
}

/// What a judge says of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// The response is at this level.
    Level(Level),
    /// The response is at no level that can be told.
    Unclear,
    /// The judge declined to judge.
    Refused,
}

/// One query's result on the judgement rung.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The label.
    pub label: Label,
    /// The judge's own confidence or similarity from 0 to 1, where it gives one.
    pub confidence: Option<f64>,
    /// The judge's reason in a sentence, where it gives one.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(log_prob_sum: f64, tokens: u32, bytes: u32) -> ReferenceScore {
        ReferenceScore { log_prob_sum, tokens, bytes }
    }

    #[test]
    fn normalisations_can_disagree_and_ties_go_to_the_lower_level() {
        let scores = QueryScore(vec![score(-4.0, 2, 20), score(-5.0, 5, 10), score(-6.0, 5, 40)]);
        assert_eq!(scores.level(Normalisation::Sum), Some(Level(0)));
        assert_eq!(scores.level(Normalisation::Mean), Some(Level(1)));
        assert_eq!(scores.level(Normalisation::PerByte), Some(Level(2)));
        assert_eq!(QueryScore(vec![score(-1.0, 1, 1); 3]).level(Normalisation::Mean), Some(Level(0)));
        assert_eq!(QueryScore(vec![]).level(Normalisation::Mean), None);
    }
}
