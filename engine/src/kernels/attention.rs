//! Attention of query rows to the keys and values of one head, as two small matrix products around a softmax.

use super::exp::exp;
use super::gemm::{DEPTH, gemm};
use super::layer::soft_cap;
use super::packed::{PANEL, PackedView, PanelsView};
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

/// The positions that a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visible {
    start: u32,
    end: u32,
}

impl Visible {
    /// `position` and those before it, in all no more than the window.
    pub(crate) fn up_to(position: usize, window: Option<usize>) -> Self {
        let end = position + 1;
        Self { start: window.map_or(0, |window| end.saturating_sub(window)) as u32, end: end as u32 }
    }
}

/// Queries to one head.
#[derive(Clone, Copy)]
pub(crate) struct Queries<'a> {
    /// `[visible.len(), head_dim]`.
    pub(crate) rows: &'a [f32],
    /// What each row sees.
    pub(crate) visible: &'a [Visible],
    /// Factor on q·k.
    pub(crate) scale: f32,
    /// Scaled scores s become c · tanh(s / c).
    pub(crate) softcap: Option<f32>,
}

/// softmax(scale · q·k)·v over the positions that each row of queries sees.
///
/// `out` is as large as the queries; `scores` is scratch. A row's result does not depend on the other rows:
/// positions that it does not see enter as exact zeros.
pub(crate) fn attend(queries: Queries<'_>, head: PackedHead<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
    let PackedHead { keys, values, head_dim, capacity } = head;
    let Queries { rows, visible, scale, softcap } = queries;
    // What no row sees is left out, in whole blocks of the product's depth, so that the blocks of a row's sum do
    // not depend on the other rows.
    let first = visible.iter().map(|visible| visible.start).min().unwrap_or(0) as usize / DEPTH * DEPTH;
    let last = visible.iter().map(|visible| visible.end).max().unwrap_or(0) as usize;
    let positions = last.next_multiple_of(PANEL) - first;
    debug_assert!(first + positions <= capacity);
    if scores.len() < visible.len() * positions {
        scores.resize(visible.len() * positions, 0.0);
    }
    let scores = &mut scores[..visible.len() * positions];
    let keys = PanelsView::F32(&keys[first * head_dim..]);
    let keys = PackedView { outputs: positions, inputs: head_dim, stride: PANEL * head_dim, data: keys };
    gemm(Threads::One, rows, keys, scores, false);
    let scale = match softcap {
        None => scale,
        Some(cap) => {
            soft_cap(scores, scale, cap);
            1.0
        }
    };
    masked_softmax(scores, visible, first, scale);
    let values = PanelsView::F32(&values[first * PANEL..]);
    let values = PackedView { outputs: head_dim, inputs: positions, stride: PANEL * capacity, data: values };
    gemm(Threads::One, scores, values, out, false);
}

kernel! {
    /// Replaces each row by the softmax of its visible elements times `scale`, and zeros.
    ///
    /// Rows are equally long, a multiple of 16, and begin with position `first`.
    fn masked_softmax(scores: &mut [f32], visible: &[Visible], first: usize, scale: f32) = masked_softmax_body
}

#[inline(always)]
fn masked_softmax_body<const FUSED: bool>(scores: &mut [f32], visible: &[Visible], first: usize, scale: f32) {
    let width = scores.len() / visible.len().max(1);
    for (row, visible) in scores.chunks_exact_mut(width.max(1)).zip(visible) {
        let (start, end) = (visible.start as usize - first, visible.end as usize - first);
        row[..start].fill(f32::NEG_INFINITY);
        row[end..].fill(f32::NEG_INFINITY);
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
        row[..start].fill(0.0);
        row[end..].fill(0.0);
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

    fn value(i: usize) -> f32 {
        (i as f32 * 0.37).sin()
    }

    /// A head of `length` positions; whatever lies behind the last one must not matter.
    struct Head {
        keys: Vec<f32>,
        values: Vec<f32>,
        head_dim: usize,
        capacity: usize,
    }

    impl Head {
        fn new(head_dim: usize, length: usize) -> Self {
            let capacity = (length + 30).next_multiple_of(PANEL);
            let (key_size, value_size) = head_sizes(head_dim, capacity);
            let mut head =
                Self { keys: vec![9.0; key_size], values: vec![9.0; value_size], head_dim, capacity };
            for j in 0..length {
                let (key, value) = (head.key(j), head.value(j));
                store_position(&mut head.keys, &mut head.values, capacity, j, (&key, &value));
            }
            head
        }

        fn key(&self, j: usize) -> Vec<f32> {
            (0..self.head_dim).map(|d| value(j * 7 + d) * 2.0).collect()
        }

        fn value(&self, j: usize) -> Vec<f32> {
            (0..self.head_dim).map(|d| value(j * 5 + d + 3)).collect()
        }

        fn attend(&self, rows: &[f32], visible: &[Visible], scale: f32, softcap: Option<f32>) -> Vec<f32> {
            let Self { keys, values, head_dim, capacity } = self;
            let head = PackedHead { keys, values, head_dim: *head_dim, capacity: *capacity };
            let mut out = vec![0.0; rows.len()];
            attend(Queries { rows, visible, scale, softcap }, head, &mut Vec::new(), &mut out);
            out
        }
    }

    #[test]
    fn attention_agrees_with_its_formula() {
        let shapes = [(6, 1), (16, 5), (32, 33), (40, 16), (8, 1100)];
        let rules = [(None, None), (Some(4), None), (Some(600), Some(1.5)), (None, Some(0.7))];
        for ((head_dim, length), (window, softcap)) in
            shapes.into_iter().flat_map(|shape| rules.map(|rule| (shape, rule)))
        {
            let scale = 1.0 / (head_dim as f32).sqrt();
            let head = Head::new(head_dim, length);
            let positions: Vec<usize> = (0..length).step_by(1 + length / 50).collect();
            let visible: Vec<Visible> = positions.iter().map(|&at| Visible::up_to(at, window)).collect();
            let queries: Vec<f32> = (0..positions.len() * head_dim).map(|i| value(i + 9) * 2.0).collect();
            let out = head.attend(&queries, &visible, scale, softcap);
            for ((query, out), &position) in
                queries.chunks(head_dim).zip(out.chunks(head_dim)).zip(&positions)
            {
                let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                let weights: Vec<f64> = (first..=position)
                    .map(|j| {
                        let dot: f64 =
                            query.iter().zip(head.key(j)).map(|(q, k)| f64::from(*q) * f64::from(k)).sum();
                        let score = dot * f64::from(scale);
                        softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for (d, out) in out.iter().enumerate() {
                    let exact: f64 = (first..=position)
                        .zip(&weights)
                        .map(|(j, w)| w / total * f64::from(head.value(j)[d]))
                        .sum();
                    assert!((f64::from(*out) - exact).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn a_windowed_row_does_not_depend_on_what_the_others_see() {
        let head = Head::new(24, 1400);
        let positions = [3, 700, 1399];
        let visible = positions.map(|position| Visible::up_to(position, Some(100)));
        let queries: Vec<f32> = (0..positions.len() * 24).map(|i| value(i + 2)).collect();
        let together = head.attend(&queries, &visible, 0.2, None);
        for (row, expected) in together.chunks(24).enumerate() {
            let alone = head.attend(&queries[row * 24..][..24], &visible[row..=row], 0.2, None);
            assert_eq!(alone, expected, "row {row}");
        }
    }
}
