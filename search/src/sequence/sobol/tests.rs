//! Against SciPy 1.17.1, `scipy.stats.qmc.Sobol(12, scramble=False).random(64)`, 2026-11-23.

use super::*;

/// Rows of the sequence by index, in 64ths.
const SCIPY: [(usize, [u32; 12]); 6] = [
    (1, [32; 12]),
    (2, [48, 16, 16, 16, 48, 48, 16, 48, 48, 48, 48, 48]),
    (5, [56, 56, 8, 24, 56, 40, 56, 24, 24, 8, 24, 56]),
    (13, [52, 44, 52, 4, 28, 60, 36, 36, 36, 28, 52, 60]),
    (31, [2, 34, 58, 62, 62, 50, 22, 34, 10, 38, 2, 22]),
    (63, [1, 51, 23, 29, 55, 9, 37, 9, 53, 37, 27, 43]),
];

#[test]
fn the_plain_sequence_is_scipys() {
    let mut sequence = Sobol::plain(12);
    let points: Vec<Vec<f64>> = (0..64).map(|_| sequence.next_point()).collect();
    for (index, row) in SCIPY {
        let expected: Vec<f64> = row.iter().map(|value| f64::from(*value) / 64.0).collect();
        assert_eq!(points[index], expected, "row {index}");
    }
}

#[test]
fn a_scrambled_sequence_fills_every_stripe_once() {
    for seed in 0..4 {
        let mut sequence = Sobol::new(12, seed);
        let points: Vec<Vec<f64>> = (0..64).map(|_| sequence.next_point()).collect();
        for dimension in 0..12 {
            let mut stripes: Vec<usize> =
                points.iter().map(|point| (point[dimension] * 64.0) as usize).collect();
            stripes.sort_unstable();
            assert_eq!(stripes, (0..64).collect::<Vec<_>>(), "dimension {dimension}, seed {seed}");
        }
    }
}
