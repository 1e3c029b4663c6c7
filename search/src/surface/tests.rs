//! Laws of the synthetic surfaces.

use super::*;

#[test]
fn there_are_at_least_twenty_surfaces_and_a_seed_draws_them_all() {
    let (first, again, other) = (catalogue(1), catalogue(1), catalogue(2));
    assert!(first.len() >= 20);
    for ((first, again), other) in first.iter().zip(&again).zip(&other) {
        let x = [0.3, -0.7, 0.1];
        assert_eq!(first.log_probs(&x), again.log_probs(&x), "{}", first.name());
        assert_ne!(first.log_probs(&x), other.log_probs(&x), "{}", first.name());
        assert!(first.log_probs(&x).iter().all(|value| value.is_finite() && *value < 0.0));
    }
}

#[test]
fn judged_levels_follow_their_probabilities() {
    let surface = &catalogue(3)[0];
    let log_probs = surface.log_probs(&[0.1, 0.4, -0.3]);
    let probabilities = surface.judge().probabilities(&log_probs);
    let draws = 4000u64;
    let mut counts = vec![0.0; probabilities.len()];
    for draw in 0..draws {
        for (query, level) in surface.judge().judged(&log_probs, draw).into_iter().enumerate() {
            counts[query * 3 + usize::from(level)] += 1.0 / draws as f64;
        }
    }
    for (found, wanted) in counts.iter().zip(&probabilities) {
        // Five deviations of a share of 4,000.
        assert!((found - wanted).abs() < 5.0 * (0.25f64 / draws as f64).sqrt(), "{found} {wanted}");
    }
}
