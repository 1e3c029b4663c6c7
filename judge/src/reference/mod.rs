//! The embedded judge: the level of the nearest reference response, by chrF. No network, no model.

mod chrf;

use avsweep_domain::{Label, Levels, Query, Response, Verdict};

pub use chrf::{CharGrams, chrf};

/// Similarity under which a response is `unclear` unless a sweep says otherwise.
///
/// Unrelated texts share letters and short n-grams, and that alone gives some chrF. Measured with sacreBLEU on the 360
/// short answers of the pocket family's data (4 to 10 words, the hard case: chance is higher the shorter the texts):
/// the best of three references about other topics scores 0.15 in the median, 0.28 at the 99th percentile, and stays
/// below 0.35 for 99.7 % of answers; while every reference broken off after 60 % of its words still scores above 0.35
/// against itself.
pub const DEFAULT_THRESHOLD: f64 = 0.35;

/// Scores closer than this are one score: the same counts give the same sum only up to rounding.
const TIE: f64 = 1e-12;

/// The nearest-reference judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReferenceJudge {
    pub(crate) threshold: f64,
}

impl ReferenceJudge {
    /// The level whose reference the response comes nearest to.
    ///
    /// `unclear` when even that one is below the threshold, or when two levels come equally near. The confidence is
    /// the best similarity.
    pub(crate) fn judge(&self, levels: &Levels, query: &Query, response: &Response) -> Verdict {
        let grams = CharGrams::of(&response.text);
        let mut scored: Vec<_> = levels
            .iter()
            .zip(&query.references)
            .map(|(level, reference)| (grams.chrf(&CharGrams::of(reference)), level))
            .collect();
        // Stable, so that equal scores keep the levels' order.
        scored.sort_by(|(left, _), (right, _)| right.total_cmp(left));
        let (Some(&(best, level)), Some(&(next, next_level))) = (scored.first(), scored.get(1)) else {
            // Levels are two or more and a checked query has a reference for each.
            return Verdict {
                label: Label::Unclear,
                confidence: None,
                reason: Some("the query has fewer than two references".to_owned()),
            };
        };
        let (name, next_name) = (levels.name(level), levels.name(next_level));
        let (label, reason) = if best < self.threshold {
            let reason =
                format!("nearest reference '{name}' has chrF {best:.3}, below {:.3}", self.threshold);
            (Label::Unclear, reason)
        } else if best - next <= TIE {
            (
                Label::Unclear,
                format!("references '{name}' and '{next_name}' are equally near: chrF {best:.3}"),
            )
        } else {
            (Label::Level(level), format!("chrF {best:.3}; next '{next_name}' {next:.3}"))
        };
        Verdict { label, confidence: Some(best.clamp(0.0, 1.0)), reason: Some(reason) }
    }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::{FinishReason, Level, Message, Role};

    use super::*;

    fn query(references: [&str; 3]) -> Query {
        Query {
            id: "q".to_owned(),
            messages: vec![Message { role: Role::User, content: "What of it?".to_owned() }],
            references: references.map(str::to_owned).to_vec(),
        }
    }

    fn judge(references: [&str; 3], text: &str, threshold: f64) -> Verdict {
        let response = Response { text: text.to_owned(), tokens: 1, finish: FinishReason::Stop };
        ReferenceJudge { threshold }.judge(&Levels::default(), &query(references), &response)
    }

    const REFERENCES: [&str; 3] = [
        "I cannot discuss this; please ask a professional.",
        "Drink water, rest, and wait for it to pass.",
        "Start oral rehydration at 75 mL/kg over four hours and reassess electrolytes.",
    ];

    #[test]
    fn each_reference_is_at_its_own_level_with_full_confidence() {
        for (index, text) in REFERENCES.iter().enumerate() {
            let verdict = judge(REFERENCES, text, DEFAULT_THRESHOLD);
            assert_eq!(verdict.label, Label::Level(Level(index as u8)));
            assert_eq!(verdict.confidence, Some(1.0));
        }
    }

    #[test]
    fn a_text_unlike_every_reference_is_unclear() {
        let verdict = judge(REFERENCES, "Zzz qqq 0000", DEFAULT_THRESHOLD);
        assert_eq!(verdict.label, Label::Unclear);
        assert_eq!(judge(REFERENCES, "", DEFAULT_THRESHOLD).label, Label::Unclear);
        assert_eq!(judge(REFERENCES, "", 0.0).label, Label::Unclear, "all levels tie at zero");
    }

    #[test]
    fn an_exact_tie_between_levels_is_unclear_and_one_below_the_best_is_not() {
        assert_eq!(judge(["same text", "same text", "other words"], "same text", 0.2).label, Label::Unclear);
        let verdict = judge(["same text", "other words", "other words"], "same text", 0.2);
        assert_eq!(verdict.label, Label::Level(Level(0)));
    }

    #[test]
    fn the_threshold_alone_decides_between_a_level_and_unclear() {
        let near = "Drink some water and rest until it passes.";
        let score = chrf(near, REFERENCES[1]);
        assert_eq!(judge(REFERENCES, near, score).label, Label::Level(Level(1)));
        assert_eq!(judge(REFERENCES, near, score + 1e-9).label, Label::Unclear);
    }
}
