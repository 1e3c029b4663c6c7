//! Log-probabilities as small integers.
//!
//! A grid of one output is smooth: after rounding to the quantum, the differences along all axes (each value minus what
//! its lower neighbours predict) are small numbers around zero, of which most fit a byte and few bits after packing.

use crate::problem::first_largest;

/// Rounds a query's log-probabilities to the quantum and keeps its level: the first of the largest stays so.
///
/// Where rounding would change the level, the level's own value is raised as far as needed, by two quanta at most.
pub(super) fn quantise(scores: &[f32], quantum: f64, quantised: &mut [i32]) {
    for (score, rounded) in scores.iter().zip(quantised.iter_mut()) {
        *rounded = (f64::from(*score) / quantum).round() as i32;
    }
    let level = first_largest(scores);
    let before = quantised[..level].iter().map(|other| other + 1).max();
    let after = quantised[level + 1..].iter().copied().max();
    let least = before.into_iter().chain(after).max();
    quantised[level] = quantised[level].max(least.unwrap_or(i32::MIN));
}

/// Replaces values on a grid (row-major, these counts per axis) by differences along every axis.
pub(super) fn difference(values: &mut [i32], counts: &[usize]) {
    for_each_line(counts, |start, stride, count| {
        for place in (1..count).rev() {
            let at = start + place * stride;
            values[at] = values[at].wrapping_sub(values[at - stride]);
        }
    });
}

/// Undoes [`difference`].
pub(super) fn sum_up(values: &mut [i32], counts: &[usize]) {
    for_each_line(counts, |start, stride, count| {
        for place in 1..count {
            let at = start + place * stride;
            values[at] = values[at].wrapping_add(values[at - stride]);
        }
    });
}

fn for_each_line(counts: &[usize], mut with: impl FnMut(usize, usize, usize)) {
    let total: usize = counts.iter().product();
    for axis in 0..counts.len() {
        let stride: usize = counts[axis + 1..].iter().product();
        for start in 0..total {
            if (start / stride).is_multiple_of(counts[axis]) {
                with(start, stride, counts[axis]);
            }
        }
    }
}

/// Appends an integer, small magnitudes in one byte.
pub(super) fn write_integer(value: i32, bytes: &mut Vec<u8>) {
    let mut rest = (value.wrapping_shl(1) ^ (value >> 31)) as u32;
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// Reads an integer from the front; `None` when there is no whole one.
pub(super) fn read_integer(bytes: &mut &[u8]) -> Option<i32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i32 ^ -((value & 1) as i32));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn differences_and_integers_round_trip(values in proptest::collection::vec(any::<i32>(), 24)) {
            let mut moved = values.clone();
            difference(&mut moved, &[2, 3, 4]);
            let mut bytes = Vec::new();
            moved.iter().for_each(|value| write_integer(*value, &mut bytes));
            let mut rest = bytes.as_slice();
            let mut read: Vec<i32> = std::iter::from_fn(|| read_integer(&mut rest)).collect();
            sum_up(&mut read, &[2, 3, 4]);
            prop_assert_eq!(read, values);
        }

        #[test]
        fn quantising_keeps_the_level_and_stays_near(
            scores in proptest::collection::vec(-3.0f32..0.0, 1..6),
            doubled in any::<bool>(),
        ) {
            let mut scores = scores;
            if doubled && scores.len() > 1 {
                scores[1] = scores[0] + 1e-5;
            }
            let mut quantised = vec![0; scores.len()];
            quantise(&scores, 0.001, &mut quantised);
            let back: Vec<f32> = quantised.iter().map(|value| (f64::from(*value) * 0.001) as f32).collect();
            prop_assert_eq!(first_largest(&back), first_largest(&scores));
            for (back, score) in back.iter().zip(&scores) {
                prop_assert!((back - score).abs() <= 0.0021);
            }
        }
    }
}
