//! The surfaces that searches are compared on.

use super::Surface;

/// The numbers of a surface; see the [module](super) for the formulas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// What a domain's own coefficient does to it.
    pub own: f64,
    /// What the other coefficients do, at most; drawn between −1 and 1 times this.
    pub cross: f64,
    /// Deviation of the weights of products of coefficients.
    pub interaction: f64,
    /// Deviation of the base's proficiencies.
    pub bias: f64,
    /// Weight of the own coefficient's square.
    pub bend: f64,
    /// How much distance from the base lowers every proficiency.
    pub wear: f64,
    /// How early proficiencies level off; 0 is never.
    pub saturation: f64,
    /// Deviation of the queries' offsets.
    pub spread: f64,
    /// Mean slope of log-probabilities (nats).
    pub slope: f64,
    /// Power of the distance to a level.
    pub power: f64,
    /// Range of what references differ by at any proficiency (nats).
    pub unevenness: f64,
    /// How much distance from the base lowers every log-probability (nats).
    pub damage: f64,
    /// Deviation of the proficiencies' waves.
    pub ripple: f64,
    /// Deviation of every log-probability's own waves (nats).
    pub sway: f64,
    /// Deviation of the waves' angular frequencies.
    pub frequency: f64,
    /// Of judged responses.
    pub temperature: f64,
}

/// What the surfaces of the catalogue differ from.
const PLAIN: Shape = Shape {
    own: 1.7,
    cross: 0.15,
    interaction: 0.1,
    bias: 0.1,
    bend: 0.0,
    wear: 0.0,
    saturation: 0.0,
    spread: 0.15,
    slope: 0.6,
    power: 2.0,
    unevenness: 0.1,
    damage: 0.0,
    ripple: 0.0,
    sway: 0.01,
    frequency: 1.5,
    temperature: 0.15,
};

/// Queries a domain.
const QUERIES: usize = 40;

/// Domains, as many as coefficients, and levels.
const DOMAINS: usize = 3;

/// Twenty-two surfaces of three coefficients, three domains of 40 queries, and three levels; another seed draws others of
/// the same shapes.
pub fn catalogue(seed: u64) -> Vec<Surface> {
    let shapes = [
        ("plain", PLAIN),
        ("independent", Shape { cross: 0.0, interaction: 0.0, ..PLAIN }),
        ("cross-talk", Shape { cross: 0.5, ..PLAIN }),
        ("strong-cross-talk", Shape { cross: 0.8, own: 1.6, ..PLAIN }),
        ("interaction", Shape { interaction: 0.4, ..PLAIN }),
        ("strong-interaction", Shape { interaction: 0.7, cross: 0.3, ..PLAIN }),
        ("saturated", Shape { saturation: 0.6, own: 2.2, ..PLAIN }),
        ("hard-saturated", Shape { saturation: 0.75, own: 4.0, ..PLAIN }),
        ("steep", Shape { own: 3.5, ..PLAIN }),
        ("weak", Shape { own: 1.0, ..PLAIN }),
        ("shifted-base", Shape { bias: 0.5, ..PLAIN }),
        ("bent", Shape { bend: 0.7, ..PLAIN }),
        ("folded", Shape { bend: -1.2, own: 1.8, ..PLAIN }),
        ("worn", Shape { wear: 0.8, own: 2.0, ..PLAIN }),
        ("damaged", Shape { damage: 0.2, ..PLAIN }),
        ("varied-queries", Shape { spread: 0.4, ..PLAIN }),
        ("uneven-references", Shape { unevenness: 0.5, ..PLAIN }),
        ("linear-margins", Shape { power: 1.5, ..PLAIN }),
        ("swaying", Shape { sway: 0.05, frequency: 2.0, ..PLAIN }),
        ("rippled", Shape { ripple: 0.1, frequency: 3.0, ..PLAIN }),
        ("rough", Shape { ripple: 0.15, sway: 0.04, frequency: 4.0, ..PLAIN }),
        (
            "everything",
            Shape {
                cross: 0.4,
                interaction: 0.3,
                bias: 0.2,
                bend: 0.3,
                wear: 0.3,
                saturation: 0.4,
                own: 2.2,
                spread: 0.25,
                unevenness: 0.3,
                sway: 0.03,
                ..PLAIN
            },
        ),
    ];
    shapes.into_iter().map(|(name, shape)| of_shape(name, shape, seed)).collect()
}

/// A surface with as many coefficients as domains, each moving mostly its own domain.
fn of_shape(name: &str, shape: Shape, seed: u64) -> Surface {
    use rand::RngExt as _;
    let mut generator = crate::random::stream(seed, name, u64::MAX);
    let gains: Vec<Vec<f64>> = (0..DOMAINS)
        .map(|domain| {
            (0..DOMAINS)
                .map(|coefficient| {
                    if coefficient == domain {
                        shape.own * (0.85 + 0.3 * generator.random::<f64>())
                    } else {
                        shape.cross * (2.0 * generator.random::<f64>() - 1.0)
                    }
                })
                .collect()
        })
        .collect();
    Surface::new(name, shape, &gains, QUERIES, 3, seed)
}
