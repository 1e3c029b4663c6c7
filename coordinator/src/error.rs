//! Why a use case failed.

use avsweep_domain::{SpaceError, SweepState};
use avsweep_search::SearchError;
use avsweep_store::StoreError;

/// A use case's refusal or failure. Nothing has changed when one is returned.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A target cannot be ranked.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// A point that is not of the sweep's space.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A query that the sweep does not have.
    #[error("query number {found}; sweep '{sweep}' has {queries} queries, counted from 0")]
    NoSuchQuery {
        /// The sweep's name.
        sweep: String,
        /// The ordinal found.
        found: u32,
        /// How many queries there are.
        queries: u32,
    },
    /// A sample needs work that the sweep's state does not allow.
    #[error(
        "sweep '{sweep}' is {state}: the sample needs queries to be run, and a sweep that is {state} runs none"
    )]
    NotRunning {
        /// The sweep's name.
        sweep: String,
        /// Its state.
        state: SweepState,
    },
    /// "All targets" of a sweep with very many.
    #[error(
        "sweep '{sweep}' has {domains} domains of {levels} levels: more than {limit} targets; name those wanted"
    )]
    TooManyTargets {
        /// The sweep's name.
        sweep: String,
        /// How many domains.
        domains: usize,
        /// How many levels.
        levels: usize,
        /// The most targets answered at once.
        limit: usize,
    },
    /// Points are to be ranked by judgements that the sweep never makes.
    #[error(
        "sweep '{sweep}' cannot rank points by judgement: that takes judged responses to all search queries of a \
         point, and its evaluation judges {judged}; a sweep with 'generation: all' judges them at every point"
    )]
    NotJudged {
        /// The sweep's name.
        sweep: String,
        /// What it judges.
        judged: &'static str,
    },
    /// The coordinator is shutting down and hands out nothing more.
    #[error("the coordinator is shutting down")]
    ShuttingDown,
}

/// An error with its causes in one line; a cause that the text above it tells already is left out.
pub fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
