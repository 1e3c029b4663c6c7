//! The strategy of a sweep file, with the settings of its kind.

use anyhow::{Context as _, Result, bail};
use avsweep_domain::{
    Aggregate, BayesianSettings, HierarchicalSettings, Levels, SequenceSettings, Strategy, Target,
};

use super::check;
use super::raw::{RawAggregate, RawStrategy, RawStrategyKind};

/// A strategy that is written as in a sweep file, its settings unchecked; `origin` names it in errors.
///
/// # Errors
/// When a key is unknown or a value of the wrong form, and as in a sweep file.
pub(crate) fn read_strategy(
    value: serde_json::Value,
    origin: &str,
    domains: &[&str],
    levels: &Levels,
) -> Result<Strategy> {
    let raw = check::strategy(value, origin)?;
    strategy(&raw, domains, levels).with_context(|| origin.to_owned())
}

/// The strategy that a sweep file asks for, its settings unchecked.
///
/// # Errors
/// When a setting belongs to another kind, one that must be there is not, or a target is none of the sweep's.
pub(super) fn strategy(raw: &RawStrategy, domains: &[&str], levels: &Levels) -> Result<Strategy> {
    use RawStrategyKind::{Bayesian, Grid, Hierarchical, Random, Sobol};
    refuse_foreign(
        raw,
        &[
            ("budget", raw.budget.is_some(), &[Hierarchical, Bayesian, Random, Sobol]),
            ("seed", raw.seed.is_some(), &[Bayesian, Random, Sobol]),
            ("initial", raw.initial.is_some(), &[Bayesian]),
            ("min_gain", raw.min_gain.is_some(), &[Bayesian]),
            ("aggregate", raw.aggregate.is_some(), &[Bayesian]),
            ("targets", raw.targets.is_some(), &[Bayesian]),
            ("levels", raw.levels.is_some(), &[Hierarchical]),
            ("factor", raw.factor.is_some(), &[Hierarchical]),
            ("width", raw.width.is_some(), &[Hierarchical]),
            ("leaders", raw.leaders.is_some(), &[Hierarchical]),
            ("finer", raw.finer.is_some(), &[Hierarchical]),
        ],
    )?;
    Ok(match raw.kind {
        Grid => Strategy::Grid,
        Hierarchical => {
            let usual = HierarchicalSettings::default();
            Strategy::Hierarchical(HierarchicalSettings {
                levels: raw.levels,
                factor: raw.factor.unwrap_or(usual.factor),
                width: raw.width.unwrap_or(usual.width),
                leaders: raw.leaders.unwrap_or(usual.leaders),
                finer: raw.finer.unwrap_or(usual.finer),
                budget: raw.budget,
            })
        }
        Bayesian => {
            let usual = BayesianSettings::default();
            let targets = raw.targets.iter().flatten().enumerate().map(|(index, text)| {
                Target::parse(text, domains, levels).with_context(|| format!("targets[{index}]: '{text}'"))
            });
            Strategy::Bayesian(BayesianSettings {
                budget: raw.budget.unwrap_or(usual.budget),
                initial: raw.initial,
                min_gain: raw.min_gain.unwrap_or(usual.min_gain),
                aggregate: raw.aggregate.map_or(usual.aggregate, aggregate),
                targets: targets.collect::<Result<_>>()?,
                seed: raw.seed.unwrap_or(usual.seed),
            })
        }
        Random => Strategy::Random(sequence(raw)?),
        Sobol => Strategy::Sobol(sequence(raw)?),
    })
}

fn sequence(raw: &RawStrategy) -> Result<SequenceSettings> {
    let budget = raw
        .budget
        .with_context(|| format!("'budget' is missing: {} needs the number of points", name(raw.kind)))?;
    Ok(SequenceSettings { budget, seed: raw.seed.unwrap_or(0) })
}

/// Refuses the first setting given that is none of the kind's.
fn refuse_foreign(raw: &RawStrategy, settings: &[(&str, bool, &[RawStrategyKind])]) -> Result<()> {
    let mut foreign = settings.iter().filter(|(_, given, kinds)| *given && !kinds.contains(&raw.kind));
    let Some((key, _, kinds)) = foreign.next() else {
        return Ok(());
    };
    let owners: Vec<_> = kinds.iter().map(|kind| name(*kind)).collect();
    bail!("'{key}' belongs to {}; the kind is {}", owners.join(", "), name(raw.kind));
}

fn name(kind: RawStrategyKind) -> &'static str {
    match kind {
        RawStrategyKind::Grid => "grid",
        RawStrategyKind::Hierarchical => "hierarchical",
        RawStrategyKind::Bayesian => "bayesian",
        RawStrategyKind::Random => "random",
        RawStrategyKind::Sobol => "sobol",
    }
}

fn aggregate(raw: RawAggregate) -> Aggregate {
    match raw {
        RawAggregate::Min => Aggregate::Min,
        RawAggregate::Mean => Aggregate::Mean,
        RawAggregate::Product => Aggregate::Product,
    }
}
