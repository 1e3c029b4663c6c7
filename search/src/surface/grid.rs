//! Grids of surfaces.

use avsweep_domain::{Coefficient, Levels, Point, Range, Space, Ticks};

use super::Surface;
use crate::problem::DomainShape;
use crate::record::{GridBuilder, RecordError, RecordedGrid};

impl Surface {
    /// A space for the surface: every coefficient from −1 to 1 in this many steps.
    ///
    /// # Errors
    /// When the number of steps does not divide 20,000.
    pub fn space(&self, steps: u32) -> Result<Space, avsweep_domain::RangeError> {
        let step = 20_000 / i32::try_from(steps.max(1)).unwrap_or(i32::MAX);
        let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(step))?;
        let coefficient =
            |index: usize| Coefficient { name: format!("x{index}"), vector: index, tensors: None, range };
        Ok(Space::new((0..self.dimensions()).map(coefficient).collect()).expect("the names differ"))
    }

    /// The domains.
    pub fn domains(&self) -> Vec<DomainShape> {
        let shape = |(index, domain): (usize, &super::Domain)| DomainShape {
            name: format!("domain{index}"),
            queries: domain.queries.len(),
        };
        self.domains.iter().enumerate().map(shape).collect()
    }

    /// The levels: `avoidance < generic < expert`, or numbered ones where there are not three.
    pub fn levels(&self) -> Levels {
        if self.levels == 3 {
            return Levels::default();
        }
        Levels::new((0..self.levels).map(|level| format!("level{level}")).collect()).expect("2 to 8 levels")
    }

    /// The log-probabilities at a point.
    pub fn log_probs_at(&self, point: &Point) -> Vec<f32> {
        self.log_probs(&point.to_f64())
    }

    /// The full grid of [`Surface::space`], judged where asked.
    ///
    /// # Errors
    /// When the grid is too large.
    pub fn record(&self, space: &Space, judged: bool) -> Result<RecordedGrid, RecordError> {
        let mut builder = GridBuilder::new(space.clone(), self.levels(), self.domains())?;
        for (index, point) in space.grid().enumerate() {
            let log_probs = self.log_probs_at(&point);
            let levels = judged.then(|| self.judge().judged(&log_probs, index as u64));
            builder.add(&point, &log_probs, levels.as_deref())?;
        }
        builder.build()
    }
}
