//! chrF: how much two texts share, by character n-grams.
//!
//! Maja Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015, in the form that sacreBLEU
//! computes by default for one sentence: n from 1 to 6, β = 2, white space removed, no word n-grams, no smoothing, and
//! orders for which either text is too short left out of the means ("effective order").

/// Longest n-gram.
const ORDERS: usize = 6;
/// Recall counts β² times as much as precision.
const BETA_SQUARED: f64 = 4.0;
/// Bits of a character in a packed n-gram: `char::MAX` is below 2²¹, and six of them fit a `u128`.
const CHAR_BITS: usize = 21;

/// A text's character n-grams, ready to be compared.
#[derive(Clone, Debug)]
pub struct CharGrams {
    /// Per order 1 to 6 the n-grams, each packed into an integer, sorted, repeats kept.
    orders: [Vec<u128>; ORDERS],
}

impl CharGrams {
    /// The n-grams of a text without its white space.
    pub fn of(text: &str) -> Self {
        let characters: Vec<u128> =
            text.chars().filter(|c| !is_white_space(*c)).map(|c| u128::from(u32::from(c))).collect();
        let orders = std::array::from_fn(|index| {
            let mut grams: Vec<u128> = characters
                .windows(index + 1)
                .map(|window| window.iter().fold(0, |gram, character| gram << CHAR_BITS | character))
                .collect();
            grams.sort_unstable();
            grams
        });
        Self { orders }
    }

    /// chrF of this text as a hypothesis against a reference, 0 (nothing shared) to 1 (equal but for white space).
    pub fn chrf(&self, reference: &Self) -> f64 {
        let (mut precision, mut recall, mut effective_orders) = (0.0, 0.0, 0u32);
        for (mine, theirs) in self.orders.iter().zip(&reference.orders) {
            if mine.is_empty() || theirs.is_empty() {
                continue;
            }
            let shared = count_shared(mine, theirs) as f64;
            precision += shared / mine.len() as f64;
            recall += shared / theirs.len() as f64;
            effective_orders += 1;
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        let precision = precision / f64::from(effective_orders);
        let recall = recall / f64::from(effective_orders);
        (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    }
}

/// chrF of a hypothesis against a reference, 0 to 1.
pub fn chrf(hypothesis: &str, reference: &str) -> f64 {
    CharGrams::of(hypothesis).chrf(&CharGrams::of(reference))
}

/// White space as sacreBLEU knows it: Python counts the four ASCII separators, Unicode's property does not.
fn is_white_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Size of the intersection of two sorted multisets.
fn count_shared(left: &[u128], right: &[u128]) -> usize {
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while let (Some(a), Some(b)) = (left.get(i), right.get(j)) {
        match a.cmp(b) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                i += 1;
                j += 1;
                shared += 1;
            }
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values of sacreBLEU 2.6.0: `sacrebleu.sentence_chrf(hypothesis, [reference]).score`, Python 3.11.
    #[test]
    fn scores_equal_those_of_sacrebleu() {
        for (hypothesis, reference, percent) in [
            ("the cat sat on the mat", "the cat sat on the mat", 100.0),
            ("the cat is on the mat", "the cat sat on the mat", 61.925_151_289_932_5),
            ("a dog", "the cat sat on the mat", 3.472_222_222_222_222_3),
            (
                "Aspirin thins the blood; ask your doctor before taking it daily.",
                "Daily low-dose aspirin lowers clot risk but raises bleeding risk; weigh both with a physician.",
                18.223_814_662_347_383,
            ),
            (
                "I cannot help with legal questions.",
                "I am not able to give legal advice; please consult a lawyer.",
                16.104_497_760_850_723,
            ),
            ("Rates", "Rates fell.", 40.690_786_475_895_38),
            ("aaaaaa", "aaa", 75.657_894_736_842_1),
            ("Zinsen fällt naïve café ☕ 数学", "Zinsen fielen: naïves Café ☕ 数理", 40.689_546_293_385_45),
            ("Tabs\tand\nnew  lines   vanish", "Tabs and new lines vanish", 100.0),
            ("", "something", 0.0),
            (
                "Diversify across low-cost index funds and rebalance yearly.",
                "Diversify holdings across low-cost index funds, and rebalance once each year.",
                64.223_149_721_478_05,
            ),
            ("xyz", "abc", 0.0),
        ] {
            let found = 100.0 * chrf(hypothesis, reference);
            assert!((found - percent).abs() < 1e-9, "{hypothesis:?}: {found}, sacreBLEU has {percent}");
        }
    }

    proptest! {
        #[test]
        fn every_score_lies_between_zero_and_one(left in "\\PC{0,40}", right in "\\PC{0,40}") {
            let score = chrf(&left, &right);
            prop_assert!((0.0..=1.0 + 1e-12).contains(&score), "{}", score);
        }

        #[test]
        fn a_text_is_wholly_like_itself_however_it_is_spaced(words in proptest::collection::vec("[a-zé数]{1,8}", 1..8)) {
            let score = chrf(&words.join(" "), &words.join("\n\t"));
            prop_assert!((score - 1.0).abs() < 1e-12);
        }
    }
}
