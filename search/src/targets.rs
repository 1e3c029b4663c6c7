//! The targets of a sweep, where they can be counted.

use avsweep_domain::{SweepDefinition, Target};

/// With more targets than this, ranking them all would take longer than it is worth (10 domains of 3 levels make 59,049).
pub const MAX_TARGETS: usize = 10_000;

/// Every target of a sweep: a level for every domain; `None` when there are more than [`MAX_TARGETS`].
pub fn all_targets(definition: &SweepDefinition) -> Option<Vec<Target>> {
    let domains = u32::try_from(definition.domains.len()).ok()?;
    let count = definition.levels.len().checked_pow(domains)?;
    (count <= MAX_TARGETS).then(|| definition.all_targets())
}
