//! Which reference a generated text comes nearest to, by chrF.
//!
//! chrF (Popović, 2015): F-score with β = 2 over character n-grams of 1 to 6, spaces left out,
//! precision and recall averaged over the orders.

use std::collections::HashMap;

const ORDERS: usize = 6;
const BETA_SQUARED: f64 = 4.0;

/// chrF of `text` against `reference`, 0 to 1.
pub fn chrf(text: &str, reference: &str) -> f64 {
    let letters = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>();
    let (text, reference) = (letters(text), letters(reference));
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for order in 1..=ORDERS.min(reference.len()) {
        orders += 1.0;
        let (found, wanted) = (counts(&text, order), counts(&reference, order));
        let common: usize =
            found.iter().map(|(gram, count)| (*count).min(wanted.get(gram).copied().unwrap_or(0))).sum();
        let found_in_all: usize = found.values().sum();
        let wanted_in_all: usize = wanted.values().sum();
        if found_in_all > 0 {
            precision += common as f64 / found_in_all as f64;
        }
        recall += common as f64 / wanted_in_all as f64;
    }
    if precision + recall == 0.0 || orders == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / orders, recall / orders);
    (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}

/// The reference nearest to `text` and its chrF; the first of equals.
pub fn nearest(text: &str, references: &[String; 3]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (level, reference) in references.iter().enumerate() {
        let score = chrf(text, reference);
        if score > best.1 {
            best = (level, score);
        }
    }
    best
}

fn counts(letters: &[char], order: usize) -> HashMap<&[char], usize> {
    let mut counts = HashMap::new();
    for gram in letters.windows(order) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identical_text_scores_one_and_disjoint_text_zero() {
        assert!((chrf("Rest well.", "Rest well.") - 1.0).abs() < 1e-12);
        assert_eq!(chrf("abc", "xyz"), 0.0);
        assert_eq!(chrf("", "xyz"), 0.0);
    }

    #[test]
    fn a_short_pair_scores_what_the_formula_gives_by_hand() {
        // "ab" against "abc": precisions 1, 1, 0; recalls 2/3, 1/2, 0 over three orders.
        let (p, r) = (2.0 / 3.0, (2.0 / 3.0 + 0.5) / 3.0);
        let wanted = 5.0 * p * r / (4.0 * p + r);
        assert!((chrf("ab", "abc") - wanted).abs() < 1e-12);
    }

    #[test]
    fn nearest_reference_is_the_one_that_shares_most() {
        let references = ["I cannot say.", "Rest and drink.", "Titrate it."].map(str::to_owned);
        assert_eq!(nearest("Rest and drink tea.", &references).0, 1);
    }
}
