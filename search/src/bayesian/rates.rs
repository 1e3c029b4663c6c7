//! Rates at points that are not measured: what a domain's model says of its queries' levels.

use faer::Mat;

use crate::gp::{Gp, Prediction};
use crate::problem::first_largest;

/// A query counts as decided where its margins exceed this many deviations: one in 2,000 is wrong.
const DECIDED: f32 = 3.3;

/// Steps that modelled rates are counted in.
pub(super) const RESOLUTION: u16 = 10_000;

/// Draws of the outputs' deviations, the same at every point: a query's log-probabilities deviate together.
#[derive(Clone, Debug)]
pub(super) struct Draws {
    samples: usize,
    levels: usize,
    queries: usize,
    /// Per query, per level, per sample.
    deviations: Vec<f32>,
    /// Per query, `levels × levels` deviations of differences.
    differences: Vec<f32>,
}

impl Draws {
    /// `normals`: standard normal numbers, one per measured point, for each sample.
    pub(super) fn new(gp: &Gp, levels: usize, normals: &[Vec<f64>]) -> Self {
        let (outputs, samples) = (gp.outputs(), normals.len());
        let mut deviations = vec![0.0; outputs * samples];
        for (sample, normals) in normals.iter().enumerate() {
            for (output, deviation) in gp.draw(normals).into_iter().enumerate() {
                deviations[output * samples + sample] = deviation as f32;
            }
        }
        let queries = outputs / levels;
        let difference = |query: usize, left: usize, right: usize| {
            gp.deviation_of_difference(query * levels + left, query * levels + right) as f32
        };
        let differences = (0..queries)
            .flat_map(|query| (0..levels * levels).map(move |pair| (query, pair / levels, pair % levels)))
            .map(|(query, left, right)| difference(query, left, right))
            .collect();
        Self { samples, levels, queries, deviations, differences }
    }
}

/// Sampled counts of a domain's queries at each level, at some points.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    levels: usize,
    samples: usize,
    queries: f32,
    /// Per point and level: queries that are certainly at the level.
    certain: Vec<u16>,
    /// Per point: what is known beyond that.
    state: Vec<State>,
    /// Blocks of per level, per sample counts.
    sampled: Vec<u16>,
    /// Per point and level: no sample has more.
    most: Vec<u16>,
}

/// What is known of a point's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Every query is decided.
    Decided,
    /// Some are not, and no samples are drawn: only bounds are known.
    Bounded,
    /// Where its samples start.
    Sampled(usize),
}

/// A prediction, packed: a row per point, a column per output.
#[derive(Clone, Debug)]
pub(super) struct Outlook {
    means: Vec<f32>,
    pub(super) deviations: Vec<f32>,
}

impl Outlook {
    pub(super) fn new(prediction: &Prediction) -> Self {
        let deviations = prediction.deviations.iter().map(|deviation| *deviation as f32).collect();
        Self { means: row_major(&prediction.means), deviations }
    }
}

impl Counts {
    /// No points yet; counts stand for rates in steps of 1 / [`RESOLUTION`].
    pub(super) fn of_rates(levels: usize, samples: usize) -> Self {
        Self::empty_of(levels, samples, usize::from(RESOLUTION))
    }

    /// No points yet.
    pub(super) fn empty_of(levels: usize, samples: usize, queries: usize) -> Self {
        Self {
            levels,
            samples,
            queries: queries as f32,
            certain: Vec::new(),
            state: Vec::new(),
            sampled: Vec::new(),
            most: Vec::new(),
        }
    }

    /// Appends a point with samples, per level and sample.
    pub(super) fn push_samples(&mut self, block: &[u16]) {
        for level in block.chunks_exact(self.samples) {
            self.most.push(level.iter().copied().max().unwrap_or(0));
        }
        self.certain.resize(self.most.len(), 0);
        self.state.push(State::Sampled(self.sampled.len()));
        self.sampled.extend_from_slice(block);
    }

    /// Appends the points of another one.
    pub(super) fn append(&mut self, other: Self) {
        let offset = self.sampled.len();
        self.state.extend(other.state.into_iter().map(|state| match state {
            State::Sampled(start) => State::Sampled(start + offset),
            other => other,
        }));
        self.certain.extend(other.certain);
        self.sampled.extend(other.sampled);
        self.most.extend(other.most);
    }

    /// No points yet, for draws of a domain's queries.
    pub(super) fn empty(draws: &Draws) -> Self {
        Self::empty_of(draws.levels, draws.samples, draws.queries)
    }

    /// Appends a prediction's points, with bounds of their counts. `boldness` widens the deviations.
    pub(super) fn add(&mut self, outlook: &Outlook, draws: &Draws, boldness: f32) {
        let rows = outlook.means.chunks_exact(draws.queries * draws.levels);
        for (row, deviation) in rows.zip(&outlook.deviations) {
            self.bound(row, deviation * boldness, draws);
        }
    }

    fn bound(&mut self, means: &[f32], deviation: f32, draws: &Draws) {
        let levels = self.levels;
        let first = self.certain.len();
        self.certain.resize(first + levels, 0);
        self.most.resize(first + levels, 0);
        let (certain, most) = (&mut self.certain[first..], &mut self.most[first..]);
        let mut decided_everywhere = true;
        for_each_query(means, draws, |_, best, scores, reaches| {
            // The level's own reach is zero and its margin too: it stays within reach.
            let mut decided = true;
            for (level, (score, reach)) in scores.iter().zip(reaches).enumerate() {
                let within = scores[best] - score <= DECIDED * deviation * reach;
                most[level] += u16::from(within);
                decided &= !within || level == best;
            }
            certain[best] += u16::from(decided);
            decided_everywhere &= decided;
        });
        self.state.push(if decided_everywhere { State::Decided } else { State::Bounded });
    }

    /// Draws the samples of a point that only has bounds; `row` is its place in the outlook.
    pub(super) fn sample(
        &mut self,
        point: usize,
        outlook: &Outlook,
        row: usize,
        draws: &Draws,
        boldness: f32,
    ) {
        if self.state[point] != State::Bounded {
            return;
        }
        let (levels, samples) = (self.levels, self.samples);
        let (outputs, deviation) = (draws.queries * levels, outlook.deviations[row] * boldness);
        let start = self.sampled.len();
        for count in &self.certain[point * levels..][..levels] {
            self.sampled.extend(std::iter::repeat_n(*count, samples));
        }
        let block = &mut self.sampled[start..];
        let mut drawn_levels = vec![(0u16, 0.0f32); samples];
        for_each_query(&outlook.means[row * outputs..][..outputs], draws, |query, best, scores, reaches| {
            let mut others = scores.iter().zip(reaches).enumerate().filter(|(level, _)| *level != best);
            if others.all(|(_, (score, reach))| scores[best] - score > DECIDED * deviation * reach) {
                return;
            }
            let drawn = &draws.deviations[query * levels * samples..][..levels * samples];
            drawn_levels.fill((0, f32::NEG_INFINITY));
            for (level, (score, drawn)) in scores.iter().zip(drawn.chunks_exact(samples)).enumerate() {
                for (highest, drawn) in drawn_levels.iter_mut().zip(drawn) {
                    let value = score + deviation * drawn;
                    if value > highest.1 {
                        *highest = (level as u16, value);
                    }
                }
            }
            for (sample, (level, _)) in drawn_levels.iter().enumerate() {
                block[usize::from(*level) * samples + sample] += 1;
            }
        });
        for (level, counts) in block.chunks_exact(samples).enumerate() {
            self.most[point * levels + level] = counts.iter().copied().max().unwrap_or(0);
        }
        self.state[point] = State::Sampled(start);
    }

    /// How many points there are.
    pub(super) fn points(&self) -> usize {
        self.state.len()
    }

    /// How many samples.
    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    /// No sample of a level's rate at a point is above this.
    pub(super) fn highest(&self, point: usize, level: usize) -> f32 {
        f32::from(self.most[point * self.levels + level]) / self.queries
    }

    /// The level's rate at a point in every sample, handed to `with` one by one; where no samples are drawn, the rate of
    /// what is certain.
    pub(super) fn each_sample(&self, point: usize, level: usize, mut with: impl FnMut(usize, f32)) {
        let scale = 1.0 / self.queries;
        match self.state[point] {
            State::Sampled(start) => {
                let block = &self.sampled[start + level * self.samples..][..self.samples];
                block.iter().enumerate().for_each(|(sample, count)| with(sample, f32::from(*count) * scale));
            }
            State::Decided | State::Bounded => {
                let rate = f32::from(self.certain[point * self.levels + level]) * scale;
                (0..self.samples).for_each(|sample| with(sample, rate));
            }
        }
    }
}

/// Hands over every query's number, most probable level, scores, and deviations of that level's differences.
fn for_each_query(means: &[f32], draws: &Draws, mut with: impl FnMut(usize, usize, &[f32], &[f32])) {
    let levels = draws.levels;
    let queries = means.chunks_exact(levels).zip(draws.differences.chunks_exact(levels * levels));
    for (query, (scores, differences)) in queries.enumerate() {
        let best = first_largest(scores);
        with(query, best, scores, &differences[best * levels..][..levels]);
    }
}

/// A matrix's rows one after another.
fn row_major(matrix: &Mat<f64>) -> Vec<f32> {
    let (rows, columns) = (matrix.nrows(), matrix.ncols());
    let mut flat = vec![0.0; rows * columns];
    for column in 0..columns {
        for (row, value) in matrix.col_as_slice(column).iter().enumerate() {
            flat[row * columns + column] = *value as f32;
        }
    }
    flat
}
