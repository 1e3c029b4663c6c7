//! The space of a sweep: its coefficients and the grid they span.

use serde::{Deserialize, Serialize};

use crate::{Coefficient, Point};

/// The coefficients of a sweep, in order; at least one, names unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Coefficient>", into = "Vec<Coefficient>")]
pub struct Space(Vec<Coefficient>);

/// Why coefficients are no space, or a point lies outside one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpaceError {
    /// No coefficient at all.
    #[error("a sweep needs at least one coefficient")]
    Empty,
    /// A name stands twice.
    #[error("coefficient '{0}' is defined twice")]
    DuplicateName(String),
    /// A name that commands and tables could not read back.
    #[error(
        "coefficient {0:?} must have a non-empty name without '=', ',', white space or control characters"
    )]
    BadName(String),
    /// A name that an export has a column of already.
    #[error("coefficient '{0}' has the name of an export's column ({columns}): choose another", columns = EXPORT_COLUMNS.join(", "))]
    ReservedName(String),
    /// More grid points than can be counted.
    #[error("the grid has more than {limit} points: use larger steps or another strategy")]
    TooLarge {
        /// The largest grid that is accepted.
        limit: u64,
    },
    /// A point with too many or too few values.
    #[error("point {point} has {found} values; the sweep has {wanted} coefficients ({names})")]
    WrongDimensions {
        /// The point.
        point: Point,
        /// How many values it has.
        found: usize,
        /// How many coefficients there are.
        wanted: usize,
        /// Their names, joined.
        names: String,
    },
    /// A value outside its coefficient's range.
    #[error("point {point}: {coefficient} = {value} lies outside {min} … {max}")]
    OutOfRange {
        /// The point.
        point: Point,
        /// The coefficient.
        coefficient: String,
        /// The value found.
        value: crate::Ticks,
        /// The smallest value wanted.
        min: crate::Ticks,
        /// The largest value wanted.
        max: crate::Ticks,
    },
}

/// The columns of an export that stand beside those of the coefficients.
const EXPORT_COLUMNS: [&str; 10] =
    ["domain", "set", "query", "rung", "level", "text", "text_tokens", "finish", "confidence", "reason"];

/// A grid above this is refused: its bookkeeping alone would take hours.
const GRID_LIMIT: u64 = 10_000_000;

impl Space {
    /// A space of these coefficients.
    ///
    /// # Errors
    /// When there is none, two share a name, or a name is empty, reserved or holds `=`, `,`, white space or control
    /// characters.
    pub fn new(coefficients: Vec<Coefficient>) -> Result<Self, SpaceError> {
        if coefficients.is_empty() {
            return Err(SpaceError::Empty);
        }
        for (index, coefficient) in coefficients.iter().enumerate() {
            let name = &coefficient.name;
            let unreadable = |c: char| c == '=' || c == ',' || c.is_whitespace() || c.is_control();
            if name.is_empty() || name.contains(unreadable) {
                return Err(SpaceError::BadName(name.clone()));
            }
            if EXPORT_COLUMNS.contains(&name.as_str()) {
                return Err(SpaceError::ReservedName(name.clone()));
            }
            if coefficients[..index].iter().any(|earlier| earlier.name == coefficient.name) {
                return Err(SpaceError::DuplicateName(coefficient.name.clone()));
            }
        }
        Ok(Self(coefficients))
    }

    /// The coefficients, in order.
    pub fn coefficients(&self) -> &[Coefficient] {
        &self.0
    }

    /// How many coefficients there are.
    pub fn dimensions(&self) -> usize {
        self.0.len()
    }

    /// The coefficients' names, joined by commas.
    pub fn names(&self) -> String {
        self.0.iter().map(|coefficient| coefficient.name.as_str()).collect::<Vec<_>>().join(",")
    }

    /// How many points the full grid has.
    ///
    /// # Errors
    /// When the grid is larger than ten million points.
    pub fn grid_size(&self) -> Result<u64, SpaceError> {
        self.0
            .iter()
            .try_fold(1u64, |size, coefficient| size.checked_mul(coefficient.range.count()))
            .filter(|size| *size <= GRID_LIMIT)
            .ok_or(SpaceError::TooLarge { limit: GRID_LIMIT })
    }

    /// The grid point at `index` in row-major order (the last coefficient varies fastest); `None` past the end.
    pub fn grid_point(&self, index: u64) -> Option<Point> {
        let mut rest = index;
        let mut values = Vec::with_capacity(self.0.len());
        for coefficient in self.0.iter().rev() {
            values.push(coefficient.range.value(rest % coefficient.range.count())?);
            rest /= coefficient.range.count();
        }
        values.reverse();
        (rest == 0).then(|| Point::new(values))
    }

    /// Every grid point in row-major order.
    pub fn grid(&self) -> GridPoints<'_> {
        GridPoints { space: self, next: 0 }
    }

    /// Whether the point has one value per coefficient, each on the coefficient's grid.
    pub fn on_grid(&self, point: &Point) -> bool {
        point.dimensions() == self.dimensions()
            && self
                .0
                .iter()
                .zip(point.values())
                .all(|(coefficient, value)| coefficient.range.contains(*value))
    }

    /// Checks that the point has one value per coefficient, each between the coefficient's ends (on a step or not).
    ///
    /// # Errors
    /// When it has not.
    pub fn check(&self, point: &Point) -> Result<(), SpaceError> {
        if point.dimensions() != self.dimensions() {
            return Err(SpaceError::WrongDimensions {
                point: point.clone(),
                found: point.dimensions(),
                wanted: self.dimensions(),
                names: self.names(),
            });
        }
        for (coefficient, value) in self.0.iter().zip(point.values()) {
            if !coefficient.range.spans(*value) {
                return Err(SpaceError::OutOfRange {
                    point: point.clone(),
                    coefficient: coefficient.name.clone(),
                    value: *value,
                    min: coefficient.range.min(),
                    max: coefficient.range.max(),
                });
            }
        }
        Ok(())
    }
}

impl TryFrom<Vec<Coefficient>> for Space {
    type Error = SpaceError;

    fn try_from(coefficients: Vec<Coefficient>) -> Result<Self, SpaceError> {
        Self::new(coefficients)
    }
}

impl From<Space> for Vec<Coefficient> {
    fn from(space: Space) -> Self {
        space.0
    }
}

/// Iterator over a space's grid.
#[derive(Debug)]
pub struct GridPoints<'a> {
    space: &'a Space,
    next: u64,
}

impl Iterator for GridPoints<'_> {
    type Item = Point;

    fn next(&mut self) -> Option<Point> {
        let point = self.space.grid_point(self.next)?;
        self.next += 1;
        Some(point)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{Range, Ticks};

    fn space(counts: &[i32]) -> Space {
        let coefficients = counts
            .iter()
            .enumerate()
            .map(|(index, count)| Coefficient {
                name: format!("c{index}"),
                vector: index,
                tensors: None,
                range: Range::new(Ticks::ZERO, Ticks::new((count - 1) * 100), Ticks::new(100))
                    .expect("divides"),
            })
            .collect();
        Space::new(coefficients).expect("names differ")
    }

    #[test]
    fn grid_visits_every_point_once_in_order() {
        let space = space(&[3, 1, 4]);
        let points: Vec<_> = space.grid().collect();
        assert_eq!(points.len() as u64, space.grid_size().expect("small"));
        assert_eq!(points.iter().collect::<HashSet<_>>().len(), 12);
        assert!(points.is_sorted());
        assert!(points.iter().all(|point| space.on_grid(point)));
        assert_eq!(space.grid_point(12), None);
    }

    #[test]
    fn a_coefficient_has_a_name_that_commands_and_tables_can_hold() {
        let named = |name: &str| {
            let mut coefficient = space(&[3]).coefficients()[0].clone();
            coefficient.name = name.to_owned();
            Space::new(vec![coefficient])
        };
        for name in ["", "a=b", "a,b", "a b", "a\tb", "\u{a0}", "a\u{7}"] {
            assert_eq!(named(name), Err(SpaceError::BadName(name.to_owned())));
        }
        for name in EXPORT_COLUMNS {
            assert_eq!(named(name), Err(SpaceError::ReservedName(name.to_owned())));
        }
        for name in ["alpha", "medical", "α₁", "text-2", "0"] {
            assert!(named(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_grid_too_large_to_count_is_refused() {
        assert!(space(&[1000, 1000, 1000]).grid_size().is_err());
    }

    #[test]
    fn a_point_outside_names_its_coefficient() {
        let error = space(&[3, 3]).check(&"0.01,5".parse().expect("a point")).expect_err("outside");
        assert!(error.to_string().contains("c1 = 5 lies outside 0 … 0.02"), "{error}");
    }
}
