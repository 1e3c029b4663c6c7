//! The words of avsweep and their laws.
//!
//! Ticks, points, coefficients, levels, queries, targets, rates, jobs and sweeps as values that cannot be wrong
//! once they exist. No I/O, no async, no clock: everything here is a function of its arguments.

mod aggregate;
mod coefficient;
mod definition;
mod fingerprint;
mod identifier;
mod job;
mod ladder;
mod level;
mod point;
mod query;
mod racing;
mod rate;
mod result;
mod space;
mod strategy;
mod sweep;
mod tally;
mod target;
mod ticks;

pub use aggregate::Aggregate;
pub use coefficient::{Coefficient, Range, RangeError};
pub use definition::{
    Coverage, DecodeSettings, DefinitionError, DomainDefinition, Dtype, Evaluation, JudgeProvider,
    JudgeSettings, ModelSource, QueryEntry, SweepDefinition, VectorSource,
};
pub use fingerprint::{Fingerprint, FingerprintBuilder, FingerprintError};
pub use identifier::{JobId, LeaseToken, LeaseTokenError, PointId, SweepId, WorkerId};
pub use job::{FailureLimits, JobState, QuerySet, QuerySlice, Rung};
pub use ladder::Ladder;
pub use level::{Level, Levels, LevelsError};
pub use point::{Point, PointError};
pub use query::{Message, Query, QueryError, Role};
pub use racing::{MAX_TARGETS, Racing, RacingProblem};
pub use rate::{Interval, LevelRate, wilson_interval};
pub use result::{FinishReason, Label, Normalisation, QueryScore, ReferenceScore, Response, Verdict};
pub use space::{GridPoints, Space, SpaceError};
pub use strategy::{BayesianSettings, HierarchicalSettings, SequenceSettings, Strategy, StrategyError};
pub use sweep::{SweepState, TransitionError};
pub use tally::{JudgementTally, LikelihoodTally, PointTallies, Reading, SetTallies};
pub use target::{Target, TargetError, Wanted};
pub use ticks::{TICKS_PER_UNIT, Ticks, TicksError};

/// The name of `name`'s nearest neighbour among `known`, for "did you mean" hints; `None` when nothing is near.
///
/// Distance is Damerau–Levenshtein-free plain Levenshtein; a hint is given up to a third of the name's length
/// (at least 2 edits).
pub fn nearest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|candidate| (strsim::levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}
