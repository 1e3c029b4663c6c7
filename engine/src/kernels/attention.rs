//! Attention of query rows to the keys and values of one head, as two small matrix products around a softmax.

use super::exp::exp;
use super::gemm::gemm;
use super::packed::{PANEL, PackedView};
use super::{Threads, kernel};

/// Keys and values of one key/value head, in the layout of packed weights.
///
/// Keys: panels of 16 positions, each `[head_dim][16]`. Values: panels of 16 elements, each `[capacity][16]`.
/// `capacity` is a multiple of 16; what lies behind the last position is finite.
#[derive(Clone, Copy)]
pub(crate) struct PackedHead<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) head_dim: usize,
    pub(crate) capacity: usize,
}

/// Elements of the keys, and of the values, of one head.
pub(crate) fn head_sizes(head_dim: usize, capacity: usize) -> (usize, usize) {
    (capacity * head_dim, head_dim.next_multiple_of(PANEL) * capacity)
}

/// Stores one position's key and value.
pub(crate) fn store_position(
    keys: &mut [f32],
    values: &mut [f32],
    capacity: usize,
    position: usize,
    (key, value): (&[f32], &[f32]),
) {
    let panel = &mut keys[position / PANEL * PANEL * key.len()..][..PANEL * key.len()];
    for (lanes, element) in panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(key) {
        lanes[position % PANEL] = *element;
    }
    for (panel, elements) in values.chunks_exact_mut(capacity * PANEL).zip(value.chunks(PANEL)) {
        panel[position * PANEL..][..elements.len()].copy_from_slice(elements);
    }
}

/// softmax(q·k / √head_dim)·v for rows of queries: row `i` sees the first `visible[i]` positions.
///
/// `queries` and `out` are `[visible.len(), head_dim]`; `scores` is scratch. A row's result does not depend on the
/// other rows: positions that it does not see enter as exact zeros, behind all that it sees.
pub(crate) fn attend(
    queries: &[f32],
    head: PackedHead<'_>,
    visible: &[u32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let PackedHead { keys, values, head_dim, capacity } = head;
    let positions = visible.iter().max().map_or(0, |&most| most as usize).next_multiple_of(PANEL);
    debug_assert!(positions <= capacity);
    if scores.len() < visible.len() * positions {
        scores.resize(visible.len() * positions, 0.0);
    }
    let scores = &mut scores[..visible.len() * positions];
    let keys = PackedView { outputs: positions, inputs: head_dim, stride: PANEL * head_dim, data: keys };
    gemm(Threads::One, queries, keys, scores, false);
    masked_softmax(scores, visible, 1.0 / (head_dim as f32).sqrt());
    let values = PackedView { outputs: head_dim, inputs: positions, stride: PANEL * capacity, data: values };
    gemm(Threads::One, scores, values, out, false);
}

kernel! {
    /// Replaces each row by the softmax of its first `visible` elements times `scale`, and zeros.
    ///
    /// Rows are equally long, a multiple of 16.
    fn masked_softmax(scores: &mut [f32], visible: &[u32], scale: f32) = masked_softmax_body
}

#[inline(always)]
fn masked_softmax_body<const FUSED: bool>(scores: &mut [f32], visible: &[u32], scale: f32) {
    let width = scores.len() / visible.len().max(1);
    for (row, visible) in scores.chunks_exact_mut(width.max(1)).zip(visible) {
        let visible = *visible as usize;
        row[visible..].fill(f32::NEG_INFINITY);
        let mut most = [f32::NEG_INFINITY; PANEL];
        for block in row.as_chunks::<PANEL>().0 {
            for (most, value) in most.iter_mut().zip(block) {
                *most = if *value > *most { *value } else { *most };
            }
        }
        let maximum = most.iter().fold(f32::NEG_INFINITY, |most, value| most.max(*value));
        for value in row.iter_mut() {
            *value = exp::<FUSED>((*value - maximum) * scale);
        }
        // The exponential of -inf is tiny, not zero.
        row[visible..].fill(0.0);
        let mut totals = [0.0_f32; PANEL];
        for block in row.as_chunks::<PANEL>().0 {
            for (total, value) in totals.iter_mut().zip(block) {
                *total += value;
            }
        }
        let factor = 1.0 / totals.iter().sum::<f32>();
        row.iter_mut().for_each(|value| *value *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_agrees_with_its_formula() {
        for (head_dim, length) in [(6, 1), (16, 5), (32, 33), (40, 16)] {
            let value = |i: usize| (i as f32 * 0.37).sin();
            let capacity = 48;
            let (key_size, value_size) = head_sizes(head_dim, capacity);
            // Whatever lies behind the last position must not matter.
            let (mut keys, mut values) = (vec![9.0; key_size], vec![9.0; value_size]);
            let key = |j: usize| (0..head_dim).map(|d| value(j * 7 + d) * 2.0).collect::<Vec<_>>();
            let element = |j: usize| (0..head_dim).map(|d| value(j * 5 + d + 3)).collect::<Vec<_>>();
            for j in 0..length {
                store_position(&mut keys, &mut values, capacity, j, (&key(j), &element(j)));
            }
            let visible: Vec<u32> = (1..=length as u32).collect();
            let queries: Vec<f32> = (0..length * head_dim).map(|i| value(i + 9) * 2.0).collect();
            let head = PackedHead { keys: &keys, values: &values, head_dim, capacity };
            let mut out = vec![0.0; queries.len()];
            attend(&queries, head, &visible, &mut Vec::new(), &mut out);
            for (row, (query, out)) in queries.chunks(head_dim).zip(out.chunks(head_dim)).enumerate() {
                let weights: Vec<f64> = (0..=row)
                    .map(|j| {
                        let dot: f64 =
                            query.iter().zip(key(j)).map(|(q, k)| f64::from(*q) * f64::from(k)).sum();
                        (dot / (head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for (d, out) in out.iter().enumerate() {
                    let exact: f64 =
                        weights.iter().enumerate().map(|(j, w)| w / total * f64::from(element(j)[d])).sum();
                    assert!((f64::from(*out) - exact).abs() < 1e-5);
                }
            }
        }
    }
}
