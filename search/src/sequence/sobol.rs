//! The Sobol sequence, scrambled.

use rand::{Rng as _, RngExt as _};

use crate::random::stream;

/// Degree, coefficients and first direction numbers of dimensions 2 to 12.
///
/// S. Joe, F. Y. Kuo, "Constructing Sobol sequences with better two-dimensional projections", SIAM J. Sci. Comput. 30
/// (2008), table new-joe-kuo-6.
const DIRECTIONS: [(u32, u32, &[u32]); 11] = [
    (1, 0, &[1]),
    (2, 1, &[1, 3]),
    (3, 1, &[1, 3, 1]),
    (3, 2, &[1, 1, 1]),
    (4, 1, &[1, 1, 3, 3]),
    (4, 4, &[1, 3, 5, 13]),
    (5, 2, &[1, 1, 5, 5, 17]),
    (5, 4, &[1, 1, 5, 5, 5]),
    (5, 7, &[1, 1, 7, 11, 19]),
    (5, 11, &[1, 1, 5, 1, 1]),
    (5, 13, &[1, 1, 1, 3, 11]),
];

const BITS: usize = 32;

/// A Sobol sequence in Gray-code order.
#[derive(Clone, Debug)]
pub(super) struct Sobol {
    directions: Vec<[u32; BITS]>,
    state: Vec<u32>,
    index: u32,
}

impl Sobol {
    /// Scrambled by a random lower-triangular matrix and a shift per dimension (J. Matoušek, "On the L2-discrepancy for
    /// anchored boxes", 1998). Dimensions past the twelfth are plain random numbers' directions.
    pub(super) fn new(dimensions: usize, seed: u64) -> Self {
        let mut sequence = Self::plain(dimensions);
        for (dimension, directions) in sequence.directions.iter_mut().enumerate() {
            let mut generator = stream(seed, "sobol", dimension as u64);
            // Row i of the matrix: a one on the diagonal, random bits above it in significance, from the top bit down.
            let rows: Vec<u32> = (0..BITS)
                .map(|row| {
                    let diagonal = 1u32 << (BITS - 1 - row);
                    let above = !(diagonal | (diagonal - 1));
                    diagonal | (generator.next_u32() & above)
                })
                .collect();
            for direction in directions.iter_mut() {
                *direction = rows
                    .iter()
                    .enumerate()
                    .map(|(row, mask)| ((mask & *direction).count_ones() & 1) << (BITS - 1 - row))
                    .sum();
            }
            sequence.state[dimension] = generator.random();
        }
        sequence
    }

    /// Not scrambled.
    fn plain(dimensions: usize) -> Self {
        let directions = (0..dimensions)
            .map(|dimension| {
                match dimension.checked_sub(1).map(|index| DIRECTIONS[index % DIRECTIONS.len()]) {
                    None => std::array::from_fn(|bit| 1 << (BITS - 1 - bit)),
                    Some(parameters) => directions(parameters),
                }
            })
            .collect();
        Self { directions, state: vec![0; dimensions], index: 0 }
    }

    /// The next point of the unit cube.
    pub(super) fn next_point(&mut self) -> Vec<f64> {
        let point = self.state.iter().map(|value| f64::from(*value) / 4_294_967_296.0).collect();
        let bit = self.index.trailing_ones() as usize;
        for (state, directions) in self.state.iter_mut().zip(&self.directions) {
            *state ^= directions[bit.min(BITS - 1)];
        }
        self.index = self.index.wrapping_add(1);
        point
    }
}

fn directions((degree, coefficients, first): (u32, u32, &[u32])) -> [u32; BITS] {
    let degree = degree as usize;
    let mut directions = [0u32; BITS];
    for bit in 0..BITS {
        directions[bit] = if bit < degree {
            first[bit] << (BITS - 1 - bit)
        } else {
            let mut value = directions[bit - degree] ^ (directions[bit - degree] >> degree);
            for term in 1..degree {
                if (coefficients >> (degree - 1 - term)) & 1 == 1 {
                    value ^= directions[bit - term];
                }
            }
            value
        };
    }
    directions
}

#[cfg(test)]
mod tests;
