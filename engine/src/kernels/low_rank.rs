//! Parts of a product of two thin matrices, added to what is there: a low-rank vector's share of a merge.

use super::kernel;
use std::ops::Range;

/// Columns that are summed at a time: two AVX2 registers.
const WIDTH: usize = 16;
/// Rows that are summed at a time, so that a loaded stretch of `right` serves several rows.
const HEIGHT: usize = 4;

/// `left · right`, never there as a whole.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    /// `[rows, rank]`, row-major.
    pub(crate) left: &'a [f32],
    /// `[rank, columns]`, row-major.
    pub(crate) right: &'a [f32],
    pub(crate) rank: usize,
    pub(crate) columns: usize,
    /// What the product is multiplied by.
    pub(crate) scale: f32,
}

impl LowRank<'_> {
    /// Bytes of both factors.
    pub(crate) fn bytes(&self) -> u64 {
        (size_of_val(self.left) + size_of_val(self.right)) as u64
    }

    /// `sums += factor · (scale · left · right)` for elements `start..start + sums.len()` of the row-major product.
    ///
    /// An element is summed over the rank in order, without fused operations, so it has the same bits in whatever
    /// range and on whatever CPU it is computed.
    pub(crate) fn add_scaled(self, start: usize, factor: f32, sums: &mut [f32]) {
        let mut row = start / self.columns;
        let mut column = start % self.columns;
        let mut rest = sums;
        while !rest.is_empty() {
            // What is left of a row that the range cuts, or else all whole rows.
            let (rows, columns) = if column > 0 || rest.len() < self.columns {
                (1, column..(column + rest.len()).min(self.columns))
            } else {
                (rest.len() / self.columns, 0..self.columns)
            };
            let (own, later) = rest.split_at_mut(rows * columns.len());
            rectangle(self, row, columns, factor, own);
            (row, column, rest) = (row + rows, 0, later);
        }
    }
}

kernel! {
    /// Rows from `row` on, `columns` of each; `sums` holds them densely.
    fn rectangle(product: LowRank<'_>, row: usize, columns: Range<usize>, factor: f32, sums: &mut [f32])
        = rectangle_body
}

#[inline(always)]
fn rectangle_body<const FUSED: bool>(
    product: LowRank<'_>,
    row: usize,
    columns: Range<usize>,
    factor: f32,
    sums: &mut [f32],
) {
    let width = columns.len();
    for (group, sums) in sums.chunks_mut(HEIGHT * width).enumerate() {
        let first = row + group * HEIGHT;
        if sums.len() == HEIGHT * width {
            rows::<HEIGHT>(product, first, columns.clone(), factor, sums);
        } else {
            for (offset, sums) in sums.chunks_exact_mut(width).enumerate() {
                rows::<1>(product, first + offset, columns.clone(), factor, sums);
            }
        }
    }
}

#[inline(always)]
fn rows<const M: usize>(
    product: LowRank<'_>,
    row: usize,
    columns: Range<usize>,
    factor: f32,
    sums: &mut [f32],
) {
    let LowRank { left, right, rank, columns: stride, scale } = product;
    let width = columns.len();
    let mut weights: [&[f32]; M] = [&[]; M];
    for (offset, weights) in weights.iter_mut().enumerate() {
        *weights = &left[(row + offset) * rank..][..rank];
    }
    let mut done = 0;
    while done + WIDTH <= width {
        let mut parts = [[0.0_f32; WIDTH]; M];
        for (index, values) in right.chunks_exact(stride).enumerate() {
            let values: &[f32; WIDTH] =
                values[columns.start + done..].first_chunk().expect("the tile ends with the row");
            for (parts, weights) in parts.iter_mut().zip(&weights) {
                let weight = weights[index];
                for (part, value) in parts.iter_mut().zip(values) {
                    *part += weight * value;
                }
            }
        }
        for (offset, parts) in parts.iter().enumerate() {
            for (sum, part) in sums[offset * width + done..][..WIDTH].iter_mut().zip(parts) {
                *sum += factor * (scale * part);
            }
        }
        done += WIDTH;
    }
    for (offset, weights) in weights.iter().enumerate() {
        for at in done..width {
            let mut part = 0.0;
            for (weight, values) in weights.iter().zip(right.chunks_exact(stride)) {
                part += weight * values[columns.start + at];
            }
            sums[offset * width + at] += factor * (scale * part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|i| ((i * 37 + seed * 11) as f32 * 0.618).sin()).collect()
    }

    proptest! {
        #[test]
        fn any_range_has_the_bits_of_the_whole_which_agrees_with_the_formula(
            rank in 1_usize..7, rows in 1_usize..12, columns in 1_usize..60, cut in 0.0..1.0, end in 0.0..1.0
        ) {
            let (left, right) = (values(rows * rank, 1), values(rank * columns, 2));
            let product = LowRank { left: &left, right: &right, rank, columns, scale: 0.75 };
            let before = values(rows * columns, 3);
            let mut whole = before.clone();
            product.add_scaled(0, -1.5, &mut whole);
            for (index, (sum, before)) in whole.iter().zip(&before).enumerate() {
                let (row, column) = (index / columns, index % columns);
                let exact: f64 =
                    (0..rank).map(|k| f64::from(left[row * rank + k]) * f64::from(right[k * columns + column])).sum();
                prop_assert!((f64::from(*sum) - (f64::from(*before) - 1.5 * 0.75 * exact)).abs() < 1e-5);
            }
            let start = (cut * before.len() as f64) as usize;
            let length = (end * (before.len() - start) as f64) as usize;
            let mut part = before[start..start + length].to_vec();
            product.add_scaled(start, -1.5, &mut part);
            let bits = |sums: &[f32]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&part), bits(&whole[start..start + length]));
        }
    }

    #[test]
    fn both_forms_have_the_same_bits() {
        let (left, right) = (values(7 * 5, 1), values(5 * 41, 2));
        let product = LowRank { left: &left, right: &right, rank: 5, columns: 41, scale: 2.0 };
        let (mut ours, mut plain) = (values(7 * 41, 3), values(7 * 41, 3));
        rectangle(product, 0, 0..41, 0.3, &mut ours);
        rectangle_body::<false>(product, 0, 0..41, 0.3, &mut plain);
        assert_eq!(ours, plain);
    }
}
