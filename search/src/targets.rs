//! The targets of a sweep, where they can be counted.

pub use avsweep_domain::MAX_TARGETS;
use avsweep_domain::{SweepDefinition, Target};

/// Every target of a sweep: a level for every domain; `None` when there are more than [`MAX_TARGETS`].
pub fn all_targets(definition: &SweepDefinition) -> Option<Vec<Target>> {
    let domains = u32::try_from(definition.domains.len()).ok()?;
    let count = definition.levels.len().checked_pow(domains)?;
    (count <= MAX_TARGETS).then(|| definition.all_targets())
}
