//! Nine coefficients: three vectors, each split over three groups of layers.

use avsweep_domain::{Point, Ticks};

use super::Surface;
use super::catalogue::Shape;

/// Vectors, and domains.
const VECTORS: usize = 3;

/// Groups of layers.
const GROUPS: usize = 3;

/// What a vector does to its own domain, by group of layers.
const OWN: [f64; GROUPS] = [1.2, 0.5, 0.4];

/// What it does to the other domains, by group of layers: nearly as much as to its own, but in other layers.
const OTHERS: [f64; GROUPS] = [0.1, 0.6, 1.3];

/// A surface of nine coefficients (vector 0's groups, then vector 1's, then vector 2's) and three domains.
///
/// A vector's first group moves its own domain alone, its last one mostly the others. With one coefficient per vector,
/// all groups alike, the domains cannot be set apart.
pub fn layered(seed: u64) -> Surface {
    let shape = Shape {
        own: 1.0,
        cross: 1.0,
        interaction: 0.05,
        bias: 0.1,
        bend: 0.0,
        wear: 0.0,
        saturation: 0.0,
        spread: 0.15,
        slope: 0.6,
        power: 2.0,
        unevenness: 0.1,
        damage: 0.02,
        ripple: 0.0,
        sway: 0.01,
        frequency: 0.8,
        temperature: 0.15,
    };
    let gain = |domain: usize, coefficient: usize| {
        let (vector, group) = (coefficient / GROUPS, coefficient % GROUPS);
        if vector == domain { OWN[group] } else { OTHERS[group] }
    };
    let gains: Vec<Vec<f64>> = (0..VECTORS)
        .map(|domain| (0..VECTORS * GROUPS).map(|coefficient| gain(domain, coefficient)).collect())
        .collect();
    Surface::new("layered", shape, &gains, 40, 3, seed)
}

/// The point of nine coefficients where every group of a vector has that vector's value.
pub fn tied(values: &[Ticks; VECTORS]) -> Point {
    Point::new(values.iter().flat_map(|value| [*value; GROUPS]).collect::<Vec<_>>())
}
