//! The strategy that a command line or a file names.

use anyhow::{Context as _, Result, bail, ensure};
use avsweep_domain::{Strategy, Target};
use avsweep_search::record::RecordedGrid;
use serde_json::{Map, Value};

use crate::arguments::{ReplayArguments, StrategyArgument};
use crate::output::in_one_line;
use crate::sweep_file::read_strategy;
use crate::usage::UsageError;

/// The budget of a sequence, which has none of its own.
const SEQUENCE_BUDGET: u32 = 200;

/// The strategy asked for.
///
/// # Errors
/// When the file is none of a strategy, a setting is none of the strategy's, or it does not fit the grid.
pub(super) fn strategy(arguments: &ReplayArguments, grid: &RecordedGrid) -> Result<Strategy> {
    let flags = &arguments.strategy;
    let Some(path) = &flags.strategy_file else {
        let kind = flags.strategy.context("no strategy is named")?;
        let settings = Map::from_iter([("kind".to_owned(), kind_name(kind).into())]);
        return checked(settings, &format!("--strategy {}", kind_name(kind)), arguments, grid)
            .map_err(|error| UsageError::new(in_one_line(&error)).into());
    };
    let origin = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("{origin}: cannot be read"))?;
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("{origin}: not valid YAML"))?;
    let Value::Object(settings) = value else {
        bail!("{origin}: no strategy is found; something like {{kind: bayesian, budget: 81}} is wanted");
    };
    checked(settings, &origin, arguments, grid)
}

/// The strategy with these settings and those of the command line.
fn checked(
    mut settings: Map<String, Value>,
    origin: &str,
    arguments: &ReplayArguments,
    grid: &RecordedGrid,
) -> Result<Strategy> {
    settings.extend(given(arguments));
    let kind = settings.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    match kind.as_str() {
        "random" | "sobol" => {
            settings.entry("budget").or_insert_with(|| SEQUENCE_BUDGET.into());
        }
        "bayesian" => {
            if let Some(aggregate) = arguments.aggregate {
                settings.insert("aggregate".to_owned(), aggregate.to_string().into());
            }
            if !arguments.targets.is_empty() {
                settings.insert("targets".to_owned(), arguments.targets.clone().into());
            }
        }
        _ => {}
    }
    let strategy = read_strategy(Value::Object(settings), origin, &domain_names(grid), grid.levels())?;
    if let Strategy::Hierarchical(settings) = &strategy {
        ensure!(
            settings.finer == 0,
            "{origin}: finer is {}; points between the recorded grid's cannot be replayed, 0 is wanted",
            settings.finer
        );
    }
    strategy
        .check(grid.space(), grid.domains().len(), grid.levels().len())
        .with_context(|| origin.to_owned())?;
    Ok(strategy)
}

/// Targets by their texts.
///
/// # Errors
/// When one names an unknown domain or level, or leaves a domain out.
pub(super) fn targets(texts: &[String], grid: &RecordedGrid) -> Result<Vec<Target>> {
    let domains = domain_names(grid);
    texts
        .iter()
        .map(|text| Target::parse(text, &domains, grid.levels()).map_err(UsageError::from_error))
        .collect()
}

fn domain_names(grid: &RecordedGrid) -> Vec<&str> {
    grid.domains().iter().map(|domain| domain.name.as_str()).collect()
}

/// How many evaluations a strategy may take, where it says so.
pub(super) fn budget(strategy: &Strategy) -> Option<u64> {
    match strategy {
        Strategy::Grid => None,
        Strategy::Hierarchical(settings) => settings.budget.map(u64::from),
        Strategy::Bayesian(settings) => Some(settings.budget.into()),
        Strategy::Random(settings) | Strategy::Sobol(settings) => Some(settings.budget.into()),
    }
}

/// A strategy's seed; 0 where chance plays no part in it.
pub(super) fn seed(strategy: &Strategy) -> u64 {
    match strategy {
        Strategy::Grid | Strategy::Hierarchical(_) => 0,
        Strategy::Bayesian(settings) => settings.seed,
        Strategy::Random(settings) | Strategy::Sobol(settings) => settings.seed,
    }
}

/// The strategy with another seed.
pub(super) fn with_seed(mut strategy: Strategy, seed: u64) -> Strategy {
    match &mut strategy {
        Strategy::Grid | Strategy::Hierarchical(_) => {}
        Strategy::Bayesian(settings) => settings.seed = seed,
        Strategy::Random(settings) | Strategy::Sobol(settings) => settings.seed = seed,
    }
    strategy
}

fn kind_name(strategy: StrategyArgument) -> &'static str {
    match strategy {
        StrategyArgument::Bayesian => "bayesian",
        StrategyArgument::Hierarchical => "hierarchical",
        StrategyArgument::Random => "random",
        StrategyArgument::Sobol => "sobol",
        StrategyArgument::Grid => "grid",
    }
}

/// The settings on the command line.
fn given(arguments: &ReplayArguments) -> impl Iterator<Item = (String, Value)> {
    let flags = &arguments.strategy;
    let settings: [(&str, Option<Value>); 8] = [
        ("budget", flags.budget.map(Value::from)),
        ("seed", flags.seed.map(Value::from)),
        ("initial", flags.initial.map(Value::from)),
        ("min_gain", flags.min_gain.map(Value::from)),
        ("levels", flags.levels.map(Value::from)),
        ("factor", flags.factor.map(Value::from)),
        ("width", flags.width.map(Value::from)),
        ("leaders", flags.leaders.map(Value::from)),
    ];
    settings.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)))
}
