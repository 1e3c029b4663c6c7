//! Strategies with their settings.

use avsweep_domain::{BayesianSettings, HierarchicalSettings, SequenceSettings, Strategy};

use super::{all, required};
use crate::{ConvertError, WireEnum as _, v1};

impl From<&Strategy> for v1::Strategy {
    fn from(strategy: &Strategy) -> Self {
        use v1::strategy::Kind;
        Self {
            kind: Some(match strategy {
                Strategy::Grid => Kind::Grid(v1::GridStrategy {}),
                Strategy::Hierarchical(settings) => Kind::Hierarchical(settings.into()),
                Strategy::Bayesian(settings) => Kind::Bayesian(settings.into()),
                Strategy::Random(settings) => Kind::Random(settings.into()),
                Strategy::Sobol(settings) => Kind::Sobol(settings.into()),
            }),
        }
    }
}

/// Whether the settings fit a sweep is checked with its definition.
impl TryFrom<v1::Strategy> for Strategy {
    type Error = ConvertError;

    fn try_from(wire: v1::Strategy) -> Result<Self, ConvertError> {
        use v1::strategy::Kind;
        Ok(match required("Strategy", "kind", wire.kind)? {
            Kind::Grid(v1::GridStrategy {}) => Self::Grid,
            Kind::Hierarchical(settings) => Self::Hierarchical(settings.into()),
            Kind::Bayesian(settings) => Self::Bayesian(settings.try_into()?),
            Kind::Random(settings) => Self::Random(settings.into()),
            Kind::Sobol(settings) => Self::Sobol(settings.into()),
        })
    }
}

impl From<&HierarchicalSettings> for v1::HierarchicalStrategy {
    fn from(settings: &HierarchicalSettings) -> Self {
        let HierarchicalSettings { levels, factor, width, leaders, finer, budget } = *settings;
        Self { levels, factor, width, leaders, finer, budget }
    }
}

impl From<v1::HierarchicalStrategy> for HierarchicalSettings {
    fn from(wire: v1::HierarchicalStrategy) -> Self {
        let v1::HierarchicalStrategy { levels, factor, width, leaders, finer, budget } = wire;
        Self { levels, factor, width, leaders, finer, budget }
    }
}

impl From<&BayesianSettings> for v1::BayesianStrategy {
    fn from(settings: &BayesianSettings) -> Self {
        let BayesianSettings { budget, initial, min_gain, aggregate, targets, seed } = settings;
        Self {
            budget: *budget,
            initial: *initial,
            min_gain: *min_gain,
            aggregate: v1::Aggregate::from(*aggregate).into(),
            targets: targets.iter().map(Into::into).collect(),
            seed: *seed,
        }
    }
}

impl TryFrom<v1::BayesianStrategy> for BayesianSettings {
    type Error = ConvertError;

    fn try_from(wire: v1::BayesianStrategy) -> Result<Self, ConvertError> {
        Ok(Self {
            budget: wire.budget,
            initial: wire.initial,
            min_gain: wire.min_gain,
            aggregate: v1::Aggregate::read("BayesianStrategy", "aggregate", wire.aggregate)?,
            targets: all(wire.targets)?,
            seed: wire.seed,
        })
    }
}

impl From<&SequenceSettings> for v1::SequenceStrategy {
    fn from(settings: &SequenceSettings) -> Self {
        let SequenceSettings { budget, seed } = *settings;
        Self { budget, seed }
    }
}

impl From<v1::SequenceStrategy> for SequenceSettings {
    fn from(wire: v1::SequenceStrategy) -> Self {
        let v1::SequenceStrategy { budget, seed } = wire;
        Self { budget, seed }
    }
}
