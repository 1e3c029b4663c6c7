//! A recorded grid in memory.

use avsweep_domain::{Levels, Point, Space};

use super::error::RecordError;
use crate::problem::{DomainShape, Measured};

/// The judged level of a response that is at no level that can be told.
pub const UNCLEAR: u8 = 255;

/// What a full grid measured on the search queries.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedGrid {
    space: Space,
    levels: Levels,
    domains: Vec<DomainShape>,
    points: usize,
    /// Per point in grid order: the domains' queries one after another, each query's levels together.
    log_probs: Vec<f32>,
    /// Per point in grid order, per query: the judged level or [`UNCLEAR`]; empty where nothing is judged.
    judged: Vec<u8>,
    /// Per point in grid order: judged responses by domain and level.
    judged_counts: Vec<u32>,
}

/// Collects a grid's points in any order.
#[derive(Clone, Debug)]
pub struct GridBuilder {
    grid: RecordedGrid,
    present: Vec<bool>,
    judged: Option<bool>,
}

impl GridBuilder {
    /// An empty record of this space's grid.
    ///
    /// # Errors
    /// When the grid is too large to count, or nothing is measured.
    pub fn new(space: Space, levels: Levels, domains: Vec<DomainShape>) -> Result<Self, RecordError> {
        if domains.is_empty() {
            return Err(RecordError::NothingMeasured(None));
        }
        if let Some(empty) = domains.iter().find(|domain| domain.queries == 0) {
            return Err(RecordError::NothingMeasured(Some(empty.name.clone())));
        }
        let points = space.grid_size()? as usize;
        let mut grid = RecordedGrid {
            space,
            levels,
            domains,
            points,
            log_probs: Vec::new(),
            judged: Vec::new(),
            judged_counts: Vec::new(),
        };
        grid.log_probs = vec![0.0; points * grid.outputs()];
        Ok(Self { grid, present: vec![false; points], judged: None })
    }

    /// Adds a point: `queries × levels` mean log-probabilities per token (nats), domain after domain, a query's levels
    /// together; and, where its texts are judged, one level or [`UNCLEAR`] per query.
    ///
    /// # Errors
    /// When the point is not on the grid or stands twice, or numbers are too many, too few or out of range.
    pub fn add(
        &mut self,
        point: &Point,
        log_probs: &[f32],
        judged: Option<&[u8]>,
    ) -> Result<(), RecordError> {
        let Some(index) = self.grid.index(point) else {
            return Err(RecordError::NotOnGrid { point: point.clone(), names: self.grid.space.names() });
        };
        if self.present[index] {
            return Err(RecordError::DuplicatePoint(point.clone()));
        }
        let count = |what, found, wanted| {
            if found == wanted {
                Ok(())
            } else {
                Err(RecordError::WrongCount { point: point.clone(), what, found, wanted })
            }
        };
        let outputs = self.grid.outputs();
        count("log-probabilities", log_probs.len(), outputs)?;
        if let Some(bad) = log_probs.iter().position(|value| !(-1000.0..=0.0).contains(value)) {
            return Err(RecordError::BadLogProb { point: point.clone(), index: bad, value: log_probs[bad] });
        }
        if *self.judged.get_or_insert(judged.is_some()) != judged.is_some() {
            return Err(RecordError::JudgedHereAndThere(point.clone()));
        }
        if let Some(judged) = judged {
            let queries = self.grid.queries();
            count("judged levels", judged.len(), queries)?;
            let levels = self.grid.levels.len();
            let unknown = |level: &u8| usize::from(*level) >= levels && *level != UNCLEAR;
            if let Some(query) = judged.iter().position(unknown) {
                let (found, highest) = (judged[query], levels - 1);
                return Err(RecordError::UnknownLevel { point: point.clone(), query, found, highest });
            }
            if self.grid.judged.is_empty() {
                self.grid.judged = vec![UNCLEAR; self.grid.points * queries];
            }
            self.grid.judged[index * queries..][..queries].copy_from_slice(judged);
        }
        self.grid.log_probs[index * outputs..][..outputs].copy_from_slice(log_probs);
        self.present[index] = true;
        Ok(())
    }

    /// The whole grid.
    ///
    /// # Errors
    /// When points are missing; the first few are named.
    pub fn build(self) -> Result<RecordedGrid, RecordError> {
        let missing = self.present.iter().filter(|present| !**present).count() as u64;
        if missing > 0 {
            let absent = self.present.iter().enumerate().filter(|(_, present)| !**present);
            let examples: Vec<String> = absent
                .filter_map(|(index, _)| self.grid.space.grid_point(index as u64))
                .take(3)
                .map(|point| format!("({point})"))
                .collect();
            return Err(RecordError::MissingPoints {
                missing,
                wanted: self.grid.points as u64,
                examples: examples.join(", "),
            });
        }
        Ok(self.grid.with_counts())
    }
}

impl RecordedGrid {
    /// A grid of parts whose lengths fit.
    pub(super) fn of_parts(
        space: Space,
        levels: Levels,
        domains: Vec<DomainShape>,
        log_probs: Vec<f32>,
        judged: Vec<u8>,
    ) -> Result<Self, RecordError> {
        let mut grid = GridBuilder::new(space, levels, domains)?.grid;
        (grid.log_probs, grid.judged) = (log_probs, judged);
        Ok(grid.with_counts())
    }

    fn with_counts(mut self) -> Self {
        if self.judged.is_empty() {
            return self;
        }
        let (levels, queries) = (self.levels.len(), self.queries());
        let width = self.domains.len() * levels;
        self.judged_counts = vec![0; self.points * width];
        for (judged, counts) in
            self.judged.chunks_exact(queries).zip(self.judged_counts.chunks_exact_mut(width))
        {
            let mut judged = judged.iter();
            for (domain, shape) in self.domains.iter().enumerate() {
                for level in judged.by_ref().take(shape.queries).filter(|level| **level != UNCLEAR) {
                    counts[domain * levels + usize::from(*level)] += 1;
                }
            }
        }
        self
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The levels.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// The domains with their numbers of search queries.
    pub fn domains(&self) -> &[DomainShape] {
        &self.domains
    }

    /// How many points the grid has.
    pub fn points(&self) -> usize {
        self.points
    }

    /// Queries of all domains.
    pub fn queries(&self) -> usize {
        self.domains.iter().map(|domain| domain.queries).sum()
    }

    /// Log-probabilities of one point.
    pub fn outputs(&self) -> usize {
        self.queries() * self.levels.len()
    }

    /// Whether texts were judged.
    pub fn is_judged(&self) -> bool {
        !self.judged.is_empty()
    }

    /// A point's place in the grid's order; `None` when it is not on the grid.
    pub fn index(&self, point: &Point) -> Option<usize> {
        if !self.space.on_grid(point) {
            return None;
        }
        let axes = self.space.coefficients().iter().zip(point.values());
        Some(axes.fold(0, |index, (coefficient, value)| {
            let range = coefficient.range;
            let place =
                (i64::from(value.get()) - i64::from(range.min().get())) / i64::from(range.step().get());
            index * range.count() as usize + place as usize
        }))
    }

    /// The log-probabilities at a place of the grid's order.
    pub fn log_probs(&self, index: usize) -> &[f32] {
        &self.log_probs[index * self.outputs()..][..self.outputs()]
    }

    /// The judged levels at a place of the grid's order, one per query; `None` where nothing is judged.
    pub fn judged(&self, index: usize) -> Option<&[u8]> {
        self.judged
            .get(index * self.queries()..(index + 1) * self.queries())
            .filter(|judged| !judged.is_empty())
    }

    /// What a search is told of a point; `None` when it is not on the grid.
    pub fn measured<'a>(&'a self, point: &'a Point) -> Option<Measured<'a>> {
        let index = self.index(point)?;
        let width = self.domains.len() * self.levels.len();
        let judged =
            self.judged_counts.get(index * width..(index + 1) * width).filter(|counts| !counts.is_empty());
        Some(Measured { point, log_probs: self.log_probs(index), judged })
    }
}
